//! nats-server and PostgreSQL, ours or given: found, prepared, started, reached.
//!
//! One set of servers carries one platform (`up`) or many at once (tests: an account and a database each). What runs on them is
//! `deployment`'s.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use kernel::settings::Secret;

use super::database::Databases;
use super::nats::{self, SyncMode, users::Account};
use super::ports::{self, Port, Reserved};
use super::process::Spec;
use super::supervisor::{Process, Supervisor, end_left_behind};
use super::terminal::Terminal;
use super::{binaries, folders, postgres, secrets};

/// The first start of PostgreSQL after a crash replays its log.
const READY_WITHIN: Duration = Duration::from_mins(2);

/// How the servers shall be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything that is kept; made when absent.
    pub data: PathBuf,
    /// Where fetched programs are kept, shared between data folders.
    pub cache: PathBuf,
    /// The accounts on a NATS server of ours; one of [`nats::users::ACCOUNT`] for a platform, any number for tests.
    pub accounts: Vec<String>,
    /// When JetStream's writes reach the disk.
    pub sync: SyncMode,
    /// Where nats-server listens.
    pub nats_port: Port,
    /// Where PostgreSQL listens.
    pub postgres_port: Port,
    /// Connections PostgreSQL takes at most.
    pub postgres_connections_max: u32,
    /// A NATS server that runs already and has our users.
    pub nats_url: Option<String>,
    /// The superuser's URL of a PostgreSQL that runs already.
    pub postgres_url: Option<Secret>,
    /// Removes the data folder when this process ends, however it ends.
    pub temporary: bool,
    /// Where progress is told.
    pub terminal: Terminal,
}

impl Options {
    /// Servers for one platform in `data`, with the defaults of `up`.
    pub fn new(data: PathBuf, cache: PathBuf) -> Self {
        Self {
            data,
            cache,
            accounts: vec![nats::users::ACCOUNT.to_owned()],
            sync: SyncMode::default(),
            nats_port: Port::Preferably(4222),
            postgres_port: Port::Preferably(5432),
            postgres_connections_max: 200,
            nats_url: None,
            postgres_url: None,
            temporary: false,
            terminal: Terminal::Stderr,
        }
    }

    /// Throw-away servers for tests: `accounts` of them, any ports, relaxed syncing, gone with this process.
    pub fn temporary(data: PathBuf, cache: PathBuf, accounts: usize) -> Self {
        Self {
            accounts: (0..accounts).map(|number| format!("T{number}")).collect(),
            sync: SyncMode::Interval,
            nats_port: Port::Any,
            postgres_port: Port::Any,
            postgres_connections_max: 500,
            temporary: true,
            terminal: Terminal::Silent,
            ..Self::new(data, cache)
        }
    }
}

/// Running servers. Dropping this ends those that are ours.
pub struct Servers {
    data: PathBuf,
    accounts: Vec<Account>,
    nats_url: String,
    monitoring_url: Option<String>,
    postgres_url: Secret,
    nats: Option<Process>,
    postgres: Option<Process>,
    supervisor: Supervisor,
    // Declared last: held until everything above has ended.
    _lock: std::fs::File,
}

impl Servers {
    /// Finds or fetches the programs, prepares their folders, starts them and waits until both answer.
    ///
    /// # Errors
    /// When a program is missing, a folder or a port cannot be used, or a server does not come up; each says what to do.
    pub async fn start(options: Options) -> Result<Self> {
        let data = folders::prepare(&options.data)?;
        let lock = lock(&data)?;
        for folder in ["logs", "nkeys", "secrets", "run"] {
            secrets::private_folder(&data.join(folder))?;
        }
        end_left_behind(&data.join("run"))?;
        let supervisor = Supervisor::start(options.temporary.then_some(data.as_path()))?;
        let accounts = accounts(&data, &options.accounts);
        let users = nats::users::render(&accounts)?;

        // Both may have to be fetched, and making a database takes a second: at the same time.
        let (nats, postgres) = tokio::try_join!(
            start_nats(&options, &data, &users, &supervisor),
            start_postgres(&options, &data, &supervisor)
        )?;
        let (nats, nats_url, monitoring_url) = nats;
        let (postgres, postgres_url) = postgres;
        Ok(Self { data, accounts, nats_url, monitoring_url, postgres_url, nats, postgres, supervisor, _lock: lock })
    }

    /// The data folder, absolute.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The accounts on the NATS server, in the order asked for.
    pub fn accounts(&self) -> &[Account] {
        &self.accounts
    }

    /// Where NATS clients connect.
    pub fn nats_url(&self) -> &str {
        &self.nats_url
    }

    /// Where the monitoring of our own nats-server answers.
    pub fn monitoring_url(&self) -> Option<&str> {
        self.monitoring_url.as_deref()
    }

    /// The PostgreSQL server and our roles on it.
    pub fn databases(&self) -> Databases {
        Databases::new(self.postgres_url.clone(), &self.data.join("secrets"), self.postgres.is_some())
    }

    /// Our own nats-server, to kill or stop it.
    pub fn nats(&self) -> Option<&Process> {
        self.nats.as_ref()
    }

    /// Our own PostgreSQL, to kill or stop it.
    pub fn postgres(&self) -> Option<&Process> {
        self.postgres.as_ref()
    }

    /// The supervisor, to run further processes beside the servers.
    pub fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// Stops our servers in good order: nats-server, then PostgreSQL.
    ///
    /// # Errors
    /// When one can be neither stopped nor killed.
    pub async fn stop(self) -> Result<()> {
        for process in [&self.nats, &self.postgres].into_iter().flatten() {
            process.stop().await?;
        }
        Ok(())
    }
}

fn accounts(data: &Path, names: &[String]) -> Vec<Account> {
    let keys = data.join("nkeys");
    let one = names.len() == 1;
    let added = one.then(|| data.join("nats/users"));
    names
        .iter()
        .map(|name| Account {
            name: name.clone(),
            keys: if one { keys.clone() } else { keys.join(name) },
            added: added.clone(),
        })
        .collect()
}

/// `(our process, where clients connect, where its monitoring answers)`.
async fn start_nats(
    options: &Options,
    data: &Path,
    users: &str,
    supervisor: &Supervisor,
) -> Result<(Option<Process>, String, Option<String>)> {
    if let Some(url) = &options.nats_url {
        return Ok((None, url.clone(), None));
    }
    let program = binaries::nats_server(&options.cache, options.terminal).await?;
    let mut wanted = options.nats_port;
    loop {
        let reserved = wanted.reserve().context("the port of nats-server")?;
        let port = reserved.port;
        let monitoring_port = ports::any()?;
        let spec = nats::prepare(&nats::Options {
            program: &program,
            folder: data.join("nats"),
            port,
            monitoring_port,
            sync: options.sync,
            users,
            log: data.join("logs/nats-server-1.log"),
            run_folder: data.join("run"),
        })?;
        if let Some(process) = start(spec, reserved, &mut wanted, options.terminal, supervisor).await? {
            let monitoring_url = format!("http://127.0.0.1:{monitoring_port}");
            return Ok((Some(process), format!("nats://127.0.0.1:{port}"), Some(monitoring_url)));
        }
    }
}

/// `(our process, the superuser's URL)`.
async fn start_postgres(options: &Options, data: &Path, supervisor: &Supervisor) -> Result<(Option<Process>, Secret)> {
    if let Some(url) = &options.postgres_url {
        return Ok((None, url.clone()));
    }
    let user = postgres::user()?;
    folders::check_reachable(data, user, "data folder")?;
    let folder = data.join("postgres");
    let programs = binaries::postgres(&options.cache, postgres::data_major(&folder), user, options.terminal).await?;
    let password = secrets::keep(&data.join("secrets/postgres"), secrets::password)?;
    let mut wanted = options.postgres_port;
    loop {
        let reserved = wanted.reserve().context("the port of PostgreSQL")?;
        let port = reserved.port;
        let spec = postgres::prepare(&postgres::Options {
            programs: &programs,
            folder: folder.clone(),
            user,
            port,
            password: &password,
            connections_max: options.postgres_connections_max,
            log: data.join("logs/postgres-1.log"),
            run_folder: data.join("run"),
        })
        .await?;
        if let Some(process) = start(spec, reserved, &mut wanted, options.terminal, supervisor).await? {
            return Ok((Some(process), postgres::url(port, &password, "postgres")));
        }
    }
}

/// Starts a server on the port that was kept for it and waits until it answers. `None` when somebody else took the port in the
/// moment between: then `wanted` is another.
async fn start(
    spec: Spec,
    reserved: Reserved,
    wanted: &mut Port,
    terminal: Terminal,
    supervisor: &Supervisor,
) -> Result<Option<Process>> {
    let (name, port) = (spec.name.clone(), reserved.port);
    if reserved.is_second_choice {
        terminal.say(&format!("the usual port is taken: {name} listens on {port}"));
    }
    drop(reserved);
    let process = supervisor.spawn(spec);
    match process.ready(READY_WITHIN).await {
        Ok(_) => Ok(Some(process)),
        Err(_) if !matches!(wanted, Port::Exactly(_) | Port::Any) && !ports::is_free(port) => {
            process.stop().await?;
            *wanted = Port::Any;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// A second start on the same folder would run two servers on one store.
fn lock(data: &Path) -> Result<std::fs::File> {
    let path = data.join("lock");
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    file.try_lock().map_err(|_| {
        anyhow::anyhow!(
            "another trunkline uses the data folder {}; end that one first, or choose another with --data",
            data.display()
        )
    })?;
    Ok(file)
}
