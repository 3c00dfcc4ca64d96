//! How a process of the platform is described and started: command, environment, sockets handed down, user, log.
//! It deliberately does not watch or restart anything: that is `supervisor`'s.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use command_fds::{CommandFdExt as _, FdMapping};
use futures::future::BoxFuture;
use rustix::process::Pid;
pub use rustix::process::Signal;

/// A log is set aside at a start once it is larger than this; one older log is kept.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What this process may have been told and no other has to know: who needs one of these is told its own.
const NOT_HANDED_DOWN: &[&str] = &[
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "TRUNKLINE_POSTGRES_URL",
    "TRUNKLINE_DATABASE_URL",
    "TRUNKLINE_DATABASE_OWNER_URL",
    "TRUNKLINE_NKEY_FILE",
    "TRUNKLINE_KEY_FILE",
];

/// What a process is, everything a start needs; one value starts it any number of times.
#[derive(Clone)]
pub struct Spec {
    /// The name in `admin.json`, logs and messages: a service's, `nats-server` or `postgres`.
    pub name: String,
    /// Counts from 1 within the name.
    pub instance: usize,
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Set on top of what this process inherited itself.
    pub env: BTreeMap<String, OsString>,
    /// Sockets handed down from descriptor 3 on, in this order, with their names.
    pub sockets: Vec<(String, Arc<TcpListener>)>,
    /// Another user to run as: PostgreSQL refuses root.
    pub user: Option<User>,
    /// Standard output and error are appended here.
    pub log: PathBuf,
    /// The folder where its number is noted while it runs, for a start after a kill.
    pub run_folder: PathBuf,
    /// How its being ready is seen.
    pub readiness: Readiness,
    /// What asks it to end: SIGTERM, or SIGINT for PostgreSQL, where that is the fast shutdown. A server that is started in the
    /// background of a script inherits SIGINT ignored.
    pub stop_signal: Signal,
    /// How long it may take to end before it is killed.
    pub stop_within: Duration,
    /// Starts that may end before the first readiness; then the process is given up.
    pub first_starts_max: u32,
    /// Whether it is started again when it ends unasked.
    pub restart: bool,
    /// Where it answers, for `admin.json`, when the process does not say so itself.
    pub url: Option<String>,
}

/// A user and group by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
}

/// Asked again and again until it says yes.
pub type Probe = Arc<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>;

/// How a process shows that it serves.
#[derive(Clone)]
pub enum Readiness {
    /// It writes this file with its own pid, and addresses.
    StatusFile(PathBuf),
    /// It answers.
    Probe(Probe),
}

impl Spec {
    /// Starts the process in a process group of its own.
    ///
    /// # Errors
    /// When the log cannot be written or the program cannot be run; the text names it.
    pub(crate) fn spawn(&self) -> Result<tokio::process::Child> {
        let log = open_log(&self.log).with_context(|| format!("opening the log {}", self.log.display()))?;
        let mut command = Command::new(&self.program);
        for name in NOT_HANDED_DOWN {
            command.env_remove(name);
        }
        command
            .args(&self.args)
            .envs(&self.env)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        if let Some(user) = self.user {
            command.uid(user.uid).gid(user.gid);
        }
        if !self.sockets.is_empty() {
            let names: Vec<&str> = self.sockets.iter().map(|(name, _)| name.as_str()).collect();
            command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
            let mut mappings = Vec::new();
            for ((_, socket), child_fd) in self.sockets.iter().zip(3..) {
                mappings.push(FdMapping { parent_fd: OwnedFd::from(socket.try_clone()?), child_fd });
            }
            command.fd_mappings(mappings).context("descriptors count up, so none is taken twice")?;
        }
        tokio::process::Command::from(command)
            .spawn()
            .with_context(|| format!("starting {} ({})", self.name, self.program.display()))
    }
}

/// How a shell and our own notes call the signal that asks a process to end: `INT` or `TERM`.
pub(crate) fn signal_name(signal: Signal) -> &'static str {
    if signal == Signal::INT { "INT" } else { "TERM" }
}

/// Sends a signal to one process; one that is gone already is no error.
pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw)
        && let Err(error) = rustix::process::kill_process(pid, signal)
        && error != rustix::io::Errno::SRCH
    {
        tracing::warn!(%error, pid = pid.as_raw_nonzero().get(), "sending a signal");
    }
}

/// Kills a process and what it started in its group.
pub(crate) fn kill_group(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _gone_already = rustix::process::kill_process_group(pid, Signal::KILL);
    }
}

/// Runs a command to its end and collects what it wrote, unless that is inherited. Whoever stops waiting leaves nothing of it behind,
/// its own children included.
pub(crate) async fn run_to_end(mut command: tokio::process::Command) -> std::io::Result<std::process::Output> {
    struct Group(Option<u32>);
    impl Drop for Group {
        fn drop(&mut self) {
            if let Some(pid) = self.0 {
                kill_group(pid);
            }
        }
    }
    let child = command.process_group(0).stdin(Stdio::null()).kill_on_drop(true).spawn()?;
    let mut group = Group(child.id());
    let output = child.wait_with_output().await?;
    group.0 = None;
    Ok(output)
}

/// Tells two processes apart that bear the same number one after the other; `None` when there is no such process.
pub(crate) fn start_time(pid: u32) -> Option<String> {
    if let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        // proc(5): the name may hold anything, so count behind its closing bracket; the start time is field 22.
        // A zombie (state Z) has ended; only its parent has not looked yet.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_whitespace();
        return fields.next().filter(|state| *state != "Z").and_then(|_| fields.nth(18)).map(str::to_owned);
    }
    if Path::new("/proc/self/stat").exists() {
        return None;
    }
    let output = Command::new("ps").args(["-o", "lstart=", "-p", &pid.to_string()]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// Whether there is such a process.
pub(crate) fn is_running(pid: u32) -> bool {
    start_time(pid).is_some()
}

fn open_log(path: &Path) -> std::io::Result<File> {
    if std::fs::metadata(path).is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
        std::fs::rename(path, path.with_extension("log.1"))?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// The last lines of a log, to show beside an error; empty when there are none.
pub(crate) fn log_tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
