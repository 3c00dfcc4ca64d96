//! Gives the bucket of checkpoints back what its broker lost. What is younger than a day the outbox sends again by itself;
//! the rest is here, in the table.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use kernel::Result;

use crate::domain::hashed_time;
use crate::signing::{context, put};
use crate::{Audit, storage};

/// Younger checkpoints are still in the outbox, and so not this module's.
const OUTBOX_KEPT: TimeDelta = TimeDelta::hours(24);

/// Checkpoints of one transaction.
const STEP: i64 = 500;

/// How long the broker may take to answer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Puts all checkpoints again unless the first one is there. It is put last, so what breaks off begins anew; a checkpoint that
/// is there twice harms nothing.
pub(crate) async fn restore(audit: &Audit, now: DateTime<Utc>) -> Result<()> {
    let mut connection = audit.database.pool().acquire().await?;
    let first = storage::find_first_checkpoint(&mut connection).await?;
    drop(connection);
    let Some(first) = first.filter(|first| first.time < hashed_time(now - OUTBOX_KEPT)) else { return Ok(()) };
    if audit.bucket.contains(&first.sequence.to_string(), TIMEOUT).await? {
        return Ok(());
    }
    let (mut before, mut restored) = (None, 0);
    loop {
        let mut tx = audit.database.begin(&context(audit)).await?;
        let checkpoints = storage::list_checkpoints(&mut tx, before, STEP).await?;
        let Some(last) = checkpoints.last() else { break };
        before = Some(last.sequence);
        restored += checkpoints.len();
        for checkpoint in &checkpoints {
            put(&mut tx, checkpoint).await?;
        }
        tx.commit().await?;
    }
    tracing::warn!(restored, "The bucket had lost checkpoints; all are put into it again.");
    Ok(())
}
