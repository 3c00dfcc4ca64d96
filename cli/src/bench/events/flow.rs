//! Our side: committed in an outbox, relayed, consumed with an inbox, and an effect committed.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use futures::future::join_all;
use kernel::data::consumer::ConsumerParts;
use kernel::data::measures::{ByOutcome, ConsumerMeasures, RelayMeasures};
use kernel::data::relay::Relay;
use kernel::settings;
use kernel::{Clock, Consumers, Context, Database, Lifecycle, Message, Random, Transaction};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use subjects::audit::v1::Record;
use subjects::identity::v1::UserRegistered;
use subjects::{ConsumerContract, ServiceContract};

use super::{Load, Side};
use crate::bench::bed::Bed;
use crate::platform::nats::client;
use crate::platform::nats::users::Account;

/// Audit's consumer with another effect.
static CONTRACT: ServiceContract = ServiceContract {
    name: "audit",
    version: "0.0.0",
    description: "The benchmark's consumer.",
    endpoints: &[],
    events: &[],
    calls: &[],
    consumers: &[ConsumerContract { stream: "AUDIT", durable: "audit", filters: &["audit.>"] }],
    watches: &[],
    buckets: &[],
    enqueues: &[],
    jobs: &[],
};

/// How often it is looked which effects have been committed: the lag is measured no finer.
const LOOK_INTERVAL: Duration = Duration::from_micros(500);

/// How long what was committed may take to have its effect.
const EFFECT_WITHIN: Duration = Duration::from_mins(1);

/// How long one transaction may take.
const COMMIT_WITHIN: Duration = Duration::from_secs(10);

pub(super) struct Flow {
    acting: Database,
    committers: usize,
    per_commit: usize,
    board: Arc<Board>,
    consuming: ConsumerParts,
    /// The relay's.
    life: Lifecycle,
    superuser: PgConnection,
}

/// When each event was committed, and which batches are on their way to their commit.
#[derive(Default)]
struct Board {
    commits: Mutex<Vec<Option<Instant>>>,
    /// Events of each batch that a handler has had, in order.
    batches: Mutex<VecDeque<Vec<usize>>>,
    /// Events handed out.
    next: AtomicU64,
}

impl Flow {
    pub(super) async fn open(bed: &Bed, account: &Account, database: &str, load: &Load) -> Result<Self> {
        let databases = bed.servers.databases();
        let mut superuser = PgConnection::connect(databases.superuser_url(database).expose()).await?;
        let table =
            "CREATE TABLE audit.bench_effects (event bigint NOT NULL); GRANT INSERT ON audit.bench_effects TO audit";
        sqlx::raw_sql(AssertSqlSafe(table)).execute(&mut superuser).await?;

        let connections_max = u32::try_from(load.committers)? + 2;
        let settings = settings::Database { connections_max, acquire_timeout_ms: 10_000, ..Default::default() };
        let connect = async |service: &'static str| {
            let url = databases.url(service, database)?;
            Database::connect(&url, service, "bench", &settings).await.map_err(|error| anyhow!("{error:?}"))
        };
        let (acting, consuming) = (connect("identity").await?, connect("audit").await?);
        let url = bed.servers.nats_url();
        let identity = client::connect(url, &account.key_file("identity"), "identity").await?;
        let audit = client::connect(url, &account.key_file("audit"), "audit").await?;

        let life = Lifecycle::new();
        let relay = Relay::new(acting.clone(), identity, Random::system(), RelayMeasures::default());
        life.spawn("relay", relay.run(life.stop_token()));
        let consuming = ConsumerParts {
            database: consuming,
            client: audit,
            clock: Clock::system(),
            random: Random::system(),
            settings: settings::Consumers::default(),
            measures: ConsumerMeasures::default(),
        };
        Ok(Self {
            acting,
            committers: load.committers,
            per_commit: load.per_commit,
            board: Arc::default(),
            consuming,
            life,
            superuser,
        })
    }

    /// Commits for `duration`, as fast as it goes or at `rate` events a second, and waits for all effects.
    pub(super) async fn run(&self, duration: Duration, rate: Option<u64>) -> Result<Side> {
        // The consumer reads only meanwhile: the raw side's messages are not its.
        let life = Lifecycle::new();
        let mut consumers = Consumers::new(&CONTRACT);
        consumers.batch("AUDIT", "audit", |board, tx, messages| Box::pin(have_effect(board, tx, messages)));
        consumers.start(&self.board, &self.consuming, &life).map_err(|error| anyhow!("{error:?}"))?;
        let start = Instant::now();
        let from = self.board.next.load(Ordering::Relaxed);
        let handled_before = self.handled();
        let committing = AtomicU64::new(0);
        let pause = rate.map(|rate| Duration::from_secs_f64((self.committers * self.per_commit) as f64 / rate as f64));
        let committers = (0..self.committers).map(|_| self.commit_until(start + duration, pause));
        let commit_all = async {
            join_all(committers).await.into_iter().collect::<Result<Vec<()>>>()?;
            committing.store(1, Ordering::Relaxed);
            anyhow::Ok(())
        };
        let ((), lags_us) = tokio::try_join!(commit_all, self.observe(from, handled_before, &committing))?;
        let took = start.elapsed();
        life.stop();
        ensure!(life.join(EFFECT_WITHIN).await, "the consumer does not end");
        Ok(Side { count: self.board.next.load(Ordering::Relaxed) - from, took, lags_us })
    }

    async fn commit_until(&self, until: Instant, pause: Option<Duration>) -> Result<()> {
        let (clock, random) = (Clock::system(), Random::system());
        let mut due = Instant::now() + pause.unwrap_or_default().mul_f64(random.fraction());
        while Instant::now() < until {
            if let Some(pause) = pause {
                tokio::time::sleep_until(due.into()).await;
                due += pause;
            }
            let cx = Context::for_service("identity", &clock, &random, COMMIT_WITHIN);
            let first = self.board.next.fetch_add(self.per_commit as u64, Ordering::Relaxed);
            let first = usize::try_from(first)?;
            let mut transaction = self.acting.begin(&cx).await?;
            for number in first..first + self.per_commit {
                transaction.publish(&UserRegistered { user_id: number.to_string() }).await?;
            }
            transaction.commit().await?;
            let mut commits = self.board.commits.lock().unwrap_or_else(PoisonError::into_inner);
            if commits.len() < first + self.per_commit {
                commits.resize(first + self.per_commit, None);
            }
            commits[first..first + self.per_commit].fill(Some(Instant::now()));
        }
        Ok(())
    }

    /// Notes the lag of each event when the transaction of its batch has been committed, until all have had their effect.
    async fn observe(&self, from: u64, handled_before: u64, committing: &AtomicU64) -> Result<Vec<f64>> {
        let mut lags_us = Vec::new();
        let (mut committed, mut last) = (handled_before, Instant::now());
        loop {
            let handled = self.handled();
            let now = Instant::now();
            while committed < handled {
                let batch = self.board.batches.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some(batch) = batch else { break };
                committed += batch.len() as u64;
                last = now;
                let commits = self.board.commits.lock().unwrap_or_else(PoisonError::into_inner);
                // An effect may come before the committer has noted its own commit: no lag.
                let lag = |number: &usize| {
                    commits
                        .get(*number)
                        .copied()
                        .flatten()
                        .map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64() * 1e6)
                };
                lags_us.extend(batch.iter().map(lag));
            }
            let all = self.board.next.load(Ordering::Relaxed) - from;
            if committing.load(Ordering::Relaxed) == 1 && lags_us.len() as u64 >= all {
                return Ok(lags_us);
            }
            ensure!(last.elapsed() < EFFECT_WITHIN, "{} of {all} events have had their effect", lags_us.len());
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Messages whose effect is committed.
    fn handled(&self) -> u64 {
        self.consuming.measures.messages.get_or_create(&ByOutcome { consumer: "audit", outcome: "handled" }).get()
    }

    /// Ends the relay, and fails where an event had no effect or two.
    pub(super) async fn stop(self) -> Result<()> {
        self.life.stop();
        ensure!(self.life.join(EFFECT_WITHIN).await, "the relay does not end");
        let mut session = self.superuser;
        let count = "SELECT count(*), count(DISTINCT event) FROM audit.bench_effects";
        let (all, distinct): (i64, i64) = sqlx::query_as(count).fetch_one(&mut session).await?;
        let expected = i64::try_from(self.board.next.load(Ordering::Relaxed))?;
        ensure!((all, distinct) == (expected, expected), "{expected} events had {all} effects, {distinct} different");
        Ok(())
    }
}

/// One row for each event.
async fn have_effect(board: &Board, tx: &mut Transaction, messages: &[Message]) -> kernel::Result<()> {
    let mut numbers = Vec::with_capacity(messages.len());
    for message in messages {
        let record: Record = message.decode()?;
        let number: i64 = record.target.unwrap_or_default().id.parse().unwrap_or(-1);
        numbers.push(number);
    }
    let insert = "INSERT INTO audit.bench_effects (event) SELECT * FROM unnest($1::bigint[])";
    sqlx::query(insert).bind(&numbers).execute(&mut **tx).await?;
    let numbers = numbers.into_iter().map(|number| usize::try_from(number).unwrap_or(usize::MAX)).collect();
    board.batches.lock().unwrap_or_else(PoisonError::into_inner).push_back(numbers);
    Ok(())
}
