//! `trunkline migrate`: roles, database, schemas and migrations, on our own server or a given one.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use kernel::settings::Secret;

use super::options::Data;
use super::output::print;
use crate::platform::database::{DATABASE, Databases};
use crate::platform::secrets;

pub(super) const ABOUT: &str = "\
Prepare a PostgreSQL server and bring every schema up to date.

Makes the database, two roles per service (<service>_owner, which migrates, and <service>, which the service runs as) and the
schemas, then applies the missing migrations in dependency order, each in a transaction with its record, under a lock: any number of
these may run at once. Nothing is done twice.

The roles' passwords are files named as the roles in the secrets folder; missing ones are made.";

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    data: Data,
    /// The server, as superuser [default: the one of the platform running on the data folder]
    #[arg(long, value_name = "URL", env = "TRUNKLINE_POSTGRES_URL", hide_env_values = true)]
    postgres_url: Option<String>,
    /// The database
    #[arg(long, value_name = "NAME", default_value = DATABASE)]
    database: String,
    /// Where the roles' passwords are [default: <data>/secrets]
    #[arg(long, value_name = "DIR")]
    secrets: Option<PathBuf>,
}

pub(super) async fn run(arguments: Arguments) -> Result<()> {
    let (url, is_ours) = match arguments.postgres_url {
        Some(url) => (url, false),
        None => (
            arguments
                .data
                .admin()?
                .postgres_url
                .context("the platform in this data folder has no PostgreSQL of its own; give --postgres-url")?,
            true,
        ),
    };
    let folder = match arguments.secrets {
        Some(folder) => folder,
        None => arguments.data.folder()?.join("secrets"),
    };
    if !folder.exists() {
        secrets::private_folder(&folder)?;
    }
    for migrated in Databases::new(Secret::new(url), &folder, is_ours).migrate(&arguments.database).await? {
        if migrated.applied.is_empty() {
            print(&format!("{}: up to date", migrated.service))?;
        }
        for file in migrated.applied {
            print(&format!("{}: applied {file}", migrated.service))?;
        }
    }
    Ok(())
}
