//! The task that keeps one process running.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::super::process::{Readiness, Spec, kill_group, signal, signal_name, start_time};
use super::super::watcher::Watcher;
use super::{Command, State, Status};

/// The first wait before a restart; it doubles from there.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest wait before a restart: within the 10 s in which the platform serves again after a kill.
const BACKOFF_MAX: Duration = Duration::from_secs(3);
/// A process that has run this long starts with the first wait again.
const BACKOFF_RESET: Duration = Duration::from_secs(10);
/// Between two looks at whether a process is ready.
const READINESS_INTERVAL: Duration = Duration::from_millis(10);
/// How a process ends that cannot start with the settings it was given (sysexits' EX_CONFIG); another start is no cure.
const EXIT_CONFIG: i32 = 78;

/// The task behind one [`Process`].
pub(super) struct Keeper {
    pub(super) spec: Arc<Spec>,
    pub(super) state: watch::Sender<State>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) watcher: Arc<Watcher>,
    pub(super) pid_file: PathBuf,
    pub(super) changed: watch::Sender<()>,
}

/// What is to happen after a run.
#[derive(PartialEq)]
enum After {
    Restart,
    StayDown,
}

impl Keeper {
    pub(super) async fn run(mut self) {
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
        self.state.send_modify(|state| state.last_exit = Some(exit.to_string()));
        if exit.code() == Some(EXIT_CONFIG) {
            after = After::StayDown;
        }
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
