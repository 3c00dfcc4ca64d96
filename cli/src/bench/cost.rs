//! What processes have cost: CPU time and resident memory, from the kernel's own accounts.

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

/// Resident memory of a process, in MiB.
pub(super) fn resident_mib(pid: u32) -> Result<f64> {
    let pages = process(pid)?.statm()?.resident;
    Ok(pages as f64 * procfs::page_size() as f64 / (1024.0 * 1024.0))
}

fn process(pid: u32) -> Result<Process> {
    Process::new(i32::try_from(pid)?).with_context(|| format!("process {pid} is gone"))
}
