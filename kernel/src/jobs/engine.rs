//! What all queues of a process share: its word with the broker, what it holds, what it tells, and who is to stop.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::Subject;
use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt as _;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use serde::Deserialize;
use subjects::free::v1::RawJson;
use subjects::job::{self, Place, header};
use subjects::jobs::v1::Transition;
use subjects::jobs::v1::job::State;
use subjects::subject::Token;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::broker::{JobBroker, Stored, append, copied, rfc3339};
use super::delegate::Workers;
use super::job::Job;
use super::journal::{self, Entry};
use super::keys::Keys;
use super::leases::{Lease, Leases};
use super::queue::{self, QueueHandle};
use super::rate::Rate;
use super::run::Work;
use super::slots::Concurrency;
use crate::{Clock, Database, Ids, Lifecycle, Metrics, Random, Result, StartError};

/// Transitions that wait to be told; more make those who tell wait.
const ENTRIES_MAX: usize = 4_096;

/// How long the ledger keeps what it knows.
const LEDGER_KEPT: TimeDelta = TimeDelta::days(30);

/// Rows of a table that are forgotten at once.
const FORGOTTEN_MAX: i64 = 5_000;

/// Runs queues in one process. Cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    service: &'static str,
    broker: JobBroker,
    database: Option<Database>,
    clock: Clock,
    random: Random,
    ids: Ids,
    life: Lifecycle,
    drain: Duration,
    leases: Leases,
    keys: Keys,
    journal: mpsc::Sender<Entry>,
    running: Mutex<HashMap<String, Vec<Running>>>,
    /// Held by the one job that is run although it came back.
    suspect: tokio::sync::Mutex<()>,
    measures: Measures,
}

struct Running {
    place: Place,
    token: CancellationToken,
}

/// What an engine is made from.
pub(crate) struct EngineParts {
    pub(crate) service: &'static str,
    pub(crate) broker: JobBroker,
    /// Whose schema holds the ledger.
    pub(crate) database: Option<Database>,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
    pub(crate) metrics: Metrics,
    /// Of what takes jobs.
    pub(crate) life: Lifecycle,
    /// Of what tells of them, which outlasts it.
    pub(crate) infrastructure: Lifecycle,
    /// How long jobs may go on when the process stops.
    pub(crate) drain: Duration,
}

/// A queue and how its jobs ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByOutcome {
    pub(super) queue: String,
    pub(super) outcome: &'static str,
}

#[derive(Clone, Default)]
struct Measures {
    outcomes: Family<ByOutcome, Counter>,
    dead: Family<ByOutcome, Counter>,
    running: Gauge,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Which {
    queue: Option<String>,
    kind: Option<String>,
}

impl Engine {
    pub(crate) async fn start(parts: EngineParts) -> Result<Self, StartError> {
        let EngineParts { service, broker, database, clock, random, metrics, life, infrastructure, drain } = parts;
        let measures = Measures::default();
        metrics.register("trunkline_jobs_attempts", "How attempts at jobs ended", measures.outcomes.clone());
        metrics.register("trunkline_jobs_dead_lettered", "Jobs given up, by reason", measures.dead.clone());
        metrics.register("trunkline_jobs_running", "Jobs that run", measures.running.clone());
        let (journal, entries) = mpsc::channel(ENTRIES_MAX);
        let leases = Leases::default();
        let ids = Ids::new(clock.clone(), random.clone());
        let stop = infrastructure.stop_token();
        infrastructure.spawn("leases", leases.clone().keep(broker.client().clone(), stop.clone()));
        let told = journal::write(service, broker.clone(), ids.clone(), leases.clone(), entries, stop.clone());
        infrastructure.spawn("journal", told);
        let keys = Keys::default();
        if let Some(database) = &database {
            infrastructure.spawn("concurrency-keys", keys.clone().keep(database.clone(), stop.clone()));
        }
        let inner = Inner {
            service,
            broker,
            database,
            clock,
            random,
            ids,
            life,
            drain,
            leases,
            keys,
            journal,
            running: Mutex::default(),
            suspect: tokio::sync::Mutex::default(),
            measures,
        };
        let engine = Self(Arc::new(inner));
        engine.hear_cancellations(&infrastructure).await?;
        if let Some(database) = engine.database().cloned() {
            engine.life().spawn("waiting-jobs", engine.clone().sweep_keys(database, engine.life().stop_token()));
        }
        Ok(engine)
    }

    async fn hear_cancellations(&self, infrastructure: &Lifecycle) -> Result<(), StartError> {
        let heard = self.0.broker.client().subscribe("work-cancel.*").await;
        let mut heard = heard.map_err(|error| StartError::new("cancellations cannot be heard").with_source(error))?;
        let (engine, stop) = (self.clone(), infrastructure.stop_token());
        infrastructure.spawn("cancellations", async move {
            while let Some(Some(message)) = stop.run_until_cancelled(heard.next()).await {
                let id = message.subject.rsplit('.').next().unwrap_or_default();
                let which: Which = serde_json::from_slice(&message.payload).unwrap_or_default();
                for running in engine.lock().get(id).into_iter().flatten() {
                    let is = |given: Option<&String>, own: &Token| given.is_none_or(|given| *given == own.to_string());
                    if is(which.queue.as_ref(), &running.place.queue) && is(which.kind.as_ref(), &running.place.kind) {
                        running.token.cancel();
                    }
                }
            }
        });
        Ok(())
    }

    /// The broker, for who submits, cancels and manages.
    pub fn broker(&self) -> &JobBroker {
        &self.0.broker
    }

    /// For having work done by others.
    pub async fn workers(&self) -> Result<Workers, StartError> {
        Workers::start(self.0.service, self.0.broker.client(), &self.0.random, &self.0.life).await
    }

    /// Runs a queue until the handle or the process stops; at most `concurrency` of its jobs at once, and no more often than
    /// `rate` says, over all instances. Its consumers must be there, or it waits for them.
    pub fn run_queue(
        &self,
        queue: &str,
        concurrency: Concurrency,
        rate: Option<Rate>,
        work: Arc<dyn Work>,
    ) -> QueueHandle {
        queue::start(self, queue, concurrency, rate, work)
    }

    /// Tells what happens to a job, to who watches and for the history.
    pub(super) fn tell(&self, transition: Transition) -> impl Future<Output = ()> {
        self.note(transition, false)
    }

    /// Tells for the history, and where they have not seen it for those who watch.
    pub(super) fn note(&self, transition: Transition, is_shown: bool) -> impl Future<Output = ()> {
        self.enter(Entry { transition: Box::new(transition), is_shown, settles: None })
    }

    pub(super) fn service(&self) -> &'static str {
        self.0.service
    }

    pub(super) fn database(&self) -> Option<&Database> {
        self.0.database.as_ref()
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    pub(super) fn random(&self) -> &Random {
        &self.0.random
    }

    pub(super) fn new_id(&self) -> Uuid {
        self.0.ids.new_id()
    }

    pub(super) fn keys(&self) -> &Keys {
        &self.0.keys
    }

    pub(super) fn life(&self) -> &Lifecycle {
        &self.0.life
    }

    pub(super) fn drain(&self) -> Duration {
        self.0.drain
    }

    pub(super) fn leases(&self) -> &Leases {
        &self.0.leases
    }

    pub(super) fn suspect(&self) -> &tokio::sync::Mutex<()> {
        &self.0.suspect
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        self.0.clock.now()
    }

    /// Tells the end of a run, upon which the job is acknowledged.
    pub(super) fn settle(&self, transition: Transition, lease: Lease, ack: Subject) -> impl Future<Output = ()> {
        self.enter(Entry { transition: Box::new(transition), is_shown: false, settles: Some((lease, ack)) })
    }

    async fn enter(&self, entry: Entry) {
        if self.0.journal.send(entry).await.is_err() {
            tracing::warn!("A job ended after its process; it comes again.");
        }
    }

    /// Best effort: one who tells too much is not waited for.
    pub(super) fn tell_progress(&self, job: &Job, progress: String) {
        if progress.len() > job::ARGUMENTS_BYTES_MAX {
            tracing::warn!(queue = %job.place.queue, "What a job tells of its progress is too much and not told.");
            return;
        }
        let mut transition = transition(job, State::Running, self.now());
        transition.progress = Some(RawJson { text: progress });
        let _ = self.0.journal.try_send(Entry { transition: Box::new(transition), is_shown: false, settles: None });
    }

    pub(super) fn count(&self, queue: &str, outcome: &'static str) {
        self.0.measures.outcomes.get_or_create(&ByOutcome { queue: queue.to_owned(), outcome }).inc();
    }

    pub(super) fn count_dead(&self, queue: &str, outcome: &'static str) {
        self.0.measures.dead.get_or_create(&ByOutcome { queue: queue.to_owned(), outcome }).inc();
    }

    /// Has a job come again at a time, with its numbers in headers. What a crashed run decided before is decided once.
    pub(super) async fn put_off(&self, job: &Job, attempt: u32, waits: u32, run_at: DateTime<Utc>) -> Result<Stored> {
        let mut headers = copied(&job.headers, |name| name == header::UNSERVED || !header::RUNNERS.contains(&name));
        for (name, number) in [(header::ATTEMPT, attempt), (header::ROUND, job.round), (header::WAITS, waits)] {
            append(&mut headers, name, &number.to_string());
        }
        append(&mut headers, header::CREATED_AT, &rfc3339(job.created_at));
        let schedule = job.place.retry_schedule(self.service(), &job.id);
        let id = format!("{}#{}.{attempt}.{waits}", job.place.message_id(&job.id), job.round);
        self.broker().put_off(schedule, &job.place, &job.id, run_at, &id, headers, job.arguments.clone()).await
    }

    /// Registers a run, so that it can be told to stop.
    pub(super) fn begin(&self, job: &Job) -> Begun {
        let token = CancellationToken::new();
        let id = job.id.to_string();
        let running = Running { place: job.place.clone(), token: token.clone() };
        self.lock().entry(id.clone()).or_default().push(running);
        self.0.measures.running.inc();
        Begun { engine: self.clone(), id, place: job.place.clone(), token }
    }

    /// Deletes what the ledger need not know any more, some rows of each table, whatever becomes of the others. True where there
    /// may be more.
    pub(crate) async fn forget(&self) -> bool {
        let Some(database) = self.database() else { return false };
        let before = self.now() - LEDGER_KEPT;
        let mut is_more = false;
        for (table, time) in [
            ("job_ledger", "begun_at"),
            ("job_ids", "noted_at"),
            ("job_keys", "expires_at"),
            ("job_waiting", "dispatched_at"),
        ] {
            let forgotten = sqlx::query(sqlx::AssertSqlSafe(format!(
                "DELETE FROM {table} WHERE ctid = ANY (ARRAY ( \
                 SELECT ctid FROM {table} WHERE {time} < $1 LIMIT $2 FOR UPDATE SKIP LOCKED))",
            )));
            match forgotten.bind(before).bind(FORGOTTEN_MAX).execute(database.pool()).await {
                Ok(forgotten) => is_more |= forgotten.rows_affected() >= FORGOTTEN_MAX.unsigned_abs(),
                Err(error) => tracing::warn!(table, %error, "What is old cannot be forgotten just now."),
            }
        }
        is_more
    }

    /// Every step leaves the table whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<Running>>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("service", &self.0.service).finish_non_exhaustive()
    }
}

/// A run that can be told to stop, until it is dropped.
pub(super) struct Begun {
    engine: Engine,
    id: String,
    place: Place,
    pub(super) token: CancellationToken,
}

impl Drop for Begun {
    fn drop(&mut self) {
        let mut running = self.engine.lock();
        if let Some(runs) = running.get_mut(&self.id) {
            if let Some(position) = runs.iter().position(|run| run.place == self.place) {
                runs.swap_remove(position);
            }
            if runs.is_empty() {
                running.remove(&self.id);
            }
        }
        drop(running);
        self.engine.0.measures.running.dec();
    }
}

/// What is told of a job in every state.
pub(super) fn transition(job: &Job, state: State, at: DateTime<Utc>) -> Transition {
    Transition {
        job_id: job.id.as_str().to_owned(),
        queue: job.place.queue.as_str().to_owned(),
        kind: job.place.kind.as_str().to_owned(),
        state: state.into(),
        at: Some(at.into()),
        round: job.round,
        attempt: job.attempt,
        max_attempts: job.attempts_max,
        created_at: Some(job.created_at.into()),
        waits: job.waits,
        ..Transition::default()
    }
}
