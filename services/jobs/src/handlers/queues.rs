//! Queues are listed and shown, with what waits in them and what runs.

use std::collections::BTreeMap;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use kernel::{Context, Error, Result};
use subjects::job;
use subjects::jobs::v1::{GetQueueRequest, ListQueuesReply, Queue};

use super::wire::queue_to_wire;
use crate::domain::QueueSettings;
use crate::error::JobsError;
use crate::storage::StoredQueue;
use crate::{Jobs, storage};

/// Queues that the broker is asked about at once.
const AT_ONCE: usize = 16;

pub(crate) async fn list_queues(jobs: &Jobs, cx: &Context) -> Result<ListQueuesReply> {
    let mut tx = jobs.database.begin(cx).await?;
    let kept = storage::list_queues(&mut tx).await?;
    drop(tx);
    let declared = job::contracts().map(|job| declared(job.queue));
    let queues: BTreeMap<String, StoredQueue> =
        kept.into_iter().chain(declared).map(|queue| (queue.name.clone(), queue)).collect();
    let shown = stream::iter(queues.into_values()).map(async |queue| show(jobs, &queue).await);
    let items: Vec<Queue> = shown.buffered(AT_ONCE).try_collect().await?;
    Ok(ListQueuesReply { items })
}

pub(crate) async fn get_queue(jobs: &Jobs, cx: &Context, request: GetQueueRequest) -> Result<Queue> {
    let queue = if job::runner_of(&request.queue).is_some() {
        declared(&request.queue)
    } else {
        let mut tx = jobs.database.begin(cx).await?;
        storage::find_queue(&mut tx, &request.queue).await?.ok_or(JobsError::QueueNotFound)?
    };
    show(jobs, &queue).await
}

async fn show(jobs: &Jobs, queue: &StoredQueue) -> Result<Queue, Error> {
    let state = jobs.engine.broker().queue(&queue.name).await?.unwrap_or_default();
    Ok(queue_to_wire(queue, &state, jobs.clock.now()))
}

/// How a queue is run that a service has declared. It is not edited, so its revision is always the same.
pub(super) fn declared(queue: &str) -> StoredQueue {
    let kinds = || job::contracts().filter(|job| job.queue == queue);
    let longest = |of: fn(&subjects::JobContract) -> u32| kinds().map(of).max().unwrap_or_default();
    let settings = QueueSettings {
        backoff_base_ms: longest(|job| job.backoff_base_ms),
        backoff_max_ms: longest(|job| job.backoff_max_ms),
        max_attempts: longest(|job| job.attempts_max),
        timeout_ms: longest(|job| job.timeout_ms),
        ..QueueSettings::default()
    };
    StoredQueue { name: queue.to_owned(), settings, revision: 0 }
}
