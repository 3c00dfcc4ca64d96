//! A job is run now: without the rest of its pause, or from its first attempt on.

use bytes::Bytes;
use kernel::jobs::{Envelope, Submission};
use kernel::{Context, Result};
use serde_json::json;
use subjects::job::{self, Place};
use subjects::jobs::v1::{Job as WireJob, RetryJobRequest};

use super::replay_dead_letter::put_back_letter;
use super::wire::{find_job, find_letter, job_to_wire, record};
use crate::Jobs;
use crate::domain::State;
use crate::error::JobsError;
use crate::storage::{self, NewJob};

pub(crate) async fn retry_job(jobs: &Jobs, cx: &Context, request: RetryJobRequest) -> Result<WireJob> {
    let mut tx = jobs.database.begin(cx).await?;
    let found = find_job(&mut tx, &request.job_id, request.queue, request.kind).await?;
    let (place, id) = found.place().ok_or(JobsError::NotRetryable("unnamed"))?;
    let waits = found.run_at.is_some();
    let now = cx.now();
    let job = match found.state {
        State::RetryScheduled | State::Waiting | State::Pending if waits => {
            let runner = job::runner_of(&found.queue).unwrap_or(job::MANAGER);
            let broker = jobs.engine.broker();
            let is_hastened = broker.hasten(&place.retry_schedule(runner, &id), &place, &id, now).await?
                || broker.hasten(&place.schedule(&id), &place, &id, now).await?;
            if !is_hastened {
                // Its time has come in this moment.
                return Err(JobsError::NotRetryable("about to run").into());
            }
            found
        }
        State::DeadLetter => {
            let letter = find_letter(&mut tx, &found.id, found.queue.clone(), found.kind.clone()).await?;
            put_back_letter(jobs, &mut tx, &letter, now, now).await?.unwrap_or(found)
        }
        State::Cancelled => {
            let args = found.args.clone().unwrap_or_default();
            let round = found.round + 1;
            let Envelope { lane, headers } = storage::find_envelope(&mut tx, &found).await?;
            let place = Place { lane, ..place };
            let submission = Submission { place, id, arguments: Bytes::from(args.clone()), run_at: None, headers };
            let row = NewJob {
                queue: found.queue.clone(),
                kind: found.kind.clone(),
                id: found.id.clone(),
                args,
                max_attempts: found.max_attempts,
                run_at: None,
            };
            let job = storage::put_back(&mut tx, &row, round, found.created_at).await?;
            jobs.engine.broker().put_back(&submission, round, found.created_at, now).await?;
            jobs.queues.notify_one();
            job.unwrap_or(found)
        }
        other => return Err(JobsError::NotRetryable(other.as_str()).into()),
    };
    record(&mut tx, "jobs.job.retried", "job", &job.id, json!({ "queue": job.queue, "kind": job.kind })).await?;
    let errors = storage::list_errors(&mut tx, &job).await?;
    tx.commit().await?;
    Ok(job_to_wire(job, errors))
}
