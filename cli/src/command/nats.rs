//! `trunkline nats`: the broker's configuration and streams, for servers that are not `up`'s.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use subjects::broker::PROVISION;

use super::options::{Data, GivenNats};
use super::output::print;
use crate::platform::nats::streams::Declaration;
use crate::platform::nats::users::{ACCOUNT, Account, AddedUser, Role};
use crate::platform::nats::{self, client};
use crate::platform::process::signal;
use crate::platform::{Signal, secrets};

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
    /// Add a user that may submit jobs to one queue, or do its work, and nothing else
    ///
    /// Kept in <data>/nats/users; its seed is made beside the others. A running nats-server of `up` takes it at once; one that is
    /// given by --out takes it by `nats-server --signal reload`.
    AddUser(AddUser),
}

#[derive(Args, Debug)]
pub(super) struct AddUser {
    #[command(flatten)]
    data: Data,
    /// The user's name, also that of its inbox: _INBOX.<NAME>
    #[arg(value_name = "NAME")]
    name: String,
    /// What it is for
    #[arg(long, value_enum)]
    role: Role,
    /// The one queue that it may reach
    #[arg(long, value_name = "QUEUE")]
    queue: String,
    /// The folder that `nats render` wrote, for a server that is not `up`'s
    #[arg(long, value_name = "DIR", conflicts_with = "data")]
    out: Option<PathBuf>,
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
        Command::AddUser(arguments) => add_user(&arguments),
    }
}

fn render(arguments: Render) -> Result<()> {
    let keys = arguments.keys.unwrap_or_else(|| arguments.out.join("nkeys"));
    if !arguments.out.exists() {
        secrets::private_folder(&arguments.out)?;
    }
    let added = Some(arguments.out.join("users"));
    let users = nats::users::render(&[Account { name: ACCOUNT.to_owned(), keys: keys.clone(), added }])?;
    nats::write_configuration(&arguments.out, &users)?;
    print(&format!("configuration: {}", arguments.out.join("nats-server.conf").display()))?;
    print(&format!("users:         {}", arguments.out.join("users.conf").display()))?;
    print(&format!("seeds:         {}", keys.display()))
}

fn add_user(arguments: &AddUser) -> Result<()> {
    let (folder, keys, running) = if let Some(out) = &arguments.out {
        (out.clone(), out.join("nkeys"), None)
    } else {
        let data = arguments.data.folder()?;
        let admin = arguments.data.admin().ok();
        let process = admin.into_iter().flat_map(|admin| admin.processes).find(|p| p.name == "nats-server");
        (data.join("nats"), data.join("nkeys"), process.map(|process| process.pid))
    };
    let added = folder.join("users");
    let user = AddedUser { role: arguments.role, queue: arguments.queue.clone() };
    nats::users::add(&added, &arguments.name, &user)?;
    let account = Account { name: ACCOUNT.to_owned(), keys, added: Some(added) };
    let users = nats::users::render(std::slice::from_ref(&account))?;
    nats::write_configuration(&folder, &users)?;
    // nats-server reads its users again; those who are connected and unchanged stay.
    if let Some(pid) = running {
        signal(pid, Signal::HUP);
    }
    print(&format!("seed:  {}", account.key_file(&arguments.name).display()))?;
    print(&format!("inbox: {}", subjects::subject::inbox_prefix(&arguments.name)))?;
    let when =
        if running.is_some() { "nats-server knows it" } else { "nats-server takes it at its next start or reload" };
    print(when)
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
