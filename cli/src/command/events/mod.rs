//! `trunkline events`: what services tell each other.

mod dead_letters;

use anyhow::Result;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Messages that a consumer gave up
    #[command(subcommand)]
    DeadLetters(dead_letters::Command),
}

pub(super) async fn run(command: Command) -> Result<()> {
    match command {
        Command::DeadLetters(command) => dead_letters::run(command).await,
    }
}
