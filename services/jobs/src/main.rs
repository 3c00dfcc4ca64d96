//! Hands the jobs service to the kernel.

use std::process::ExitCode;

fn main() -> ExitCode {
    kernel::run::<jobs::Jobs>()
}
