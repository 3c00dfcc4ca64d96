//! The trunkline command.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    trunkline::command::run(trunkline::command::Cli::parse())
}
