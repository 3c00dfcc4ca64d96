//! One job at a time per concurrency key, over all instances of a queue's runner.
//!
//! A key is a row that a run takes before it begins and gives back when it has ended; a runner that dies lets it expire. A job
//! whose key is taken is written down whole beside it, in the transaction that found the key taken, and acknowledged: it holds
//! no place in the queue and nobody looks again and again. Whoever gives a key back puts the one that has waited longest into
//! the queue again; what a dead runner left is found by a look every few seconds. So the order is that of waiting where nobody
//! comes straight from the queue meanwhile, and more is not promised.
//!
//! A run whose runner stood still for longer than the key counts may go on beside the next for a moment: it is ended as soon as
//! the runner sees that the key is no longer its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use subjects::job::{Lane, Place};
use subjects::subject::Token;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::broker::{Envelope, append, pairs};
use super::engine::Engine;
use super::job::Job;
use crate::{Database, Result};

/// How long a key counts as taken after its runner was heard of last.
const LEASE: Duration = Duration::from_secs(30);

/// A third of that.
const INTERVAL: Duration = Duration::from_secs(10);

/// How long the database is waited for: it is asked twice more before a key is lost.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// How often it is looked for what a dead runner left.
const SWEEP: Duration = Duration::from_secs(5);

/// Keys that are looked after in one such look.
const SWEPT_MAX: i64 = 100;

const COLUMNS: &str =
    "queue, key, kind, job_id, created_at, lane, round, attempt, waits, headers::text AS headers, body";

/// The keys that runs of this process hold. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Keys(Arc<Mutex<HashMap<Uuid, CancellationToken>>>);

/// A key that a run holds until [`Engine::give_key_back`].
pub(super) struct Holding {
    queue: String,
    key: String,
    holder: Uuid,
    /// It is not its own any more.
    pub(super) lost: CancellationToken,
}

/// What came of asking for a key.
pub(super) enum Asked {
    Taken(Holding),
    /// Another run has it; the job is kept until it is free.
    Kept,
}

impl Keys {
    /// Every step leaves the table whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, CancellationToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds them again and again until `stop`.
    pub(super) async fn keep(self, database: Database, stop: CancellationToken) {
        let mut heard = Instant::now();
        while stop.run_until_cancelled(sleep(INTERVAL)).await.is_some() {
            let held: Vec<Uuid> = self.lock().keys().copied().collect();
            if held.is_empty() {
                heard = Instant::now();
                continue;
            }
            let asked = Instant::now();
            let extended = sqlx::query_scalar::<_, Uuid>(
                "UPDATE job_keys SET expires_at = clock_timestamp() + make_interval(secs => $2) WHERE holder = ANY($1) \
                 RETURNING holder",
            )
            .bind(&held)
            .bind(LEASE.as_secs_f64())
            .fetch_all(database.pool());
            let own = match timeout(ANSWER_MAX, extended).await {
                Ok(Ok(own)) => {
                    heard = asked;
                    own
                }
                failed if heard.elapsed() + INTERVAL + ANSWER_MAX < LEASE => {
                    tracing::warn!(?failed, "Concurrency keys cannot be held just now.");
                    continue;
                }
                // Others take them from now on.
                _ => Vec::new(),
            };
            let held_now = self.lock();
            for lost in held.iter().filter(|holder| !own.contains(holder)) {
                if let Some(token) = held_now.get(lost) {
                    tracing::warn!("A concurrency key is not held any more; its job is put off.");
                    token.cancel();
                }
            }
        }
    }
}

impl Engine {
    /// Takes the key of a job, or keeps the job until the key is free: then it comes again, and this one can be acknowledged.
    pub(super) async fn take_key(&self, database: &Database, job: &Job, key: &str) -> Result<Asked> {
        let holder = self.new_id();
        let mut tx = database.pool().begin().await?;
        // Locks the row in either case, so that who gives it back sees who waits, or who waits sees that it is free.
        let taken = sqlx::query(
            "INSERT INTO job_keys AS known (queue, key, holder, expires_at) \
             VALUES ($1, $2, $3, clock_timestamp() + make_interval(secs => $4)) \
             ON CONFLICT (queue, key) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at \
             WHERE known.expires_at < clock_timestamp() RETURNING 1",
        )
        .bind(job.place.queue.to_string())
        .bind(key)
        .bind(holder)
        .bind(LEASE.as_secs_f64())
        .fetch_optional(&mut *tx)
        .await?
        .is_some();
        if taken {
            forget(&mut tx, job).await?;
        } else {
            keep(&mut tx, job, key).await?;
        }
        tx.commit().await?;
        if !taken {
            return Ok(Asked::Kept);
        }
        let lost = CancellationToken::new();
        self.keys().lock().insert(holder, lost.clone());
        Ok(Asked::Taken(Holding { queue: job.place.queue.to_string(), key: key.to_owned(), holder, lost }))
    }

    /// Lets the next have it. What does not succeed here is done when the key expires.
    pub(super) async fn give_key_back(&self, database: &Database, held: Holding) {
        self.keys().lock().remove(&held.holder);
        let given = async {
            let mut tx = database.pool().begin().await?;
            sqlx::query("DELETE FROM job_keys WHERE queue = $1 AND key = $2 AND holder = $3")
                .bind(&held.queue)
                .bind(&held.key)
                .bind(held.holder)
                .execute(&mut *tx)
                .await?;
            let next = sqlx::query(sqlx::AssertSqlSafe(format!(
                "SELECT {COLUMNS} FROM job_waiting WHERE queue = $1 AND key = $2 AND dispatched_at IS NULL \
                 ORDER BY number LIMIT 1",
            )))
            .bind(&held.queue)
            .bind(&held.key)
            .fetch_optional(&mut *tx)
            .await?;
            tx.commit().await?;
            match next.and_then(|row| read(&row)) {
                Some(next) => self.dispatch(database, &next).await,
                None => Ok(()),
            }
        };
        if let Err(error) = given.await {
            tracing::warn!(?error, "A concurrency key cannot be given back just now; it is free when it has expired.");
        }
    }

    /// Puts a job that still waits into its queue again. Its row is locked meanwhile, so that nobody takes it out who would then
    /// think that it does not come. Repeated after a crash it is the same message.
    async fn dispatch(&self, database: &Database, job: &Job) -> Result<()> {
        let mut tx = database.pool().begin().await?;
        let dispatched = sqlx::query(
            "UPDATE job_waiting SET dispatched_at = clock_timestamp() WHERE queue = $1 AND kind = $2 AND job_id = $3 \
             AND created_at = $4 AND round = $5 AND attempt = $6 AND waits = $7 AND dispatched_at IS NULL",
        )
        .bind(job.place.queue.to_string())
        .bind(job.place.kind.to_string())
        .bind(job.id.to_string())
        .bind(job.created_at)
        .bind(number(job.round))
        .bind(number(job.attempt))
        .bind(number(job.waits))
        .execute(&mut *tx)
        .await?;
        if dispatched.rows_affected() > 0 {
            self.put_off(job, job.attempt, job.waits, self.now()).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// Looks every few seconds for jobs whose key is free and who were forgotten by a runner that died, or have expired.
    pub(super) async fn sweep_keys(self, database: Database, stop: CancellationToken) {
        while stop.run_until_cancelled(sleep(SWEEP)).await.is_some() {
            if let Some(Err(error)) = stop.run_until_cancelled(self.sweep(&database)).await {
                tracing::warn!(?error, "Jobs that wait for their keys cannot be looked for just now.");
            }
        }
    }

    async fn sweep(&self, database: &Database) -> Result<()> {
        // From one key to the next: many may wait for one.
        let free = format!(
            "WITH RECURSIVE first AS ( \
                 (SELECT queue, key, number FROM job_waiting WHERE dispatched_at IS NULL ORDER BY queue, key, number LIMIT 1) \
                 UNION ALL \
                 SELECT next.queue, next.key, next.number FROM first, LATERAL ( \
                     SELECT queue, key, number FROM job_waiting \
                     WHERE dispatched_at IS NULL AND (queue, key) > (first.queue, first.key) \
                     ORDER BY queue, key, number LIMIT 1) AS next) \
             SELECT {COLUMNS} FROM first JOIN job_waiting USING (queue, key, number) \
             WHERE dispatched_at IS NULL AND NOT EXISTS ( \
                 SELECT FROM job_keys WHERE job_keys.queue = first.queue AND job_keys.key = first.key \
                 AND job_keys.expires_at > clock_timestamp()) LIMIT $1",
        );
        let expired = format!(
            "SELECT {COLUMNS} FROM job_waiting WHERE dispatched_at IS NULL AND expires_at < clock_timestamp() \
             ORDER BY expires_at LIMIT $1",
        );
        for found in [free, expired] {
            let found = sqlx::query(sqlx::AssertSqlSafe(found)).bind(SWEPT_MAX).fetch_all(database.pool()).await?;
            for job in found.iter().filter_map(read) {
                // One that the broker does not take keeps no other back.
                if let Err(error) = self.dispatch(database, &job).await {
                    tracing::warn!(?error, id = %job.id, "A job that waits for its key cannot be put back just now.");
                }
            }
        }
        Ok(())
    }

    /// The job that waits for its concurrency key in a queue of this runner, as it is to be put back. `None` where none does.
    pub async fn find_waiting(&self, place: &Place, id: &Token) -> Result<Option<Envelope>> {
        let Some(database) = self.database() else { return Ok(None) };
        let found = sqlx::query(
            "SELECT lane, headers::text AS headers FROM job_waiting \
             WHERE queue = $1 AND kind = $2 AND job_id = $3 AND dispatched_at IS NULL",
        )
        .bind(place.queue.to_string())
        .bind(place.kind.to_string())
        .bind(id.to_string())
        .fetch_optional(database.pool())
        .await?;
        Ok(found.map(|row| Envelope {
            lane: Lane::parse(row.get("lane")).unwrap_or_default(),
            headers: serde_json::from_str(row.get("headers")).unwrap_or_default(),
        }))
    }

    /// Takes a job out that waits for its concurrency key in a queue of this runner. False where it does not.
    pub async fn withdraw_waiting(&self, place: &Place, id: &Token) -> Result<bool> {
        let Some(database) = self.database() else { return Ok(false) };
        let deleted = sqlx::query(
            "DELETE FROM job_waiting WHERE queue = $1 AND kind = $2 AND job_id = $3 AND dispatched_at IS NULL",
        )
        .bind(place.queue.to_string())
        .bind(place.kind.to_string())
        .bind(id.to_string())
        .execute(database.pool())
        .await?;
        Ok(deleted.rows_affected() > 0)
    }
}

/// It waits no more.
async fn forget(tx: &mut PgConnection, job: &Job) -> Result<()> {
    sqlx::query("DELETE FROM job_waiting WHERE queue = $1 AND kind = $2 AND job_id = $3 AND created_at = $4")
        .bind(job.place.queue.to_string())
        .bind(job.place.kind.to_string())
        .bind(job.id.to_string())
        .bind(job.created_at)
        .execute(tx)
        .await?;
    Ok(())
}

/// It waits; one that was there already keeps its place in the line.
async fn keep(tx: &mut PgConnection, job: &Job, key: &str) -> Result<()> {
    let headers: Vec<(String, String)> = pairs(&job.headers).collect();
    sqlx::query(
        "INSERT INTO job_waiting \
             (queue, key, kind, job_id, created_at, lane, round, attempt, waits, expires_at, headers, body) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::jsonb, $12) \
         ON CONFLICT (queue, kind, job_id, created_at) DO UPDATE SET round = excluded.round, attempt = excluded.attempt, \
             waits = excluded.waits, dispatched_at = NULL \
         WHERE (job_waiting.round, job_waiting.attempt, job_waiting.waits) < (excluded.round, excluded.attempt, excluded.waits)",
    )
    .bind(job.place.queue.to_string())
    .bind(key)
    .bind(job.place.kind.to_string())
    .bind(job.id.to_string())
    .bind(job.created_at)
    .bind(job.place.lane.name())
    .bind(number(job.round))
    .bind(number(job.attempt))
    .bind(number(job.waits.saturating_add(1)))
    .bind(job.expires_at)
    .bind(serde_json::json!(headers).to_string())
    .bind(&job.arguments[..])
    .execute(tx)
    .await?;
    Ok(())
}

/// A job that waited; what only counts while it runs is read anew when it comes again.
fn read(row: &PgRow) -> Option<Job> {
    let token = |column: &str| Token::parse(row.get(column));
    let unsigned = |column: &str| u32::try_from(row.get::<i32, _>(column)).unwrap_or_default();
    let pairs: Vec<(String, String)> = serde_json::from_str(row.get("headers")).unwrap_or_default();
    let mut headers = HeaderMap::new();
    for (name, value) in &pairs {
        append(&mut headers, name, value);
    }
    Some(Job {
        id: token("job_id")?,
        place: Place { queue: token("queue")?, kind: token("kind")?, lane: Lane::parse(row.get("lane"))? },
        arguments: Bytes::from(row.get::<Vec<u8>, _>("body")),
        attempt: unsigned("attempt"),
        attempts_max: 0,
        timeout: Duration::ZERO,
        created_at: row.get("created_at"),
        expires_at: None,
        round: unsigned("round"),
        waits: unsigned("waits"),
        concurrency_key: Some(row.get("key")),
        unique: false,
        backoff_base: Duration::ZERO,
        backoff_max: Duration::ZERO,
        headers,
    })
}

fn number(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
