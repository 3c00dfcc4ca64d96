//! Keeps processes running: starts them, sees when they are ready, restarts what dies with backoff, and stops them.
//!
//! A supervisor has a runtime of its own, so its handles work from any runtime and thread, and a test's end does not end what it
//! shares with others. It deliberately knows nothing of what the processes are: see `servers` and `deployment`.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::process::{Readiness, Spec, kill_group, log_tail, signal, signal_name, start_time};
use super::watcher::Watcher;

/// The first wait before a restart; it doubles from there.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest wait before a restart: within the 10 s in which the platform serves again after a kill.
const BACKOFF_MAX: Duration = Duration::from_secs(3);
/// A process that has run this long starts with the first wait again.
const BACKOFF_RESET: Duration = Duration::from_secs(10);
/// Between two looks at whether a process is ready.
const READINESS_INTERVAL: Duration = Duration::from_millis(10);
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

/// The task behind one [`Process`].
struct Keeper {
    spec: Arc<Spec>,
    state: watch::Sender<State>,
    commands: mpsc::Receiver<Command>,
    watcher: Arc<Watcher>,
    pid_file: PathBuf,
    changed: watch::Sender<()>,
}

/// What is to happen after a run.
#[derive(PartialEq)]
enum After {
    Restart,
    StayDown,
}

impl Keeper {
    async fn run(mut self) {
        let mut backoff = BACKOFF_FIRST;
        let mut ready_once = false;
        let mut failed_first_starts = 0;
        loop {
            let started = Instant::now();
            let after = match self.run_once().await {
                Ok(after) => after,
                Err(error) => {
                    self.state.send_modify(|state| state.last_exit = Some(format!("{error:#}")));
                    After::Restart
                }
            };
            ready_once |= self.state.borrow().ready;
            self.update(|state| {
                state.pid = None;
                state.ready = false;
                state.status = Status::default();
            });
            if !ready_once {
                failed_first_starts += 1;
            }
            let given_up = !ready_once && failed_first_starts >= self.spec.first_starts_max;
            if after == After::StayDown || !self.spec.restart || given_up {
                self.update(|state| state.ended = true);
                if !self.started_again().await {
                    return;
                }
                backoff = BACKOFF_FIRST;
                failed_first_starts = 0;
                continue;
            }
            if started.elapsed() > BACKOFF_RESET {
                backoff = BACKOFF_FIRST;
            }
            let exit = self.state.borrow().last_exit.clone().unwrap_or_default();
            tracing::warn!(
                process = self.spec.name,
                instance = self.spec.instance,
                exit,
                wait_ms = u64::try_from(backoff.as_millis()).unwrap_or(u64::MAX),
                "a process ended and is started again"
            );
            if self.stopped_while_waiting(backoff).await {
                self.update(|state| state.ended = true);
                if !self.started_again().await {
                    return;
                }
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(change);
        self.changed.send_replace(());
    }

    /// Waits for [`Command::Start`]; `false` when nobody can send it any more.
    async fn started_again(&mut self) -> bool {
        loop {
            match self.commands.recv().await {
                Some(Command::Start) => {
                    self.update(|state| state.ended = false);
                    return true;
                }
                Some(_nothing_runs) => {}
                None => return false,
            }
        }
    }

    async fn stopped_while_waiting(&mut self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        loop {
            tokio::select! {
                () = sleep_until(until) => return false,
                command = self.commands.recv() => match command {
                    Some(Command::Stop | Command::Kill) => return true,
                    Some(Command::Start | Command::Signal(_)) => {}
                    // Every handle is gone: the process goes on unwatched by anyone but us.
                    None => { sleep_until(until).await; return false }
                },
            }
        }
    }

    /// One life of the process, from start to reaping.
    async fn run_once(&mut self) -> Result<After> {
        if let Readiness::StatusFile(path) = &self.spec.readiness {
            let _absent_is_fine = std::fs::remove_file(path);
        }
        let mut child = self.spec.spawn()?;
        let pid = child.id().context("a process that was just started has a number")?;
        self.watcher.add(pid, self.spec.stop_signal);
        let note = format!("{pid} {} {}\n", signal_name(self.spec.stop_signal), start_time(pid).unwrap_or_default());
        if let Err(error) = std::fs::write(&self.pid_file, note) {
            tracing::warn!(%error, file = %self.pid_file.display(), "recording a process");
        }
        self.update(|state| {
            state.pid = Some(pid);
            state.ready = false;
            state.starts += 1;
        });

        let mut after = After::Restart;
        let mut deadline: Option<Instant> = None;
        let mut listening = true;
        let readiness = self.spec.readiness.clone();
        let status = ready(&readiness, pid);
        tokio::pin!(status);
        let mut is_ready = false;
        let exit = loop {
            tokio::select! {
                exit = child.wait() => break exit.context("waiting for a process")?,
                status = &mut status, if !is_ready => {
                    is_ready = true;
                    self.update(|state| {
                        state.ready = true;
                        state.status = status;
                    });
                }
                command = self.commands.recv(), if listening => match command {
                    Some(Command::Signal(number)) => signal(pid, number),
                    Some(Command::Stop) => {
                        after = After::StayDown;
                        signal(pid, self.spec.stop_signal);
                        deadline.get_or_insert(Instant::now() + self.spec.stop_within);
                    }
                    Some(Command::Kill) => {
                        after = After::StayDown;
                        kill_group(pid);
                    }
                    Some(Command::Start) => {}
                    None => listening = false,
                },
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    tracing::warn!(process = self.spec.name, "a process did not end in time and is killed");
                    deadline = None;
                    kill_group(pid);
                }
            }
        };
        self.watcher.remove(pid);
        let _absent_is_fine = std::fs::remove_file(&self.pid_file);
        self.state.send_modify(|state| state.last_exit = Some(describe(exit)));
        Ok(after)
    }
}

/// Resolves once the process serves.
async fn ready(readiness: &Readiness, pid: u32) -> Status {
    loop {
        match readiness {
            Readiness::StatusFile(path) => {
                let status = std::fs::read(path).ok().and_then(|text| serde_json::from_slice::<Status>(&text).ok());
                if let Some(status) = status
                    && status.pid == Some(pid)
                {
                    return status;
                }
            }
            Readiness::Probe(probe) => {
                if probe().await {
                    return Status::default();
                }
            }
        }
        sleep(READINESS_INTERVAL).await;
    }
}

fn describe(exit: ExitStatus) -> String {
    exit.to_string()
}

/// Ends the processes that a supervisor noted in `run_folder` and that outlived it because its companion was killed too. They are
/// recognised by number and start time. The caller holds the lock of the data folder, so no supervisor of them is alive.
pub(super) fn end_left_behind(run_folder: &Path) -> Result<()> {
    let mut left = Vec::new();
    for entry in std::fs::read_dir(run_folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "pid") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let mut words = text.trim().splitn(3, ' ');
        if let (Some(pid), Some(name), Some(started)) = (words.next(), words.next(), words.next())
            && let Ok(pid) = pid.parse::<u32>()
            && start_time(pid).is_some_and(|now| now == started)
        {
            tracing::warn!(pid, file = %path.display(), "ending a process that an earlier start left behind");
            signal(pid, if name == signal_name(Signal::INT) { Signal::INT } else { Signal::TERM });
            left.push((pid, started.to_owned()));
        }
        std::fs::remove_file(&path)?;
    }
    let until = std::time::Instant::now() + KILL_WITHIN;
    let alive = |(pid, started): &(u32, String)| start_time(*pid).as_ref() == Some(started);
    while left.iter().any(alive) && std::time::Instant::now() < until {
        pause(READINESS_INTERVAL);
    }
    for process in left.iter().filter(|process| alive(process)) {
        kill_group(process.0);
    }
    Ok(())
}

/// Before there is a runtime.
#[expect(clippy::disallowed_methods, reason = "another process's end sends us no signal to wait for")]
pub(super) fn pause(duration: Duration) {
    std::thread::sleep(duration);
}
