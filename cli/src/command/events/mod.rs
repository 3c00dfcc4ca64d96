//! `trunkline events`: what has happened in the platform.

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
}

pub(super) async fn run(command: Command) -> Result<()> {
    match command {
        Command::Tail(tail) => tail::run(&tail).await,
    }
}
