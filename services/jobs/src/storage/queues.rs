//! Queues and how they are run.

use chrono::{DateTime, Utc};
use kernel::jobs::Rate;
use sqlx::PgConnection;

use super::{number, unsigned};
use crate::domain::QueueSettings;

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
}

impl From<QueueRow> for (String, QueueSettings) {
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
        (row.name, settings)
    }
}

/// Every queue that has appeared or was declared, by name.
pub(crate) async fn list_queues(connection: &mut PgConnection) -> Result<Vec<(String, QueueSettings)>, sqlx::Error> {
    let rows = sqlx::query_as!(
        QueueRow,
        "SELECT name, concurrency, is_exact, backoff_base_ms, backoff_max_ms, max_attempts, timeout_ms, rate_per_second, rate_burst \
         FROM jobs.queues ORDER BY name",
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(Into::into).collect())
}

/// One queue.
pub(crate) async fn find_queue(
    connection: &mut PgConnection,
    name: &str,
) -> Result<Option<QueueSettings>, sqlx::Error> {
    let row = sqlx::query_as!(
        QueueRow,
        "SELECT name, concurrency, is_exact, backoff_base_ms, backoff_max_ms, max_attempts, timeout_ms, rate_per_second, rate_burst \
         FROM jobs.queues WHERE name = $1",
        name,
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| <(String, QueueSettings)>::from(row).1))
}

/// Makes queues that are not there yet.
pub(crate) async fn make_queues(
    connection: &mut PgConnection,
    names: &[String],
    settings: &QueueSettings,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    if names.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO jobs.queues (name, concurrency, backoff_base_ms, backoff_max_ms, max_attempts, timeout_ms, updated_at) \
         SELECT name, $2, $3, $4, $5, $6, $7 FROM unnest($1::text[]) AS name ON CONFLICT (name) DO NOTHING",
        names,
        number(settings.concurrency),
        number(settings.backoff_base_ms),
        number(settings.backoff_max_ms),
        number(settings.max_attempts),
        number(settings.timeout_ms),
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Makes a queue or changes it.
pub(crate) async fn put_queue(
    connection: &mut PgConnection,
    name: &str,
    settings: &QueueSettings,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO jobs.queues (name, concurrency, backoff_base_ms, backoff_max_ms, max_attempts, timeout_ms, \
         rate_per_second, rate_burst, is_exact, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
         ON CONFLICT (name) DO UPDATE SET concurrency = excluded.concurrency, backoff_base_ms = excluded.backoff_base_ms, \
         backoff_max_ms = excluded.backoff_max_ms, max_attempts = excluded.max_attempts, timeout_ms = excluded.timeout_ms, \
         rate_per_second = excluded.rate_per_second, rate_burst = excluded.rate_burst, \
         is_exact = excluded.is_exact, updated_at = excluded.updated_at",
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
    .execute(connection)
    .await?;
    Ok(())
}
