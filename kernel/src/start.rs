//! Putting a process together, and taking it apart in the opposite order. The same door for `main` and for tests.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::authorization::{Changes, Decide, Decisions, Nobody};
use crate::caller::Caller;
use crate::data::consumer::ConsumerParts;
use crate::data::measures::{ConsumerMeasures, RelayMeasures};
use crate::data::migrations;
use crate::data::relay::Relay;
use crate::discovery::Discovery;
use crate::endpoint::{Routes, Server, ServerParts};
use crate::jobs::{Engine, EngineParts, JobBroker, QueueHandle};
use crate::metrics::Name;
use crate::nats::{self, Connection, Requester};
use crate::readiness::Readiness;
use crate::service::{Instance, Parts};
use crate::settings::{Process, Secret};
use crate::sockets::InheritedSockets;
use crate::status::Status;
use crate::tokens::CallerKeys;
use crate::{
    Caches, Clock, ComputePool, Consumers, Database, Feeds, Ids, JobWorkers, Lifecycle, Metrics, Random, Service,
    StartError, TokenVerifier, admin,
};

/// How long one look at the broker may take before it is looked at again.
const BROKER_TIMEOUT: Duration = Duration::from_secs(5);

/// The first and the longest pause before the database is tried again.
const DATABASE_PAUSE_MIN: Duration = Duration::from_millis(100);
const DATABASE_PAUSE_MAX: Duration = Duration::from_secs(2);

/// How often the ledger of jobs forgets what is old.
const LEDGER_INTERVAL: Duration = Duration::from_hours(1);

/// The pause before it goes on with that.
const LEDGER_PAUSE: Duration = Duration::from_millis(200);

/// How long the last replies may take to leave, and infrastructure to end.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);

/// What a process is made from.
#[derive(Debug)]
pub struct Start<T> {
    /// What every process is told, checked.
    pub process: Process,
    /// The service's own settings, checked.
    pub settings: T,
    /// The time.
    pub clock: Clock,
    /// Randomness.
    pub random: Random,
    /// Sockets that were handed down.
    pub sockets: InheritedSockets,
}

impl<T> Start<T> {
    /// With the machine's time and randomness, and without sockets.
    pub fn new(process: Process, settings: T) -> Self {
        Self { process, settings, clock: Clock::system(), random: Random::system(), sockets: InheritedSockets::none() }
    }
}

/// A process that serves.
#[derive(Debug)]
pub struct Running {
    life: Lifecycle,
    infrastructure: Lifecycle,
    connection: Connection,
    database: Database,
    readiness: Readiness,
    status: Status,
    metrics: Metrics,
    drain_timeout: Duration,
}

/// Connects, builds the service and serves. Waits for broker and database for as long as they are away; fails where
/// waiting will not help.
pub async fn start<S: Service>(start: Start<S::Settings>) -> Result<Running, StartError> {
    let Start { process, settings, clock, random, sockets } = start;
    let contract = S::contract();
    let service = contract.name;
    let life = Lifecycle::new();
    let infrastructure = Lifecycle::beneath(&life);
    let metrics = Metrics::new();
    let ids = Ids::new(clock.clone(), random.clone());
    let instance = Instance { service, id: ids.new_id().simple().to_string(), name: process.instance.clone() };

    let readiness = Readiness::new(life.clone());
    let admin_address = process.admin_address;
    let admin = admin::start(admin_address, &sockets, metrics.clone(), readiness.clone(), &infrastructure).await?;
    let admin_url = format!("http://{admin}");
    let status = Status::new(process.status_file.clone(), &process.instance, &admin_url);

    let pending = nats::Pending::new(random.clone(), metrics.gauge(Name::CallsPending));
    let name = format!("{service}/{}", instance.id);
    let connection = nats::connect(&process, service, name, &metrics, &random, Arc::clone(&pending)).await?;
    let requester = Requester::start(connection.clone(), pending, service, &random, &infrastructure).await;
    let requester = requester.map_err(|error| StartError::new("the inbox cannot be opened").with_source(error))?;
    await_broker(&requester).await;
    watch_broker(&readiness, &connection);

    let database = if S::DATABASE {
        let database = open_database(&process, service, &random).await?;
        watch_database(&readiness, &database);
        database
    } else {
        Database::absent(service).await
    };

    let caller = Caller::new(requester.clone(), random.clone(), &metrics);
    let keys = CallerKeys { caller: caller.clone(), service, clock: clock.clone(), random: random.clone() };
    let tokens = TokenVerifier::new(&process.tokens, Arc::new(keys), clock.clone(), &metrics);
    let drain_timeout = process.drain_timeout();
    let limits = process.endpoints.clone();
    let feeds = Feeds::new(connection.clone(), requester.clone(), &metrics, &life);
    let caches = Caches::new(&metrics);
    let changes = Changes::new();
    let decide: Arc<dyn Decide> = if contract.is_guard() {
        database.tell_of(&changes);
        let decisions = Decisions::new(caller.clone(), &changes, &caches, &metrics);
        changes.open(&feeds).await?;
        decisions
    } else {
        Arc::new(Nobody)
    };
    let patience = process.consumers.clone();
    let jobs = if contract.jobs.is_empty() && service != subjects::job::MANAGER {
        None
    } else {
        let parts = EngineParts {
            service,
            broker: JobBroker::new(requester.clone(), connection.client().clone()),
            database: S::DATABASE.then(|| database.clone()),
            clock: clock.clone(),
            random: random.clone(),
            metrics: metrics.clone(),
            life: life.clone(),
            infrastructure: infrastructure.clone(),
            drain: drain_timeout,
        };
        Some(Engine::start(parts).await?)
    };
    let built = S::build(Parts {
        settings,
        process,
        database: database.clone(),
        caller,
        clock: clock.clone(),
        random: random.clone(),
        ids,
        tokens: tokens.clone(),
        feeds,
        caches,
        changes,
        jobs: jobs.clone(),
        decide: Arc::clone(&decide),
        compute: ComputePool::new(),
        metrics: metrics.clone(),
        life: life.clone(),
        sockets,
        instance: instance.clone(),
        readiness: readiness.clone(),
        status: status.clone(),
    });
    let built = Arc::new(built.await?);
    let decide = built.decide().unwrap_or(decide);
    tokens.keep_fresh(&infrastructure);
    if S::DATABASE {
        start_relay(&database, &connection, &random, &metrics, &infrastructure);
    }

    let mut consumers = Consumers::new(contract);
    S::consumers(&mut consumers);
    let consuming = ConsumerParts {
        database: database.clone(),
        client: connection.client().clone(),
        clock: clock.clone(),
        random: random.clone(),
        settings: patience,
        measures: ConsumerMeasures::registered(&metrics),
    };
    consumers.start(&built, &consuming, &life)?;

    let mut routes = Routes::new();
    S::routes(&mut routes);
    let parts = ServerParts {
        connection: connection.clone(),
        requester: requester.clone(),
        tokens,
        decide,
        database: S::DATABASE.then(|| database.clone()),
        clock: clock.clone(),
        random,
        metrics: metrics.clone(),
        limits,
        life: life.clone(),
    };
    let endpoints = Server::start(contract, Arc::clone(&built), routes, parts, drain_timeout).await?;
    let discovery = Discovery { contract, instance, admin_url, endpoints, started: clock.now() };
    discovery.start(connection.client(), &life).await?;
    // Only what has come back over the same connection proves that the subscriptions are in force.
    await_broker(&requester).await;

    if let Some(engine) = jobs {
        let mut workers = JobWorkers::new(contract);
        S::jobs(&mut workers);
        keep_queues(workers.start(&built, &engine)?, engine, &life);
    }
    run_beside(built, &life);
    readiness.set_started();
    status.write().map_err(|error| StartError::new("the status file cannot be written").with_source(error))?;
    tracing::info!(version = contract.version, admin = %admin, "Ready.");
    Ok(Running { life, infrastructure, connection, database, readiness, status, metrics, drain_timeout })
}

impl Running {
    /// The life of the process, to stop it and to learn that it stops.
    pub fn life(&self) -> &Lifecycle {
        &self.life
    }

    /// Whether it can serve.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Where it is.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// What it counts.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Stops: takes no new work, finishes what runs within the drain time, sends what is left, leaves. Fails when
    /// something had died before, or did not end.
    pub async fn stop(self) -> Result<(), StartError> {
        self.life.stop();
        // Readers take what is on its way; everything they hand over is waited for with them.
        let ended = self.life.join(self.drain_timeout + LEAVE_TIMEOUT).await;
        if !ended {
            tracing::warn!("Work that did not end in time is abandoned.");
        }
        let flushed = timeout(LEAVE_TIMEOUT, self.connection.client().flush()).await;
        if !matches!(flushed, Ok(Ok(()))) {
            tracing::warn!("The last replies may not have left.");
        }
        self.infrastructure.stop();
        self.infrastructure.join(LEAVE_TIMEOUT).await;
        let _ = timeout(LEAVE_TIMEOUT, self.database.close()).await;
        self.status.remove();
        match self.life.failure() {
            Some(reason) => Err(StartError::new(reason)),
            None if !ended => Err(StartError::new("work did not end in time")),
            None => Ok(()),
        }
    }
}

/// Waits until the broker answers, for as long as that takes.
async fn await_broker(requester: &Requester) {
    while let Err(error) = requester.round_trip(BROKER_TIMEOUT).await {
        tracing::warn!(%error, "Still waiting for the broker.");
    }
}

fn watch_broker(readiness: &Readiness, connection: &Connection) {
    let connection = connection.clone();
    readiness.require("broker", move || {
        let connected = if connection.is_connected() { Ok(()) } else { Err("not connected".to_owned()) };
        std::future::ready(connected)
    });
}

fn watch_database(readiness: &Readiness, database: &Database) {
    let database = database.clone();
    readiness.require("database", move || {
        let database = database.clone();
        async move {
            let answer = sqlx::query("SELECT 1").execute(database.pool()).await;
            answer.map(|_| ()).map_err(|_| "does not answer".to_owned())
        }
    });
}

/// Migrates where the owner's URL is given, connects, and refuses a schema that is not ours.
async fn open_database(process: &Process, service: &'static str, random: &Random) -> Result<Database, StartError> {
    let url = process.database_url.as_ref().ok_or_else(|| StartError::new("database_url is needed"))?;
    await_database(random, || try_database(process, url, service)).await
}

/// Tries until the database is there, for as long as that takes; fails where waiting will not help.
pub(crate) async fn await_database<T, F>(random: &Random, attempt: impl Fn() -> F) -> Result<T, StartError>
where
    F: Future<Output = Result<T, StartError>>,
{
    let mut pause = DATABASE_PAUSE_MIN;
    loop {
        let error = match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if is_absent(&error) => error,
            Err(error) => return Err(error),
        };
        tracing::warn!(?error, "Still waiting for the database.");
        sleep(pause / 2 + pause.mul_f64(random.fraction() / 2.0)).await;
        pause = (pause * 2).min(DATABASE_PAUSE_MAX);
    }
}

async fn try_database(process: &Process, url: &Secret, service: &'static str) -> Result<Database, StartError> {
    let refused = |error| StartError::new("the schema is not the one this service needs").with_source(error);
    if let Some(owner) = &process.database_owner_url {
        migrations::migrate(owner, service).await.map_err(refused)?;
    }
    let database = Database::connect(url, service, &process.instance, &process.database).await?;
    migrations::check(database.pool(), service).await.map_err(refused)?;
    let unprepared = |error| StartError::new("the outbox cannot be prepared").with_source(error);
    database.prepare_outbox().await.map_err(unprepared)?;
    Ok(database)
}

/// Whether the database may come by itself: it is not reached, starting, or full.
fn is_absent(error: &StartError) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        match error.downcast_ref::<sqlx::Error>() {
            Some(sqlx::Error::PoolTimedOut | sqlx::Error::Io(_)) => return true,
            Some(sqlx::Error::Database(error)) => {
                return error.code().is_some_and(|code| code.starts_with("57P") || code.starts_with("53"));
            }
            _ => cause = error.source(),
        }
    }
    false
}

/// Outlives everything that commits.
fn start_relay(
    database: &Database,
    connection: &Connection,
    random: &Random,
    metrics: &Metrics,
    infrastructure: &Lifecycle,
) {
    let measures = RelayMeasures::registered(metrics);
    let relay = Relay::new(database.clone(), connection.client().clone(), random.clone(), measures);
    infrastructure.spawn("relay", relay.run(infrastructure.stop_token()));
}

/// Queues run for as long as the process does.
fn keep_queues(queues: Vec<QueueHandle>, engine: Engine, life: &Lifecycle) {
    let stop = life.stop_token();
    life.spawn("queues", async move {
        let queues = queues;
        loop {
            let pause = if engine.forget().await { LEDGER_PAUSE } else { LEDGER_INTERVAL };
            if stop.run_until_cancelled(sleep(pause)).await.is_none() {
                break;
            }
        }
        drop(queues);
    });
}

/// What the service does beside answering.
fn run_beside<S: Service>(service: Arc<S>, life: &Lifecycle) {
    let own = life.clone();
    life.spawn("service", async move {
        if let Err(error) = service.run(own.clone()).await {
            own.fail(format!("the service failed: {error:?}"));
        }
    });
}
