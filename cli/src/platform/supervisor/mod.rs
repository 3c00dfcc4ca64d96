//! Keeps processes running: starts them, sees when they are ready, restarts what dies with backoff, and stops them.
//!
//! A supervisor has a runtime of its own, so its handles work from any runtime and thread, and a test's end does not end what it
//! shares with others. It deliberately knows nothing of what the processes are: see `servers` and `deployment`.

mod keeper;
mod left_behind;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use self::keeper::Keeper;
use super::process::{Signal, Spec, log_tail};
use super::watcher::Watcher;

pub(super) use left_behind::{end_left_behind, pause};

/// How long a killed process may take to be reaped.
const KILL_WITHIN: Duration = Duration::from_secs(5);
/// Commands to one process that may wait: a person's or a test's, one at a time.
const COMMANDS_MAX: usize = 16;

/// Starts processes and ends them when it is dropped.
pub struct Supervisor {
    runtime: Option<tokio::runtime::Runtime>,
    watcher: Arc<Watcher>,
    changed: watch::Sender<()>,
}

/// A handle on one supervised process; clones are the same process.
#[derive(Clone)]
pub struct Process {
    spec: Arc<Spec>,
    state: watch::Receiver<State>,
    commands: mpsc::Sender<Command>,
}

/// What is known of a process at a moment.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The running process, `None` between two.
    pub pid: Option<u32>,
    /// Whether it serves.
    pub ready: bool,
    /// Starts so far.
    pub starts: u32,
    /// Whether it was given up or stopped: it will not start by itself again.
    pub ended: bool,
    /// What it says of itself once ready.
    pub status: Status,
    /// How the last run ended.
    pub last_exit: Option<String>,
}

/// What a process says of itself in its status file.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// Its own number.
    pub pid: Option<u32>,
    /// Where it answers users; the gateway's own port.
    pub url: Option<String>,
    /// Where its metrics and health are.
    pub admin_url: Option<String>,
}

#[derive(Clone, Copy, Debug)]
enum Command {
    Signal(Signal),
    Start,
    Stop,
    Kill,
}

impl Supervisor {
    /// Starts a supervisor without processes. `remove` is a folder to remove when this process ends, however it ends.
    ///
    /// # Errors
    /// When no shell can be started.
    pub fn start(remove: Option<&Path>) -> Result<Self> {
        let watcher = Arc::new(Watcher::start(remove)?);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("supervisor")
            .enable_all()
            .build()
            .context("starting the supervisor's thread")?;
        Ok(Self { runtime: Some(runtime), watcher, changed: watch::Sender::default() })
    }

    /// Starts a process and keeps it running until it is stopped.
    pub fn spawn(&self, spec: Spec) -> Process {
        let spec = Arc::new(spec);
        let (commands, received) = mpsc::channel(COMMANDS_MAX);
        let (state_sender, state) = watch::channel(State::default());
        let keeper = Keeper {
            spec: Arc::clone(&spec),
            state: state_sender,
            commands: received,
            watcher: Arc::clone(&self.watcher),
            pid_file: spec.run_folder.join(format!("{}-{}.pid", spec.name, spec.instance)),
            changed: self.changed.clone(),
        };
        self.runtime.as_ref().expect("present until dropped").handle().spawn(keeper.run());
        Process { spec, state, commands }
    }
}

impl Supervisor {
    /// Told whenever anything changes with any of its processes.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

impl Drop for Supervisor {
    /// Ends what still runs, bounded by the companion's patience of five seconds.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        self.watcher.release();
    }
}

impl Process {
    /// What the process is.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// What is known now.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Follows every change.
    pub fn changes(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Waits until the process is ready.
    ///
    /// # Errors
    /// When it was given up, with the end of its log, or is not ready `within` the time.
    pub async fn ready(&self, within: Duration) -> Result<State> {
        let mut state = self.state.clone();
        let waiting = state.wait_for(|state| state.ready || state.ended);
        match timeout(within, waiting).await {
            Ok(Ok(state)) if state.ready => Ok(state.clone()),
            Ok(_) => Err(self.failure("ended before it was ready")),
            Err(_) => Err(self.failure(&format!("was not ready within {} s", within.as_secs_f32()))),
        }
    }

    /// Sends a signal to the running process; the supervisor still restarts it if it ends of it.
    ///
    /// # Errors
    /// When nothing runs at the moment.
    pub async fn signal(&self, signal: Signal) -> Result<()> {
        if self.state().pid.is_none() {
            bail!("{} {} is not running", self.spec.name, self.spec.instance);
        }
        self.send(Command::Signal(signal)).await
    }

    /// Asks the process to end, waits as long as its spec allows, then kills it. It stays down until [`Process::start`].
    ///
    /// # Errors
    /// When it could not even be killed.
    pub async fn stop(&self) -> Result<()> {
        self.end(Command::Stop, self.spec.stop_within + 2 * KILL_WITHIN).await
    }

    /// Kills the process at once. It stays down until [`Process::start`].
    ///
    /// # Errors
    /// When it could not be killed.
    pub async fn kill(&self) -> Result<()> {
        self.end(Command::Kill, 2 * KILL_WITHIN).await
    }

    /// Starts a stopped or given-up process again.
    ///
    /// # Errors
    /// When its supervisor is gone.
    pub async fn start(&self) -> Result<()> {
        let starts = self.state().starts;
        self.send(Command::Start).await?;
        let mut state = self.state.clone();
        state.wait_for(|state| !state.ended || state.starts > starts).await.context("the supervisor is gone")?;
        Ok(())
    }

    async fn end(&self, command: Command, within: Duration) -> Result<()> {
        let mut state = self.state.clone();
        if state.borrow().ended {
            return Ok(());
        }
        self.send(command).await?;
        match timeout(within, state.wait_for(|state| state.ended)).await {
            Ok(_ended_or_supervisor_gone) => Ok(()),
            Err(_) => bail!("{} {} could not be stopped", self.spec.name, self.spec.instance),
        }
    }

    async fn send(&self, command: Command) -> Result<()> {
        self.commands.send(command).await.map_err(|_| anyhow!("the supervisor of {} is gone", self.spec.name))
    }

    fn failure(&self, what: &str) -> anyhow::Error {
        let exit = self.state().last_exit.map(|exit| format!(" ({exit})")).unwrap_or_default();
        let tail = log_tail(&self.spec.log, 15);
        anyhow!(
            "{} {} {what}{exit}; the end of {}:\n{tail}",
            self.spec.name,
            self.spec.instance,
            self.spec.log.display()
        )
    }
}
