//! Hands the gateway to the kernel.

use std::process::ExitCode;

fn main() -> ExitCode {
    kernel::run::<gateway::Gateway>()
}
