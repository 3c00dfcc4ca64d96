//! Hands the authz service to the kernel.

use std::process::ExitCode;

fn main() -> ExitCode {
    kernel::run::<authz::Authz>()
}
