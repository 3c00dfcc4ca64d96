//! Every queue, with what waits in it and what runs.

use std::collections::BTreeMap;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use kernel::{Context, Error, Result};
use subjects::job;
use subjects::jobs::v1::{ListQueuesReply, Queue};

use super::wire::queue_to_wire;
use crate::domain::QueueSettings;
use crate::{Jobs, storage};

/// Queues that the broker is asked about at once.
const AT_ONCE: usize = 16;

pub(crate) async fn list_queues(jobs: &Jobs, cx: &Context) -> Result<ListQueuesReply> {
    let mut tx = jobs.database.begin(cx).await?;
    let mut queues: BTreeMap<String, QueueSettings> = storage::list_queues(&mut tx).await?.into_iter().collect();
    drop(tx);
    queues.extend(job::contracts().map(|job| (job.queue.to_owned(), declared(job.queue))));
    let states = stream::iter(queues).map(async |(name, settings)| {
        let state = jobs.engine.broker().queue(&name).await?.unwrap_or_default();
        Ok::<_, Error>(queue_to_wire(&name, &settings, &state, jobs.clock.now()))
    });
    let items: Vec<Queue> = states.buffered(AT_ONCE).try_collect().await?;
    Ok(ListQueuesReply { items })
}

/// How a queue is run that a service has declared.
pub(super) fn declared(queue: &str) -> QueueSettings {
    let kinds = || job::contracts().filter(|job| job.queue == queue);
    let longest = |of: fn(&subjects::JobContract) -> u32| kinds().map(of).max().unwrap_or_default();
    QueueSettings {
        backoff_base_ms: longest(|job| job.backoff_base_ms),
        backoff_max_ms: longest(|job| job.backoff_max_ms),
        max_attempts: longest(|job| job.attempts_max),
        timeout_ms: longest(|job| job.timeout_ms),
        ..QueueSettings::default()
    }
}
