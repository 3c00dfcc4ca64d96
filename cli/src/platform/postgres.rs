//! A PostgreSQL of our own: made once, started as an ordinary user, reached over the loopback interface by password only.
//!
//! Deliberately no tuning beyond what durability needs, and no knowledge of schemas: see `database`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::FutureExt as _;
use kernel::settings::Secret;
use rustix::process::Signal;
use sqlx::{Connection as _, PgConnection};

use super::binaries::PostgresPrograms;
use super::process::{Probe, Readiness, Spec, User, run_to_end, signal};
use super::{folders, secrets};

/// The superuser of a PostgreSQL we made.
pub const SUPERUSER: &str = "postgres";
/// A fast shutdown disconnects everybody and writes a checkpoint.
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// After a kill -9 the old server's children hold the shared memory for a moment, in which a start fails.
const FIRST_STARTS_MAX: u32 = 10;
/// One try to connect.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// What a PostgreSQL of ours is.
pub struct Options<'a> {
    /// The programs to run.
    pub programs: &'a PostgresPrograms,
    /// The data folder, made when absent.
    pub folder: PathBuf,
    /// Who runs it; `None` is whoever runs this.
    pub user: Option<User>,
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    /// The superuser's password.
    pub password: &'a Secret,
    /// Connections it takes at most.
    pub connections_max: u32,
    /// Its log.
    pub log: PathBuf,
    /// Where its number is noted while it runs.
    pub run_folder: PathBuf,
}

/// Who shall run PostgreSQL: nobody else unless we are root, then `postgres` if there is such a user, else `nobody`.
///
/// # Errors
/// When root finds neither.
pub fn user() -> Result<Option<User>> {
    if !folders::is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        let number = |flag: &str| -> Option<u32> {
            let output = Command::new("id").args([flag, name]).stderr(Stdio::null()).output().ok()?;
            String::from_utf8(output.stdout).ok()?.trim().parse().ok()
        };
        if let (Some(uid), Some(gid)) = (number("-u"), number("-g")) {
            return Ok(Some(User { uid, gid }));
        }
    }
    bail!(
        "PostgreSQL refuses to run as root, and there is neither a user `postgres` nor `nobody`; start as an ordinary user"
    );
}

/// The major version that made the data in `folder`; `None` when there is none yet.
pub fn data_major(folder: &Path) -> Option<u32> {
    std::fs::read_to_string(folder.join("PG_VERSION")).ok()?.trim().parse().ok()
}

/// The superuser's URL of a database.
pub fn url(port: u16, password: &Secret, database: &str) -> Secret {
    Secret::new(format!("postgres://{SUPERUSER}:{}@127.0.0.1:{port}/{database}", password.expose()))
}

/// Makes the data folder where there is none, clears what a killed server left, and says how to start the server.
///
/// # Errors
/// When `initdb` fails, with what it said.
pub async fn prepare(options: &Options<'_>) -> Result<Spec> {
    let Options { programs, folder, user, port, password, .. } = options;
    if data_major(folder).is_none() {
        init(programs, folder, *user, password).await?;
    }
    clear_stale_lock(folder)?;
    let mut args: Vec<std::ffi::OsString> = vec!["-D".into(), folder.into()];
    for setting in [
        format!("port={port}"),
        "listen_addresses=127.0.0.1".into(),
        "unix_socket_directories=".into(), // Nobody on this machine gets in without a password.
        "password_encryption=scram-sha-256".into(),
        "fsync=on".into(),
        "full_page_writes=on".into(),
        "synchronous_commit=on".into(),
        format!("max_connections={}", options.connections_max),
        "timezone=UTC".into(),
        "log_timezone=UTC".into(),
        "log_line_prefix=%m [%p] %u@%d ".into(),
        "log_checkpoints=off".into(),
        "logging_collector=off".into(),
    ] {
        args.extend(["-c".into(), setting.into()]);
    }
    Ok(Spec {
        name: "postgres".into(),
        instance: 1,
        program: programs.folder.join("postgres"),
        args,
        env: std::collections::BTreeMap::default(),
        sockets: Vec::new(),
        user: *user,
        log: options.log.clone(),
        run_folder: options.run_folder.clone(),
        readiness: Readiness::Probe(probe(url(*port, password, "postgres"))),
        stop_signal: Signal::INT, // Fast shutdown.
        stop_within: STOP_WITHIN,
        first_starts_max: FIRST_STARTS_MAX,
        restart: true,
        url: Some(format!("postgres://127.0.0.1:{port}")),
    })
}

/// Whether the server lets us in and answers a query.
fn probe(url: Secret) -> Probe {
    Arc::new(move || {
        let url = url.clone();
        async move {
            let connect = async {
                let mut connection = PgConnection::connect(url.expose()).await?;
                connection.ping().await?;
                connection.close().await
            };
            matches!(tokio::time::timeout(CONNECT_WITHIN, connect).await, Ok(Ok(())))
        }
        .boxed()
    })
}

async fn init(programs: &PostgresPrograms, folder: &Path, user: Option<User>, password: &Secret) -> Result<()> {
    // A killed initdb leaves a folder without PG_VERSION or with half of the rest, so the work is done beside and renamed.
    let parent = folder.parent().context("the data folder has a parent")?;
    let making = parent.join(".postgres-making");
    if making.exists() {
        std::fs::remove_dir_all(&making).with_context(|| format!("removing {}", making.display()))?;
    }
    secrets::private_folder(&making)?;
    let data = making.join("data");
    let password_file = making.join("password");
    secrets::write_private(&password_file, format!("{}\n", password.expose()).as_bytes())?;
    if let Some(user) = user {
        for path in [&making, &password_file] {
            std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid))
                .with_context(|| format!("giving {} to PostgreSQL's user", path.display()))?;
        }
    }
    let mut command = tokio::process::Command::new(programs.folder.join("initdb"));
    command
        .arg("--pgdata")
        .arg(&data)
        .args(["--username", SUPERUSER, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--data-checksums"])
        .arg("--pwfile")
        .arg(&password_file)
        .current_dir("/")
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    let output =
        run_to_end(command).await.with_context(|| format!("starting initdb in {}", programs.folder.display()))?;
    if !output.status.success() {
        bail!("initdb failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    std::fs::rename(&data, folder).with_context(|| format!("renaming {} to {}", data.display(), folder.display()))?;
    std::fs::remove_dir_all(&making).with_context(|| format!("removing {}", making.display()))
}

/// `postmaster.pid` of a killed server names a number that may belong to somebody else by now, which PostgreSQL would take for
/// itself still running. A server that does still run in this folder is ended: we hold the folder's lock, so nobody supervises it.
fn clear_stale_lock(folder: &Path) -> Result<()> {
    let lock = folder.join("postmaster.pid");
    let Ok(text) = std::fs::read_to_string(&lock) else {
        return Ok(());
    };
    let Some(pid) = text.lines().next().and_then(|line| line.trim().parse::<u32>().ok()) else {
        return Ok(());
    };
    if !Path::new("/proc/self").exists() {
        return Ok(()); // PostgreSQL's own judgement has to do where /proc is missing.
    }
    let runs_here = || std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == folder);
    if runs_here() {
        signal(pid, Signal::INT);
        let until = std::time::Instant::now() + STOP_WITHIN;
        while runs_here() && std::time::Instant::now() < until {
            super::supervisor::pause(Duration::from_millis(20));
        }
        if runs_here() {
            bail!("a PostgreSQL (process {pid}) runs in {} and does not end; end it and start again", folder.display());
        }
        return Ok(());
    }
    std::fs::remove_file(&lock).with_context(|| format!("removing the stale {}", lock.display()))
}
