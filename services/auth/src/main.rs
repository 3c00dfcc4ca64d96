//! Hands the auth service to the kernel.

use std::process::ExitCode;

fn main() -> ExitCode {
    kernel::run::<auth::Auth>()
}
