//! Hands the audit service to the kernel.

use std::process::ExitCode;

fn main() -> ExitCode {
    kernel::run::<audit::Audit>()
}
