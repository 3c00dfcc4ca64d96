//! What a supervisor left behind that was killed together with its companion.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::super::process::{Signal, kill_group, signal, signal_name, start_time};

/// How long what was left behind may take to end before it is killed.
const END_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks at whether it has ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Ends the processes that a supervisor noted in `run_folder` and that outlived it because its companion was killed too. They are
/// recognised by number and start time. The caller holds the lock of the data folder, so no supervisor of them is alive.
pub(crate) fn end_left_behind(run_folder: &Path) -> Result<()> {
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
    let until = Instant::now() + END_WITHIN;
    let alive = |(pid, started): &(u32, String)| start_time(*pid).as_ref() == Some(started);
    while left.iter().any(alive) && Instant::now() < until {
        pause(LOOK_INTERVAL);
    }
    for process in left.iter().filter(|process| alive(process)) {
        kill_group(process.0);
    }
    Ok(())
}

/// Before there is a runtime.
#[expect(clippy::disallowed_methods, reason = "another process's end sends us no signal to wait for")]
pub(crate) fn pause(duration: Duration) {
    std::thread::sleep(duration);
}
