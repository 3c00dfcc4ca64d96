//! Hands the identity service to the kernel.

use std::process::ExitCode;

fn main() -> ExitCode {
    kernel::run::<identity::Identity>()
}
