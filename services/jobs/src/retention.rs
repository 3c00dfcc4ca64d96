//! Forgets what is old, and sees to it that what was to be cancelled is, and that what cannot be read does not come again and again.

use std::time::Duration;

use chrono::TimeDelta;
use kernel::{Context, Lifecycle, Result};

use crate::{Jobs, handlers, storage};

/// How often.
const INTERVAL: Duration = Duration::from_secs(10);

/// Rows deleted at once.
const ROWS_MAX: i64 = 5_000;

/// At least so long it is known what was decided for a time of a schedule: longer than the broker has it.
const TICKS_KEPT: TimeDelta = TimeDelta::days(2);

/// How long a step may take.
const STEP_MAX: Duration = Duration::from_secs(10);

/// How long after its time a job that was to be cancelled counts as gone.
const GONE_AFTER: TimeDelta = TimeDelta::minutes(1);

pub(crate) async fn keep(jobs: &Jobs, life: &Lifecycle) {
    let stop = life.stop_token();
    while stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
        if let Err(error) = step(jobs).await {
            tracing::debug!(?error, "What is old cannot be forgotten just now.");
        }
        if let Err(error) = jobs.engine.broker().bury_unreadable(jobs.clock.now()).await {
            tracing::debug!(?error, "What cannot be read cannot be looked for just now.");
        }
    }
}

async fn step(jobs: &Jobs) -> Result<()> {
    let now = jobs.clock.now();
    let mut connection = jobs.database.pool().acquire().await?;
    storage::delete_ended(&mut connection, now - jobs.settings.history_retention(), ROWS_MAX).await?;
    storage::delete_letters_before(&mut connection, now - jobs.settings.dead_letter_retention(), ROWS_MAX).await?;
    let decided = jobs.settings.history_retention().max(TICKS_KEPT);
    storage::delete_ticks(&mut connection, now - decided, ROWS_MAX).await?;
    drop(connection);
    let cx = Context::for_service("jobs", &jobs.clock, &jobs.random, STEP_MAX);
    let mut tx = jobs.database.begin(&cx).await?;
    for job in storage::list_to_cancel(&mut tx).await? {
        handlers::enforce_cancellation(jobs, &mut tx, job, now - GONE_AFTER).await?;
    }
    tx.commit().await.map(|_| ())
}
