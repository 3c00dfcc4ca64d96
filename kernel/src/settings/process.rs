//! What every process of the platform is told, whichever service it is.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::time::Duration;

use nkeys::KeyPair;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnectOptions;

use super::{Secret, Settings};
use crate::telemetry;

/// The process's own settings, at the top level.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// NATS servers, comma-separated, without credentials. Default `nats://127.0.0.1:4222`.
    pub nats_url: String,
    /// File with the service's nkey seed.
    pub nkey_file: Option<PathBuf>,
    /// PostgreSQL as the service's runtime role. Needed by every service with a schema.
    pub database_url: Option<Secret>,
    /// PostgreSQL as the schema's owner; given, the service migrates itself at start.
    pub database_owner_url: Option<Secret>,
    /// File with the service's master key, 64 hexadecimal digits.
    pub key_file: Option<PathBuf>,
    /// Name of this instance among those of its service, 1 to 64 of `[A-Za-z0-9_-]`. Default `1`.
    pub instance: String,
    /// Where the admin port listens unless a socket named `admin` is handed down. Default `127.0.0.1:0`.
    pub admin_address: SocketAddr,
    /// File that says where this process is, written when it is ready.
    pub status_file: Option<PathBuf>,
    /// How much of the log is written, and how.
    pub log: Log,
    /// The connection to the broker.
    pub nats: Nats,
    /// The connections to PostgreSQL.
    pub database: Database,
    /// How much is served at once.
    pub endpoints: Endpoints,
    /// How patient consumers are with a message that fails.
    pub consumers: Consumers,
    /// Which access tokens count.
    pub tokens: Tokens,
    /// How long a stopping process lets running work end. 0 to 60,000, default 10,000.
    pub drain_timeout_ms: u32,
}

/// The log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug` or `trace`, or directives such as `info,sqlx=debug`. Default `info`.
    pub level: String,
    /// Default `auto`: text on a terminal, JSON otherwise.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// The connection to the broker.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Nats {
    /// How often the server is asked for a sign of life; it counts as gone when two have been missed, after three
    /// times this. 100 to 60,000, default 1,000.
    pub ping_interval_ms: u32,
    /// How long one attempt to connect may take. 100 to 60,000, default 2,000.
    pub connect_timeout_ms: u32,
    /// The longest pause between two attempts. 10 to 60,000, default 2,000.
    pub reconnect_delay_max_ms: u32,
    /// Certificates (PEM) of the authorities that may vouch for the servers; given, the connection is TLS only.
    pub ca_file: Option<PathBuf>,
    /// The user of a broker that does not know nkeys; needs the password too.
    pub user: Option<String>,
    /// That user's password.
    pub password: Option<Secret>,
}

/// The connections to PostgreSQL.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Database {
    /// Connections at most. 2 to 1,000, default 10.
    pub connections_max: u32,
    /// How long a request waits for one. 10 to 60,000, default 1,000.
    pub acquire_timeout_ms: u32,
    /// How long a statement may take. 10 to 600,000, default 5,000.
    pub statement_timeout_ms: u32,
    /// How long a statement may wait for a lock. 10 to 600,000, default 2,000.
    pub lock_timeout_ms: u32,
}

/// How much is served at once.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoints {
    /// Requests handled at once in the process; one more is answered 503. 1 to 100,000, default 1,024.
    pub in_flight_max: u32,
    /// Requests handled at once by one endpoint. 1 to 100,000, default 512.
    pub in_flight_per_endpoint_max: u32,
}

/// How patient consumers are with a message that fails.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Consumers {
    /// Deliveries after which a message becomes a dead letter. 1 to 1,000, default 8: about two minutes.
    pub attempts_max: u32,
    /// The pause before the first repetition, doubled each time. 10 to 600,000, default 1,000.
    pub redelivery_delay_min_ms: u32,
    /// The longest pause. 10 to 600,000, default 60,000.
    pub redelivery_delay_max_ms: u32,
}

/// Which access tokens count.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Tokens {
    /// The only `iss` that counts. Default `trunkline`.
    pub issuer: String,
    /// The only `aud` that counts. Default `trunkline`.
    pub audience: String,
    /// Verified tokens remembered. 1 to 10,000,000, default 10,000.
    pub cache_max: u32,
    /// How often the keys that sign tokens are fetched, in milliseconds. 50 to 60,000, default 60,000.
    pub keys_refresh_ms: u32,
}

impl Default for Process {
    fn default() -> Self {
        Self {
            nats_url: "nats://127.0.0.1:4222".to_owned(),
            nkey_file: None,
            database_url: None,
            database_owner_url: None,
            key_file: None,
            instance: "1".to_owned(),
            admin_address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            status_file: None,
            log: Log::default(),
            nats: Nats::default(),
            database: Database::default(),
            endpoints: Endpoints::default(),
            consumers: Consumers::default(),
            tokens: Tokens::default(),
            drain_timeout_ms: 10_000,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Auto }
    }
}

impl Default for Nats {
    fn default() -> Self {
        Self {
            ping_interval_ms: 1_000,
            connect_timeout_ms: 2_000,
            reconnect_delay_max_ms: 2_000,
            ca_file: None,
            user: None,
            password: None,
        }
    }
}

impl Default for Database {
    fn default() -> Self {
        Self { connections_max: 10, acquire_timeout_ms: 1_000, statement_timeout_ms: 5_000, lock_timeout_ms: 2_000 }
    }
}

impl Default for Endpoints {
    fn default() -> Self {
        Self { in_flight_max: 1_024, in_flight_per_endpoint_max: 512 }
    }
}

impl Default for Consumers {
    fn default() -> Self {
        Self { attempts_max: 8, redelivery_delay_min_ms: 1_000, redelivery_delay_max_ms: 60_000 }
    }
}

impl Default for Tokens {
    fn default() -> Self {
        Self {
            issuer: "trunkline".to_owned(),
            audience: "trunkline".to_owned(),
            cache_max: 10_000,
            keys_refresh_ms: 60_000,
        }
    }
}

impl Process {
    /// The servers of `nats_url`.
    pub fn nats_servers(&self) -> Result<Vec<async_nats::ServerAddr>, std::io::Error> {
        self.nats_url.split(',').map(|url| url.trim().parse()).collect()
    }

    /// The seed in `nkey_file`. The error says what is wrong with the file and never what is in it.
    pub fn nkey_seed(&self) -> Result<Option<Secret>, String> {
        let Some(file) = &self.nkey_file else {
            return Ok(None);
        };
        let text = read(file)?;
        let seed = text.lines().map(str::trim).find(|line| line.starts_with('S')).unwrap_or_default();
        match KeyPair::from_seed(seed) {
            Ok(_) => Ok(Some(Secret::new(seed))),
            Err(_) => Err("does not hold an nkey seed".to_owned()),
        }
    }

    /// How long a stopping process lets running work end.
    pub fn drain_timeout(&self) -> Duration {
        Duration::from_millis(self.drain_timeout_ms.into())
    }
}

impl Settings for Process {
    fn check(&self) -> Vec<String> {
        let mut faults = Vec::new();
        match self.nats_servers() {
            Err(_) => faults.push("nats_url is not a list of NATS URLs".to_owned()),
            Ok(servers) if servers.iter().any(async_nats::ServerAddr::has_user_pass) => {
                faults.push("nats_url must hold no credentials: they go into nats.user and nats.password".to_owned());
            }
            Ok(_) => {}
        }
        if self.nats.user.is_some() != self.nats.password.is_some() {
            faults.push("nats.user and nats.password need each other".to_owned());
        }
        if self.nkey_file.is_some() && self.nats.user.is_some() {
            faults.push("nkey_file and nats.user exclude each other".to_owned());
        }
        if let Err(fault) = self.nkey_seed() {
            faults.push(format!("nkey_file {fault}"));
        }
        for (name, url) in [("database_url", &self.database_url), ("database_owner_url", &self.database_owner_url)] {
            if url.as_ref().is_some_and(|url| PgConnectOptions::from_str(url.expose()).is_err()) {
                faults.push(format!("{name} is not a PostgreSQL URL"));
            }
        }
        for (name, file) in [("key_file", &self.key_file), ("nats.ca_file", &self.nats.ca_file)] {
            if let Some(Err(fault)) = file.as_deref().map(read) {
                faults.push(format!("{name} {fault}"));
            }
        }
        if !is_name(&self.instance) {
            faults.push("instance must be 1 to 64 of A-Z, a-z, 0-9, _ and -".to_owned());
        }
        if telemetry::level_filter(&self.log.level).is_err() {
            faults.push("log.level is neither a level nor a list of directives".to_owned());
        }
        for (name, value) in [("tokens.issuer", &self.tokens.issuer), ("tokens.audience", &self.tokens.audience)] {
            if value.is_empty() {
                faults.push(format!("{name} must not be empty"));
            }
        }
        let ranges = [
            ("nats.ping_interval_ms", self.nats.ping_interval_ms, 100, 60_000),
            ("nats.connect_timeout_ms", self.nats.connect_timeout_ms, 100, 60_000),
            ("nats.reconnect_delay_max_ms", self.nats.reconnect_delay_max_ms, 10, 60_000),
            ("database.connections_max", self.database.connections_max, 2, 1_000),
            ("database.acquire_timeout_ms", self.database.acquire_timeout_ms, 10, 60_000),
            ("database.statement_timeout_ms", self.database.statement_timeout_ms, 10, 600_000),
            ("database.lock_timeout_ms", self.database.lock_timeout_ms, 10, 600_000),
            ("endpoints.in_flight_max", self.endpoints.in_flight_max, 1, 100_000),
            ("endpoints.in_flight_per_endpoint_max", self.endpoints.in_flight_per_endpoint_max, 1, 100_000),
            ("consumers.attempts_max", self.consumers.attempts_max, 1, 1_000),
            ("consumers.redelivery_delay_min_ms", self.consumers.redelivery_delay_min_ms, 10, 600_000),
            ("consumers.redelivery_delay_max_ms", self.consumers.redelivery_delay_max_ms, 10, 600_000),
            ("tokens.cache_max", self.tokens.cache_max, 1, 10_000_000),
            ("tokens.keys_refresh_ms", self.tokens.keys_refresh_ms, 50, 60_000),
            ("drain_timeout_ms", self.drain_timeout_ms, 0, 60_000),
        ];
        for (name, value, min, max) in ranges {
            if !(min..=max).contains(&value) {
                faults.push(format!("{name} must be {min} to {max}"));
            }
        }
        faults
    }
}

fn read(file: &Path) -> Result<String, String> {
    std::fs::read_to_string(file).map_err(|error| format!("cannot be read: {}", error.kind()))
}

fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}
