//! Forgets what is old, and sees to it that what was to be cancelled is, and that what cannot be read does not come again and again.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use kernel::{Context, Lifecycle, Result};
use sqlx::PgConnection;
use tokio::time::{Instant, sleep};

use crate::{Jobs, handlers, storage};

/// How often.
const INTERVAL: Duration = Duration::from_secs(10);

/// The pause where more is left to forget.
const PAUSE: Duration = Duration::from_secs(1);

/// Rows deleted at once, and for how long before anything else is looked after.
const ROWS_MAX: i64 = 5_000;
const DELETING_MAX: Duration = Duration::from_secs(5);

/// At least so long it is known what was decided for a time of a schedule: longer than the broker has it.
const TICKS_KEPT: TimeDelta = TimeDelta::days(2);

/// How long a step may take.
const STEP_MAX: Duration = Duration::from_secs(10);

/// How long after its time a job that was to be cancelled counts as gone.
const GONE_AFTER: TimeDelta = TimeDelta::minutes(1);

pub(crate) async fn keep(jobs: &Jobs, life: &Lifecycle) {
    let stop = life.stop_token();
    let mut pause = INTERVAL;
    while stop.run_until_cancelled(sleep(pause)).await.is_some() {
        let Some(is_more) = stop.run_until_cancelled(forget(jobs)).await else { break };
        pause = if is_more { PAUSE } else { INTERVAL };
        if let Err(error) = cancel(jobs).await {
            tracing::debug!(?error, "What is to be cancelled cannot be looked for just now.");
        }
        if let Err(error) = jobs.engine.broker().bury_unreadable(jobs.clock.now()).await {
            tracing::debug!(?error, "What cannot be read cannot be looked for just now.");
        }
    }
}

/// Forgets what is old, each kind whatever becomes of the others. True where more is left.
async fn forget(jobs: &Jobs) -> bool {
    let now = jobs.clock.now();
    let ended = now - jobs.settings.history_retention();
    let failed = now - jobs.settings.dead_letter_retention();
    let decided = now - jobs.settings.history_retention().max(TICKS_KEPT);
    let left = [
        delete(jobs, "jobs", ended, |rows, before| storage::delete_ended(rows, before, ROWS_MAX).boxed()).await,
        delete(jobs, "batches", ended, |rows, before| storage::delete_batches(rows, before, ROWS_MAX).boxed()).await,
        delete(jobs, "letters", failed, |rows, before| storage::delete_letters_before(rows, before, ROWS_MAX).boxed())
            .await,
        delete(jobs, "ticks", decided, |rows, before| storage::delete_ticks(rows, before, ROWS_MAX).boxed()).await,
    ];
    left.contains(&true)
}

/// Deletes some of the rows from before a time, and says how many.
type Delete = for<'a> fn(&'a mut PgConnection, DateTime<Utc>) -> BoxFuture<'a, Result<u64, sqlx::Error>>;

/// Deletes some rows again and again while there are as many as are deleted at once. True where more is left.
async fn delete(jobs: &Jobs, what: &str, before: DateTime<Utc>, some: Delete) -> bool {
    let began = Instant::now();
    let all = async {
        let mut connection = jobs.database.pool().acquire().await?;
        while some(&mut connection, before).await? >= ROWS_MAX.unsigned_abs() {
            if began.elapsed() > DELETING_MAX {
                return Ok(true);
            }
        }
        Ok::<_, sqlx::Error>(false)
    };
    all.await.unwrap_or_else(|error| {
        tracing::warn!(what, %error, "What is old cannot be forgotten just now.");
        false
    })
}

async fn cancel(jobs: &Jobs) -> Result<()> {
    let now = jobs.clock.now();
    let cx = Context::for_service("jobs", &jobs.clock, &jobs.random, STEP_MAX);
    let mut tx = jobs.database.begin(&cx).await?;
    for job in storage::list_to_cancel(&mut tx).await? {
        handlers::enforce_cancellation(jobs, &mut tx, job, now - GONE_AFTER).await?;
    }
    tx.commit().await.map(|_| ())
}
