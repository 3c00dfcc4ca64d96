//! A job that waits is taken out; one that runs is told to stop. What cannot be reached just now, since it is on its way from one
//! to the other, is told when it is heard of next: the wish is kept until the job has ended.

use chrono::{DateTime, Utc};
use kernel::{Context, Result, Transaction};
use serde_json::json;
use subjects::job;
use subjects::jobs::v1::{CancelJobRequest, Job as WireJob, JobCancelled};

use super::wire::{find_job, job_to_wire, record};
use crate::Jobs;
use crate::domain::{Job, State};
use crate::error::JobsError;
use crate::storage;

pub(crate) async fn cancel_job(jobs: &Jobs, cx: &Context, request: CancelJobRequest) -> Result<WireJob> {
    let mut tx = jobs.database.begin(cx).await?;
    let mut job = find_job(&mut tx, &request.job_id, request.queue, request.kind).await?;
    if job.state.has_ended() {
        return Err(JobsError::Ended(job.state.as_str()).into());
    }
    storage::request_cancellation(&mut tx, &job).await?;
    job.cancel_requested = true;
    let details = json!({ "queue": job.queue, "kind": job.kind });
    record(&mut tx, "jobs.job.cancel_requested", "job", &job.id, details).await?;
    if is_taken_out(jobs, &job).await? {
        set_cancelled(jobs, &mut tx, &mut job).await?;
    }
    let errors = storage::list_errors(&mut tx, &job).await?;
    tx.commit().await?;
    Ok(job_to_wire(job, errors))
}

/// Tries again what could not be reached before. What should have come back by `gone_before` and did not will not.
pub(crate) async fn enforce_cancellation(
    jobs: &Jobs,
    tx: &mut Transaction,
    mut job: Job,
    gone_before: DateTime<Utc>,
) -> Result<()> {
    let is_gone = matches!(job.state, State::RetryScheduled | State::Waiting)
        && job.run_at.is_some_and(|run_at| run_at < gone_before);
    if is_taken_out(jobs, &job).await? || is_gone {
        set_cancelled(jobs, tx, &mut job).await?;
    }
    Ok(())
}

async fn set_cancelled(jobs: &Jobs, tx: &mut Transaction, job: &mut Job) -> Result<()> {
    let now = jobs.clock.now();
    storage::set_cancelled(tx, job, now).await?;
    (job.state, job.run_at, job.finished_at) = (State::Cancelled, None, Some(now));
    let event = JobCancelled { job_id: job.id.clone(), queue: job.queue.clone(), kind: job.kind.clone() };
    tx.publish(&event).await
}

/// Takes a job out of where it waits. Where it may run, it is told; then its runner says how it ended.
async fn is_taken_out(jobs: &Jobs, job: &Job) -> Result<bool> {
    let broker = jobs.engine.broker();
    let Some((place, id)) = job.place() else { return Ok(false) };
    let runner = job::runner_of(&job.queue).unwrap_or(job::MANAGER);
    let schedules = [place.retry_schedule(runner, &id), place.schedule(&id)];
    let waits = match job.state {
        State::RetryScheduled | State::Waiting => true,
        State::Pending => job.run_at.is_some(),
        _ => false,
    };
    if waits {
        for schedule in &schedules {
            if broker.unschedule(schedule).await? {
                return Ok(true);
            }
        }
    }
    if runner == job::MANAGER && jobs.engine.withdraw_waiting(&place, &id).await? {
        return Ok(true);
    }
    broker.tell_cancelled(&place, &id).await;
    match job.sequence.filter(|_| job.state == State::Pending && job.attempt == 0) {
        // A runner that has it already hears of it, and its word counts.
        Some(sequence) => broker.withdraw(sequence).await,
        None => Ok(false),
    }
}
