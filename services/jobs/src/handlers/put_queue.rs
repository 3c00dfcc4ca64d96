//! A queue is declared or changed. Its runners see it within their next look.

use std::collections::BTreeSet;

use kernel::jobs::Rate;
use kernel::{Context, FieldError, Result};
use serde_json::json;
use subjects::job;
use subjects::jobs::v1::{PutQueueRequest, Queue};

use super::wire::{queue_to_wire, record};
use crate::Jobs;
use crate::domain::{QueueSettings, check_queue};
use crate::error::JobsError;
use crate::queues;
use crate::storage::{self, StoredQueue};

pub(crate) async fn put_queue(jobs: &Jobs, cx: &Context, request: PutQueueRequest) -> Result<Queue> {
    let mut faults = Vec::new();
    if job::runner_of(&request.queue).is_some() {
        faults.push(FieldError::new("/queue", "reserved", "is run as its service's contract declares"));
    } else if let Err(fault) = check_queue(&request.queue) {
        faults.push(fault);
    }
    let given = QueueSettings {
        concurrency: request.concurrency,
        is_exact: false,
        backoff_base_ms: request.backoff_base_ms,
        backoff_max_ms: request.backoff_max_ms,
        max_attempts: request.max_attempts,
        timeout_ms: request.timeout_ms,
        rate: (request.rate_per_second != 0.0 || request.rate_burst != 0)
            .then_some(Rate { per_second: request.rate_per_second, burst: request.rate_burst }),
    };
    let settings = QueueSettings::parse(&given).map_err(|more| faults.extend(more)).ok();
    let Some(settings) = settings.filter(|_| faults.is_empty()) else { return Err(JobsError::Invalid(faults).into()) };

    let mut tx = jobs.database.begin(cx).await?;
    let before = storage::lock_queue(&mut tx, &request.queue).await?;
    let is_new = before.is_none();
    cx.check_if_match(before.map(|queue| queue.revision))?;
    if is_new {
        queues::admit_in(jobs, &mut tx, cx, &BTreeSet::from([request.queue.as_str()])).await?;
    }
    let revision = storage::put_queue(&mut tx, &request.queue, &settings, cx.now()).await?;
    let details = json!({
        "concurrency": settings.concurrency,
        "maxAttempts": settings.max_attempts,
        "ratePerSecond": settings.rate.map(|rate| rate.per_second),
    });
    record(&mut tx, "jobs.queue.put", "queue", &request.queue, details).await?;
    jobs.engine.broker().declare(&request.queue, settings.concurrency).await?;
    tx.commit().await?;
    jobs.queues.notify_one();
    let state = jobs.engine.broker().queue(&request.queue).await?.unwrap_or_default();
    let queue = StoredQueue { name: request.queue, settings, revision };
    Ok(queue_to_wire(&queue, &state, cx.now()))
}
