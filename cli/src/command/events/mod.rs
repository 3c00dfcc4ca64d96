//! `trunkline events`: what services tell each other, and what somebody could not handle.

mod dead_letters;
mod sse;
mod tail;

use anyhow::Result;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show events as they are stored, until Ctrl-C
    ///
    /// Reads through the gateway as the first administrator and comes back by itself after a lost connection, without
    /// leaving anything out.
    Tail(tail::Tail),
    /// Messages that a consumer gave up
    #[command(subcommand)]
    DeadLetters(dead_letters::Command),
}

pub(super) async fn run(command: Command) -> Result<()> {
    match command {
        Command::Tail(tail) => tail::run(&tail).await,
        Command::DeadLetters(command) => dead_letters::run(command).await,
    }
}
