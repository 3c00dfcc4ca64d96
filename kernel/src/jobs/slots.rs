//! How many jobs of a queue run at once, over all instances of its runner and all priorities.
//!
//! One runner takes the jobs of such a queue at a time: in one process the bound is a matter of counting, and no job needs a lock of
//! its own. It holds a row of the database, which counts for a while and is held again and again, so what a killed runner had is
//! free when its row expires. A runner that stops, or lost its row, takes no more and says in a row of its own how many it still
//! runs; who takes has that many less.
//!
//! What this cannot bound is work of a runner that died or stood still for longer than its row counts and that goes on elsewhere:
//! a worker at `work.<queue>.<kind>` may work on for who asked no more.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::Row as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{Database, Result};

/// How long a row counts after its holder was heard of last: what a queue stands still for when its runner was killed.
const LEASE: Duration = Duration::from_secs(6);

/// A third of that.
const INTERVAL: Duration = Duration::from_secs(2);

/// How often is asked by who wants more.
const AGAIN: Duration = Duration::from_secs(1);

/// How many jobs of a queue run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concurrency {
    /// In this process; each instance has as many of its own.
    Here(u32),
    /// Over all instances, whatever their priority. Needs the engine's database; without one it is as [`Concurrency::Here`].
    Everywhere(u32),
}

impl Concurrency {
    /// The bound for one process.
    pub(super) fn here(self) -> usize {
        let (Self::Here(number) | Self::Everywhere(number)) = self;
        usize::try_from(number).unwrap_or(usize::MAX).max(1)
    }
}

/// How many may run here, for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    slots: usize,
    until: Instant,
}

impl Limit {
    /// None may, until it is known.
    pub(super) fn none() -> Self {
        Self { slots: 0, until: Instant::now() }
    }

    /// For one that is not limited beyond its own process.
    pub(super) fn always(slots: usize) -> Self {
        // Longer than any process lives.
        Self { slots, until: Instant::now() + Duration::from_hours(24 * 365 * 30) }
    }

    /// How many may run now.
    pub(super) fn now(self) -> usize {
        if Instant::now() < self.until { self.slots } else { 0 }
    }

    /// Completes when none may any more.
    pub(super) async fn end(self) {
        sleep_until(self.until).await;
    }
}

/// The slots of one queue that one runner has.
pub(super) struct Slots<'a> {
    pub(super) database: &'a Database,
    pub(super) queue: &'a str,
    pub(super) concurrency: usize,
    pub(super) holder: Uuid,
}

impl Slots<'_> {
    /// Says again and again how many may run here; none that is new once `stop` is cancelled. Never completes.
    pub(super) async fn keep(&self, running: &AtomicUsize, limit: &watch::Sender<Limit>, stop: &CancellationToken) {
        loop {
            let (asked, stopping) = (Instant::now(), stop.is_cancelled());
            let pause = match timeout(INTERVAL, self.ask(running.load(Ordering::Relaxed), stopping)).await {
                Ok(Ok(slots)) => {
                    limit.send_replace(Limit { slots, until: asked + LEASE });
                    if slots == self.concurrency { INTERVAL } else { AGAIN }
                }
                // What it has counts until it has expired.
                Ok(Err(error)) => {
                    tracing::warn!(queue = self.queue, ?error, "The slots of a queue cannot be asked for just now.");
                    AGAIN
                }
                Err(_) => AGAIN,
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.cancelled(), if !stopping => {}
            }
        }
    }

    /// Nothing runs here any more. What does not succeed here expires.
    pub(super) async fn give_back(&self) {
        let deleted = sqlx::query("DELETE FROM job_slots WHERE queue = $1 AND holder = $2")
            .bind(self.queue)
            .bind(self.holder)
            .execute(self.database.pool());
        if !matches!(timeout(INTERVAL, deleted).await, Ok(Ok(_))) {
            tracing::warn!(
                queue = self.queue,
                "The slots of a queue cannot be given back; they are free when they expire."
            );
        }
    }

    /// What most instances ask again and again, without a lock.
    async fn is_taken_elsewhere(&self) -> Result<bool> {
        let taken = sqlx::query_scalar::<_, bool>(
            "SELECT EXISTS (SELECT FROM job_slots WHERE queue = $1 AND holder <> $2 AND takes \
             AND expires_at > clock_timestamp())",
        );
        Ok(taken.bind(self.queue).bind(self.holder).fetch_one(self.database.pool()).await?)
    }

    /// How many may run here, where so many do.
    async fn ask(&self, running: usize, stopping: bool) -> Result<usize> {
        if running == 0 && !stopping && self.is_taken_elsewhere().await? {
            return Ok(0);
        }
        let mut tx = self.database.pool().begin().await?;
        // Runners of a queue ask one after the other.
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('job_slots.' || current_schema() || '.' || $1, 0))")
            .bind(self.queue)
            .execute(&mut *tx)
            .await?;
        sqlx::query("DELETE FROM job_slots WHERE queue = $1 AND holder <> $2 AND expires_at < clock_timestamp()")
            .bind(self.queue)
            .bind(self.holder)
            .execute(&mut *tx)
            .await?;
        let others = sqlx::query(
            "SELECT coalesce(bool_or(takes), false) AS taken, coalesce(sum(slots), 0) AS slots FROM job_slots \
             WHERE queue = $1 AND holder <> $2",
        )
        .bind(self.queue)
        .bind(self.holder)
        .fetch_one(&mut *tx)
        .await?;
        let takes = !stopping && !others.get::<bool, _>("taken");
        let elsewhere = usize::try_from(others.get::<i64, _>("slots")).unwrap_or_default();
        let slots = if takes { self.concurrency.saturating_sub(elsewhere) } else { 0 };
        if takes || running > 0 {
            sqlx::query(
                "INSERT INTO job_slots (queue, holder, takes, slots, expires_at) \
                 VALUES ($1, $2, $3, $4, clock_timestamp() + make_interval(secs => $5)) \
                 ON CONFLICT (queue, holder) DO UPDATE SET takes = excluded.takes, slots = excluded.slots, \
                     expires_at = excluded.expires_at",
            )
            .bind(self.queue)
            .bind(self.holder)
            .bind(takes)
            .bind(i32::try_from(slots.max(running)).unwrap_or(i32::MAX))
            .bind(LEASE.as_secs_f64())
        } else {
            sqlx::query("DELETE FROM job_slots WHERE queue = $1 AND holder = $2").bind(self.queue).bind(self.holder)
        }
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(slots)
    }
}
