//! A queue is held, or goes on. The broker keeps that, so it counts for every runner at once and outlives them all.

use kernel::{Context, Result};
use serde_json::json;
use subjects::job;
use subjects::jobs::v1::Queue;

use super::queues::declared;
use super::wire::{queue_to_wire, record};
use crate::Jobs;
use crate::error::JobsError;
use crate::storage;

pub(crate) async fn hold_queue(jobs: &Jobs, cx: &Context, name: &str, paused: bool) -> Result<Queue> {
    let mut tx = jobs.database.begin(cx).await?;
    let queue = match storage::lock_queue(&mut tx, name).await? {
        Some(mut queue) => {
            cx.check_if_match(Some(queue.revision))?;
            queue.revision = storage::touch_queue(&mut tx, name, cx.now()).await?;
            queue
        }
        None if job::runner_of(name).is_some() => {
            let queue = declared(name);
            cx.check_if_match(Some(queue.revision))?;
            queue
        }
        None => return Err(JobsError::QueueNotFound.into()),
    };
    let action = if paused { "jobs.queue.paused" } else { "jobs.queue.resumed" };
    record(&mut tx, action, "queue", name, json!({})).await?;
    let broker = jobs.engine.broker();
    broker.pause(name, paused, cx.now()).await?;
    tx.commit().await?;
    let state = broker.queue(name).await?.unwrap_or_default();
    Ok(queue_to_wire(&queue, &state, cx.now()))
}
