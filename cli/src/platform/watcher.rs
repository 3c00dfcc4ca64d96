//! A small companion process that ends everything a supervisor started when the supervisor itself is killed.
//!
//! `PR_SET_PDEATHSIG` would need code between fork and exec, dies with a thread and is lost when the user changes; a pipe has none
//! of these faults: its end of file tells the companion, a POSIX shell, that the supervisor is gone, by whatever way.
//! It deliberately restarts nothing and knows nothing of the platform.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context as _, Result};

use super::process::{Signal, signal_name};

/// The companion of one supervisor.
pub(crate) struct Watcher {
    /// `None` once released.
    shell: Mutex<Option<Child>>,
}

impl Watcher {
    /// Starts the companion. `remove` is a folder it removes at the very end, for temporary platforms.
    pub(crate) fn start(remove: Option<&Path>) -> Result<Self> {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(include_str!("watcher.sh")).arg("trunkline-watcher");
        if let Some(folder) = remove {
            command.arg(folder);
        }
        let shell = command
            .current_dir("/")
            .process_group(0) // The terminal's Ctrl-C is the supervisor's business.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting /bin/sh, which ends the platform's processes should this command be killed")?;
        Ok(Self { shell: Mutex::new(Some(shell)) })
    }

    /// From now on `pid` ends with the supervisor, asked by `stop_signal`.
    pub(crate) fn add(&self, pid: u32, stop_signal: Signal) {
        self.tell(&format!("+{pid} {}", signal_name(stop_signal)));
    }

    /// `pid` has ended and been reaped: its number may belong to somebody else now.
    pub(crate) fn remove(&self, pid: u32) {
        self.tell(&format!("-{pid}"));
    }

    fn tell(&self, line: &str) {
        let mut shell = self.shell.lock().expect("no holder of this lock panics");
        if let Some(stdin) = shell.as_mut().and_then(|shell| shell.stdin.as_mut())
            && let Err(error) = writeln!(stdin, "{line}")
        {
            tracing::warn!(%error, "the companion that ends processes after a kill is gone");
        }
    }

    /// Closes the pipe and waits until the companion has ended what is left and itself: seconds at most.
    pub(crate) fn release(&self) {
        let shell = self.shell.lock().expect("no holder of this lock panics").take();
        if let Some(mut shell) = shell {
            drop(shell.stdin.take());
            if let Err(error) = shell.wait() {
                tracing::warn!(%error, "waiting for the companion that ends processes");
            }
        }
    }
}
