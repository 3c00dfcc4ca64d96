//! A queue is held, or goes on. The broker keeps that, so it counts for every runner at once and outlives them all.

use kernel::{Context, Result};
use serde_json::json;
use subjects::job;
use subjects::jobs::v1::Queue;

use super::list_queues::declared;
use super::wire::{queue_to_wire, record};
use crate::Jobs;
use crate::error::JobsError;
use crate::storage;

pub(crate) async fn hold_queue(jobs: &Jobs, cx: &Context, queue: &str, paused: bool) -> Result<Queue> {
    let mut tx = jobs.database.begin(cx).await?;
    let settings = match storage::find_queue(&mut tx, queue).await? {
        Some(settings) => settings,
        None if job::runner_of(queue).is_some() => declared(queue),
        None => return Err(JobsError::QueueNotFound.into()),
    };
    let action = if paused { "jobs.queue.paused" } else { "jobs.queue.resumed" };
    record(&mut tx, action, "queue", queue, json!({})).await?;
    let broker = jobs.engine.broker();
    broker.pause(queue, paused, cx.now()).await?;
    tx.commit().await?;
    let state = broker.queue(queue).await?.unwrap_or_default();
    Ok(queue_to_wire(queue, &settings, &state, cx.now()))
}
