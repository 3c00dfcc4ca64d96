//! A nats-server of our own: its configuration written out, its users rendered from the contract, its streams declared.

pub mod client;
pub mod dead_letters;
pub mod streams;
pub mod users;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::FutureExt as _;
use rustix::process::Signal;
use tokio::io::AsyncReadExt as _;

use super::binaries::NatsServer;
use super::process::{Probe, Readiness, Spec};
use super::secrets;

/// The committed configuration; what differs between machines comes by environment and by `users.conf` beside it.
pub const CONFIGURATION: &str = include_str!("../../../../nats/nats-server.conf");
/// How long the server may take to close its connections and stores.
const STOP_WITHIN: Duration = Duration::from_secs(15);
/// Tries to start before the first success: the port may be in use for a moment after a kill.
const FIRST_STARTS_MAX: u32 = 5;
/// One try to connect.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// When JetStream's writes reach the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum SyncMode {
    /// Before each acknowledgement: it survives the loss of power.
    #[default]
    Always,
    /// Every ten seconds: faster, and what was acknowledged since is lost with the power. A killed process loses nothing.
    Interval,
}

impl SyncMode {
    /// The word of the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Interval => "interval",
        }
    }

    fn sync_interval(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Interval => "10s",
        }
    }
}

/// What a nats-server of ours is.
pub struct Options<'a> {
    /// The program to run.
    pub program: &'a NatsServer,
    /// Its folder: configuration and, below, the stores.
    pub folder: PathBuf,
    /// Where clients connect, on 127.0.0.1.
    pub port: u16,
    /// Where its monitoring answers, on 127.0.0.1.
    pub monitoring_port: u16,
    /// When writes reach the disk.
    pub sync: SyncMode,
    /// `users.conf`, as [`users::render`] makes it.
    pub users: &'a str,
    /// Its log.
    pub log: PathBuf,
    /// Where its number is noted while it runs.
    pub run_folder: PathBuf,
}

/// Writes the configuration and says how to start the server.
///
/// # Errors
/// When the folder cannot be written.
pub fn prepare(options: &Options<'_>) -> Result<Spec> {
    let Options { folder, port, monitoring_port, sync, .. } = options;
    secrets::private_folder(folder)?;
    write_configuration(folder, options.users)?;
    let env = [
        ("TRUNKLINE_NATS_LISTEN", format!("127.0.0.1:{port}")),
        ("TRUNKLINE_NATS_MONITORING", format!("127.0.0.1:{monitoring_port}")),
        ("TRUNKLINE_NATS_STORE", quoted(folder)),
        ("TRUNKLINE_NATS_SYNC_INTERVAL", sync.sync_interval().into()),
    ];
    Ok(Spec {
        name: "nats-server".into(),
        instance: 1,
        program: options.program.program.clone(),
        args: vec!["--config".into(), folder.join("nats-server.conf").into()],
        env: env.into_iter().map(|(name, value)| (name.to_owned(), OsString::from(value))).collect(),
        sockets: Vec::new(),
        user: None,
        log: options.log.clone(),
        run_folder: options.run_folder.clone(),
        readiness: Readiness::Probe(probe(*port, *monitoring_port)),
        stop_signal: Signal::TERM,
        stop_within: STOP_WITHIN,
        first_starts_max: FIRST_STARTS_MAX,
        restart: true,
        url: Some(format!("nats://127.0.0.1:{port}")),
    })
}

/// Writes `nats-server.conf` and `users.conf` into a folder.
///
/// # Errors
/// When it cannot be written.
pub fn write_configuration(folder: &Path, users: &str) -> Result<()> {
    secrets::write_private(&folder.join("users.conf"), users.as_bytes())?;
    secrets::write_private(&folder.join("nats-server.conf"), CONFIGURATION.as_bytes())
}

/// A value of nats-server's configuration language that may hold spaces.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().replace('\\', "\\\\").replace('"', "\\\""))
}

/// Whether the server greets a client and JetStream has recovered its streams.
fn probe(port: u16, monitoring_port: u16) -> Probe {
    Arc::new(move || {
        async move {
            let check = async {
                let mut greeting = [0; 5];
                tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()?.read_exact(&mut greeting).await.ok()?;
                let health = reqwest::get(format!("http://127.0.0.1:{monitoring_port}/healthz")).await.ok()?;
                (greeting == *b"INFO " && health.status().is_success()).then_some(())
            };
            matches!(tokio::time::timeout(CONNECT_WITHIN, check).await, Ok(Some(())))
        }
        .boxed()
    })
}

/// What the monitoring port says of the server, as JSON (`varz`, `jsz`, `healthz` …).
///
/// # Errors
/// When it does not answer in JSON within five seconds.
pub async fn monitoring(url: &str, endpoint: &str) -> Result<serde_json::Value> {
    let ask = async { reqwest::get(format!("{url}/{endpoint}")).await?.json().await };
    tokio::time::timeout(Duration::from_secs(5), ask)
        .await
        .with_context(|| format!("{url}/{endpoint} does not answer"))?
        .with_context(|| format!("asking {url}/{endpoint}"))
}
