//! Dead letters go back into their queues, the oldest first. The rate is that of their schedules, so nothing has to stay awake.

use chrono::{DateTime, TimeDelta, Utc};
use kernel::{Context, FieldError, Result};
use serde_json::json;
use subjects::jobs::v1::{ReplayDeadLettersReply, ReplayDeadLettersRequest};

use super::replay_dead_letter::{put_back_letter, submission};
use super::wire::{given, record};
use crate::Jobs;
use crate::error::JobsError;
use crate::storage::{self, LetterFilter};

/// Letters of one call.
const LETTERS_MAX: i64 = 1_000;

/// The highest rate; beyond it there might as well be none.
const RATE_MAX: u32 = 1_000;

pub(crate) async fn replay_dead_letters(
    jobs: &Jobs,
    cx: &Context,
    request: ReplayDeadLettersRequest,
) -> Result<ReplayDeadLettersReply> {
    if request.rate_per_second > RATE_MAX {
        let fault = FieldError::new("/ratePerSecond", "out_of_range", format!("must be 1 to {RATE_MAX}"));
        return Err(JobsError::Invalid(vec![fault]).into());
    }
    let Ok(failed_before) = request.failed_before.map(DateTime::<Utc>::try_from).transpose() else {
        let fault = FieldError::new("/failedBefore", "out_of_range", "must be a time of this era");
        return Err(JobsError::Invalid(vec![fault]).into());
    };
    let pause = match request.rate_per_second {
        0 => TimeDelta::zero(),
        rate => TimeDelta::microseconds(i64::from(1_000_000 / rate)),
    };
    let filter = LetterFilter { queue: given(request.queue), kind: given(request.kind), reason: None, failed_before };

    let mut tx = jobs.database.begin(cx).await?;
    let letters = storage::list_oldest_letters(&mut tx, &filter, LETTERS_MAX).await?;
    let now = cx.now();
    let mut run_at = now;
    let mut replayed = 0;
    for letter in &letters {
        // What has no name that a subject can have, or is too large for a job, stays, to be read and purged. One that a call put
        // back which came to no end is noted, and does not go twice.
        if submission(letter).is_ok() && put_back_letter(jobs, &mut tx, letter, now, run_at).await?.is_some() {
            run_at += pause;
            replayed += 1;
        }
    }
    let remaining = u32::try_from(storage::count_letters(&mut tx, &filter).await?).unwrap_or(u32::MAX);
    let details = json!({ "replayed": replayed, "queue": filter.queue, "kind": filter.kind });
    record(&mut tx, "jobs.dead_letters.replayed", "dead_letters", "", details).await?;
    tx.commit().await?;
    Ok(ReplayDeadLettersReply { replayed, remaining })
}
