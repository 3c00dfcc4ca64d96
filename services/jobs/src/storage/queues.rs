//! Queues and how they are run.

use chrono::{DateTime, Utc};
use kernel::jobs::Rate;
use sqlx::PgConnection;

use super::{number, unsigned};
use crate::domain::QueueSettings;

/// A queue as it is kept.
#[derive(Clone, Debug)]
pub(crate) struct StoredQueue {
    pub name: String,
    pub settings: QueueSettings,
    /// Another one after each edit.
    pub revision: i64,
}

struct QueueRow {
    name: String,
    concurrency: i32,
    is_exact: bool,
    backoff_base_ms: i32,
    backoff_max_ms: i32,
    max_attempts: i32,
    timeout_ms: i32,
    rate_per_second: Option<f64>,
    rate_burst: Option<i32>,
    revision: i64,
}

impl From<QueueRow> for StoredQueue {
    fn from(row: QueueRow) -> Self {
        let settings = QueueSettings {
            concurrency: unsigned(row.concurrency),
            is_exact: row.is_exact,
            backoff_base_ms: unsigned(row.backoff_base_ms),
            backoff_max_ms: unsigned(row.backoff_max_ms),
            max_attempts: unsigned(row.max_attempts),
            timeout_ms: unsigned(row.timeout_ms),
            rate: row
                .rate_per_second
                .zip(row.rate_burst)
                .map(|(per_second, burst)| Rate { per_second, burst: unsigned(burst) }),
        };
        Self { name: row.name, settings, revision: row.revision }
    }
}

/// Every queue that has appeared or was declared, by name.
pub(crate) async fn list_queues(connection: &mut PgConnection) -> Result<Vec<StoredQueue>, sqlx::Error> {
    let rows = sqlx::query_as!(
        QueueRow,
        "SELECT name, concurrency, is_exact, backoff_base_ms, backoff_max_ms, max_attempts, timeout_ms, rate_per_second, rate_burst, \
         revision FROM jobs.queues ORDER BY name",
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(Into::into).collect())
}

/// One queue.
pub(crate) async fn find_queue(connection: &mut PgConnection, name: &str) -> Result<Option<StoredQueue>, sqlx::Error> {
    let row = sqlx::query_as!(
        QueueRow,
        "SELECT name, concurrency, is_exact, backoff_base_ms, backoff_max_ms, max_attempts, timeout_ms, rate_per_second, rate_burst, \
         revision FROM jobs.queues WHERE name = $1",
        name,
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(Into::into))
}

/// One queue, kept as it is until the transaction ends.
pub(crate) async fn lock_queue(connection: &mut PgConnection, name: &str) -> Result<Option<StoredQueue>, sqlx::Error> {
    sqlx::query!("SELECT FROM jobs.queues WHERE name = $1 FOR UPDATE", name).fetch_optional(&mut *connection).await?;
    find_queue(connection, name).await
}

/// Makes those of these queues that are not there yet, in the order of their names, for as long as there are no more than `max` in
/// all. Gives those for which there is no room. Of all who do this one does at a time, until its transaction ends.
pub(crate) async fn make_queues(
    connection: &mut PgConnection,
    names: &[String],
    max: u32,
    now: DateTime<Utc>,
) -> Result<Vec<String>, sqlx::Error> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended('jobs.queues', 0))").execute(&mut *connection).await?;
    let settings = QueueSettings::default();
    sqlx::query!(
        "INSERT INTO jobs.queues (name, concurrency, backoff_base_ms, backoff_max_ms, max_attempts, timeout_ms, updated_at) \
         SELECT name, $2, $3, $4, $5, $6, $7 FROM unnest($1::text[]) AS name \
         WHERE NOT EXISTS (SELECT FROM jobs.queues AS known WHERE known.name = name.name) \
         ORDER BY name LIMIT greatest(0, $8 - (SELECT count(*) FROM jobs.queues)) ON CONFLICT (name) DO NOTHING",
        names,
        number(settings.concurrency),
        number(settings.backoff_base_ms),
        number(settings.backoff_max_ms),
        number(settings.max_attempts),
        number(settings.timeout_ms),
        now,
        i64::from(max),
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query_scalar!(
        r#"SELECT name AS "name!" FROM unnest($1::text[]) AS name
           WHERE NOT EXISTS (SELECT FROM jobs.queues AS known WHERE known.name = name.name)"#,
        names,
    )
    .fetch_all(connection)
    .await
}

/// Makes a queue or changes it, and gives its new revision.
pub(crate) async fn put_queue(
    connection: &mut PgConnection,
    name: &str,
    settings: &QueueSettings,
    now: DateTime<Utc>,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        "INSERT INTO jobs.queues (name, concurrency, backoff_base_ms, backoff_max_ms, max_attempts, timeout_ms, \
         rate_per_second, rate_burst, is_exact, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
         ON CONFLICT (name) DO UPDATE SET concurrency = excluded.concurrency, backoff_base_ms = excluded.backoff_base_ms, \
         backoff_max_ms = excluded.backoff_max_ms, max_attempts = excluded.max_attempts, timeout_ms = excluded.timeout_ms, \
         rate_per_second = excluded.rate_per_second, rate_burst = excluded.rate_burst, is_exact = excluded.is_exact, \
         updated_at = excluded.updated_at, revision = DEFAULT RETURNING revision",
        name,
        number(settings.concurrency),
        number(settings.backoff_base_ms),
        number(settings.backoff_max_ms),
        number(settings.max_attempts),
        number(settings.timeout_ms),
        settings.rate.map(|rate| rate.per_second),
        settings.rate.map(|rate| number(rate.burst)),
        settings.is_exact,
        now,
    )
    .fetch_one(connection)
    .await
}

/// Notes that what the broker keeps of a queue was edited, and gives the queue's new revision. The queue must be there.
pub(crate) async fn touch_queue(
    connection: &mut PgConnection,
    name: &str,
    now: DateTime<Utc>,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        "UPDATE jobs.queues SET updated_at = $2, revision = DEFAULT WHERE name = $1 RETURNING revision",
        name,
        now,
    )
    .fetch_one(connection)
    .await
}
