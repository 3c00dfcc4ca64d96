//! What processes have cost: CPU time and resident memory, from the kernel's own accounts.

use std::collections::HashSet;

use anyhow::{Context as _, Result};
use procfs::process::Process;

/// CPU time of these processes so far, in microseconds; counted by the kernel in ticks of 10 ms.
pub(super) fn cpu_us(pids: &[u32]) -> Result<f64> {
    let ticks_per_second = procfs::ticks_per_second();
    let mut ticks = 0;
    for &pid in pids {
        let stat = process(pid)?.stat()?;
        ticks += stat.utime + stat.stime;
    }
    Ok(ticks as f64 * 1e6 / ticks_per_second as f64)
}

/// CPU time of a process and of all that it has started, also of those that have ended and were waited for.
pub(super) fn tree_us(root: u32) -> Result<f64> {
    let stats: Vec<_> = procfs::process::all_processes()?.filter_map(|process| process.ok()?.stat().ok()).collect();
    let mut members = HashSet::from([i32::try_from(root)?]);
    // Children have higher numbers than their parents but where numbers begin anew; so often that no depth is missed.
    loop {
        let before = members.len();
        members
            .extend(stats.iter().filter(|stat| members.contains(&stat.ppid)).map(|stat| stat.pid).collect::<Vec<_>>());
        if members.len() == before {
            break;
        }
    }
    let ticks: i64 = stats
        .iter()
        .filter(|stat| members.contains(&stat.pid))
        .map(|stat| i64::try_from(stat.utime + stat.stime).unwrap_or(i64::MAX) + stat.cutime + stat.cstime)
        .sum();
    Ok(ticks as f64 * 1e6 / procfs::ticks_per_second() as f64)
}

/// Resident memory of a process, in MiB.
pub(super) fn resident_mib(pid: u32) -> Result<f64> {
    let pages = process(pid)?.statm()?.resident;
    Ok(pages as f64 * procfs::page_size() as f64 / (1024.0 * 1024.0))
}

fn process(pid: u32) -> Result<Process> {
    Process::new(i32::try_from(pid)?).with_context(|| format!("process {pid} is gone"))
}
