//! Jobs submitted with changes: a thousand in a transaction, committed in the outbox, relayed into the work queue. The kernel's own
//! parts, in this process, on identity's role and broker user; the jobs are mail that nobody sends.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use futures::future::try_join_all;
use kernel::data::measures::RelayMeasures;
use kernel::data::relay::Relay;
use kernel::jobs::Submission;
use kernel::settings;
use kernel::{Clock, Context, Database, Lifecycle, Random};
use subjects::identity::v1::{SendMail, send_mail::Purpose};

use super::queue::{Queue, Side};
use crate::bench::bed::Bed;
use crate::bench::cost;
use crate::bench::report::Round;
use crate::platform::nats::client;
use crate::platform::nats::users::Account;

/// A database of the benchmark's own: the platform's processes relay what is in theirs.
const DATABASE: &str = "bench_jobs";

const SERVICE: &str = "identity";

/// The queue that it may submit to.
const QUEUE: &str = "mail";

/// Transactions under way at once, and jobs of each.
const COMMITTERS: u32 = 4;
const BATCH: u64 = 1_000;

/// How long one transaction may take.
const COMMIT_WITHIN: Duration = Duration::from_secs(30);

/// How long the relay may take to end.
const STOP_WITHIN: Duration = Duration::from_secs(30);

pub(super) struct Outbox<'a> {
    bed: &'a Bed,
    database: Database,
    queue: Queue,
    /// The relay's.
    life: Lifecycle,
}

impl<'a> Outbox<'a> {
    pub(super) async fn open(bed: &'a Bed, account: &Account) -> Result<Self> {
        let databases = bed.servers.databases().without_connection_limits();
        databases.migrate(DATABASE).await?;
        let settings = settings::Database {
            connections_max: COMMITTERS + 2,
            acquire_timeout_ms: 10_000,
            ..settings::Database::default()
        };
        let url = databases.url(SERVICE, DATABASE)?;
        let database =
            Database::connect(&url, SERVICE, "bench", &settings).await.map_err(|error| anyhow!("{error:?}"))?;
        let url = bed.servers.nats_url();
        let client = client::connect(url, &account.key_file(SERVICE), SERVICE).await?;
        let life = Lifecycle::new();
        let relay = Relay::new(database.clone(), client, Random::system(), RelayMeasures::default());
        life.spawn("relay", relay.run(life.stop_token()));
        let queue = Queue::open(url, account, QUEUE, super::RAW_PENDING_MAX).await?;
        Ok(Self { bed, database, queue, life })
    }

    /// Commits for `duration` as fast as it goes, and waits until all is stored in the work queue. What a transaction took is the
    /// lag. Empties the queue behind that.
    pub(super) async fn enqueue(&self, duration: Duration) -> Result<Round> {
        ensure!(self.queue.waiting().await? == 0, "mail waits already");
        let (before, start) = (self.cpu_us()?, Instant::now());
        let committers = (0..COMMITTERS).map(|_| self.commit_until(start + duration));
        let lags_us: Vec<f64> = try_join_all(committers).await?.concat();
        let count = lags_us.len() as u64 * BATCH;
        self.queue.filled(count).await?;
        let side = Side { count, took: start.elapsed(), lags_us };
        let round = side.round(self.cpu_us()? - before);
        self.queue.consume().await.context("emptying the queue")?;
        Ok(round)
    }

    async fn commit_until(&self, until: Instant) -> Result<Vec<f64>> {
        let (clock, random) = (Clock::system(), Random::system());
        let mut lags_us = Vec::new();
        while Instant::now() < until {
            let began = Instant::now();
            let cx = Context::for_service(SERVICE, &clock, &random, COMMIT_WITHIN);
            let mut transaction = self.database.begin(&cx).await?;
            for _ in 0..BATCH {
                let user_id = cx.new_id().to_string();
                let mail = SendMail { user_id, purpose: Purpose::AccountCreated.into() };
                transaction.enqueue(Submission::of(&mail, cx.new_id())).await?;
            }
            transaction.commit().await?;
            lags_us.push(began.elapsed().as_secs_f64() * 1e6);
        }
        Ok(lags_us)
    }

    /// Of this process, nats-server and PostgreSQL.
    fn cpu_us(&self) -> Result<f64> {
        let mut pids = self.bed.pids(&[])?;
        pids.push(std::process::id());
        let database = match self.bed.servers.postgres().and_then(|postgres| postgres.state().pid) {
            Some(pid) => cost::tree_us(pid)?,
            None => 0.0,
        };
        Ok(cost::cpu_us(&pids)? + database)
    }

    pub(super) async fn stop(self) -> Result<()> {
        self.life.stop();
        ensure!(self.life.join(STOP_WITHIN).await, "the relay does not end");
        Ok(())
    }
}
