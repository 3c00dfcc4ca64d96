//! What a test wants of its platform, and how it gets it.

use std::collections::BTreeMap;

use kernel::data::migrations::{SERVICES, migrate};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::OnceCell;
use trunkline::platform::{
    database::Databases,
    deployment::{Deployment, Options},
    nats::{SyncMode, client, streams::Declaration},
    ports::Port,
    programs,
    servers::{self, Servers},
    supervisor::Process,
};

use crate::{
    build,
    platform::{Lease, Platform},
    servers::{Shared, cache, temporary_folder},
    traces::Traces,
};

/// The bound of each stream: far more than a test stores, and small enough for every account's share of the disk.
pub(crate) const STREAM_BYTES_MAX: u64 = 24 * 1024 * 1024;

/// The migrated database on the shared server that tests get copies of.
const TEMPLATE: &str = "template_migrated";

static TEMPLATE_MADE: OnceCell<()> = OnceCell::const_new();

/// What a test wants, built up by methods; [`Setup::start`] gives it.
#[derive(Default)]
pub struct Setup {
    instances: BTreeMap<String, usize>,
    settings: Vec<(String, String)>,
    rate_limits: bool,
    traces: bool,
    own_servers: bool,
    without_services: bool,
    unmigrated: bool,
}

impl Setup {
    /// One instance of everything, on servers shared with other tests, without rate limits.
    pub fn new() -> Setup {
        Setup::default()
    }

    /// Another number of instances of a service or of `gateway`.
    pub fn instances(mut self, service: &str, count: usize) -> Setup {
        self.instances.insert(service.to_owned(), count);
        self
    }

    /// A setting by its dotted name, as `up --set` takes it.
    pub fn set(mut self, name: &str, value: &str) -> Setup {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With the gateway's rate limits, which other tests would run into: they all come from one address.
    pub fn rate_limits(mut self) -> Setup {
        self.rate_limits = true;
        self
    }

    /// With every span sent to the test.
    pub fn traces(mut self) -> Setup {
        self.traces = true;
        self
    }

    /// On servers of its own, which flush to the disk as in use and may be killed.
    pub fn own_servers(mut self) -> Setup {
        self.own_servers = true;
        self
    }

    /// Without processes; [`Platform::add`] starts them.
    pub fn without_services(mut self) -> Setup {
        self.without_services = true;
        self
    }

    /// Without processes, and with roles and empty schemas in the database, but no table. Services started on it are
    /// given their owner's URL, so that they migrate at their start.
    pub fn unmigrated(mut self) -> Setup {
        self.without_services = true;
        self.unmigrated = true;
        self
    }

    /// Starts it and waits until every process is ready.
    pub async fn start(self) -> Platform {
        self.try_start().await.unwrap_or_else(|error| panic!("the platform does not start: {error:#}"))
    }

    async fn try_start(self) -> anyhow::Result<Platform> {
        let programs = build::programs().await;
        let (servers, number) = self.lease().await?;
        let account = servers.accounts()[number].clone();
        let databases = servers.databases().clone().without_connection_limits();
        let database = format!("platform_{number}");
        self.prepare_database(&servers, &databases, &database).await?;

        let provision = subjects::broker::PROVISION;
        let client = client::connect(servers.nats_url(), &account.key_file(provision), provision).await?;
        Declaration::committed().with_bytes_max(STREAM_BYTES_MAX).apply(&client).await?;

        let mut env = BTreeMap::from([
            ("TRUNKLINE_LOG__FORMAT".to_owned(), "json".to_owned()),
            // Many platforms start at once on few cores here: being slow is not what is tested.
            ("TRUNKLINE_DATABASE__ACQUIRE_TIMEOUT_MS".to_owned(), "5000".to_owned()),
            ("TRUNKLINE_DATABASE__LOCK_TIMEOUT_MS".to_owned(), "10000".to_owned()),
            ("TRUNKLINE_DATABASE__STATEMENT_TIMEOUT_MS".to_owned(), "15000".to_owned()),
        ]);
        let mut service_env: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        let mut settings = self.settings.clone();
        if !self.rate_limits {
            settings.push(("gateway.rate_limits.enabled".to_owned(), "false".to_owned()));
        }
        for (name, value) in settings {
            let service = programs::names().into_iter().find(|service| name.starts_with(&format!("{service}.")));
            let variable = format!("TRUNKLINE_{}", name.replace('.', "__").to_uppercase());
            match service {
                Some(service) => _ = service_env.entry(service.to_owned()).or_default().insert(variable, value),
                None => _ = env.insert(variable, value),
            }
        }
        if self.unmigrated {
            for service in SERVICES {
                let url = databases.url(&format!("{service}_owner"), &database)?.expose().to_owned();
                let env = service_env.entry((*service).to_owned()).or_default();
                env.insert("TRUNKLINE_DATABASE_OWNER_URL".to_owned(), url);
            }
        }
        let mut traces = None;
        if self.traces {
            let (collector, endpoint) = Traces::collect().await;
            env.insert("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), endpoint);
            env.insert("OTEL_BSP_SCHEDULE_DELAY".to_owned(), "200".to_owned()); // Milliseconds; 5,000 by default.
            traces = Some(collector);
        }
        let count = |name: &str| self.instances.get(name).copied().unwrap_or(1);
        let instances = if self.without_services {
            Vec::new()
        } else {
            programs::names().into_iter().map(|name| (name.to_owned(), count(name))).collect()
        };
        let deployment = Deployment::start(Options {
            folder: servers.data().join(format!("platform-{number}")),
            programs,
            nats_url: servers.nats_url().to_owned(),
            account,
            databases,
            database,
            instances,
            env,
            service_env,
            gateway_port: Port::Any,
            restart: self.own_servers,
        })?;
        let platform = Platform { deployment, servers, traces };
        platform.deployment.ready().await?;
        Ok(platform)
    }

    /// Servers and the number of an account on them.
    async fn lease(&self) -> anyhow::Result<(Lease, usize)> {
        if self.own_servers {
            let mut options = servers::Options::temporary(temporary_folder("own"), cache(), 1);
            options.sync = SyncMode::Always;
            return Ok((Lease::Own(Box::new(Servers::start(options).await?)), 0));
        }
        let shared = Shared::get().await;
        Ok((Lease::Shared(shared), shared.take_account()))
    }

    async fn prepare_database(&self, servers: &Lease, databases: &Databases, database: &str) -> anyhow::Result<()> {
        if matches!(servers, Lease::Own(_)) {
            databases.migrate(database).await?;
            return Ok(());
        }
        TEMPLATE_MADE.get_or_try_init(async || databases.migrate(TEMPLATE).await.map(|_| ())).await?;
        databases.copy(TEMPLATE, database).await?;
        if self.unmigrated {
            let mut superuser = PgConnection::connect(databases.superuser_url(database).expose()).await?;
            for service in SERVICES {
                let anew =
                    format!("DROP SCHEMA {service} CASCADE; CREATE SCHEMA {service} AUTHORIZATION {service}_owner");
                sqlx::raw_sql(AssertSqlSafe(anew)).execute(&mut superuser).await?;
            }
        }
        Ok(())
    }
}

impl Platform {
    /// Brings one service's schema to its present version.
    pub async fn migrate(&self, service: &str) -> anyhow::Result<()> {
        let options = self.deployment.options();
        let url = options.databases.url(&format!("{service}_owner"), &options.database)?;
        migrate(&url, service).await?;
        Ok(())
    }

    /// Brings every schema to its present version, as `trunkline migrate` does.
    pub async fn migrate_all(&self) -> anyhow::Result<()> {
        let options = self.deployment.options();
        options.databases.migrate(&options.database).await?;
        Ok(())
    }

    /// Starts several more instances of a service at once.
    pub fn add_many(&mut self, service: &str, count: usize) -> Vec<Process> {
        (0..count).map(|_| self.add(service)).collect()
    }
}
