//! `trunkline nats`: the broker's configuration and streams, for servers that are not `up`'s.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use subjects::broker::PROVISION;

use super::options::{Data, GivenNats};
use super::output::print;
use crate::platform::nats::streams::Declaration;
use crate::platform::nats::users::{ACCOUNT, Account};
use crate::platform::nats::{self, client};
use crate::platform::secrets;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Write nats-server.conf and users.conf, with an nkey user per service from the contract
    ///
    /// Seeds that are missing are made; those that exist are kept, so rendering again changes only what the contract changed. A
    /// running server takes new rights by `nats-server --signal reload`.
    Render(Render),
    /// Make the declared streams and consumers on a server, or bring them up to date
    ///
    /// Applies nats/streams.json as the user `provision`. Doing it again changes nothing. A change that could lose stored messages is
    /// refused; nothing is ever deleted.
    Apply(Apply),
}

#[derive(Args, Debug)]
pub(super) struct Render {
    /// The folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The folder of the users' seeds, <user>.nk [default: DIR/nkeys]
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(super) struct Apply {
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    nats: GivenNats,
    /// The folder of the users' seeds [default: <data>/nkeys]
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(command: Command) -> Result<()> {
    match command {
        Command::Render(arguments) => render(arguments),
        Command::Apply(arguments) => apply(arguments).await,
    }
}

fn render(arguments: Render) -> Result<()> {
    let keys = arguments.keys.unwrap_or_else(|| arguments.out.join("nkeys"));
    if !arguments.out.exists() {
        secrets::private_folder(&arguments.out)?;
    }
    let users = nats::users::render(&[Account { name: ACCOUNT.to_owned(), keys: keys.clone() }])?;
    nats::write_configuration(&arguments.out, &users)?;
    print(&format!("configuration: {}", arguments.out.join("nats-server.conf").display()))?;
    print(&format!("users:         {}", arguments.out.join("users.conf").display()))?;
    print(&format!("seeds:         {}", keys.display()))
}

async fn apply(arguments: Apply) -> Result<()> {
    let url = match arguments.nats.url {
        Some(url) => url,
        None => arguments
            .data
            .admin()?
            .nats_url
            .context("the platform in this data folder was not ready yet; give --nats-url")?,
    };
    let keys = match arguments.keys {
        Some(keys) => keys,
        None => arguments.data.folder()?.join("nkeys"),
    };
    let client = client::connect_trusting(
        &url,
        &keys.join(format!("{PROVISION}.nk")),
        PROVISION,
        arguments.nats.ca.file.as_deref(),
    )
    .await?;
    let declaration = Declaration::committed();
    let changes =
        if arguments.dry_run { declaration.compare(&client).await? } else { declaration.apply(&client).await? };
    if changes.0.is_empty() {
        print("streams and consumers are as declared")?;
    }
    let outcome = if arguments.dry_run { "to be applied" } else { "applied" };
    for change in changes.0 {
        print(&format!("{outcome}: {change}"))?;
    }
    Ok(())
}
