//! A job that waits is taken out; one that runs is told to stop. What cannot be reached just now, since it is on its way from one
//! to the other, is told when it is heard of next: the wish is kept until the job has ended.
//!
//! The wish is committed first, with what it takes to put the job back, so that a job is never taken out of the broker by a process
//! that dies before it could say why.

use chrono::{DateTime, Utc};
use kernel::jobs::{Envelope, Found};
use kernel::{Context, Result, Transaction};
use serde_json::json;
use subjects::job::{self, Place};
use subjects::jobs::v1::{CancelJobRequest, Job as WireJob, JobCancelled};
use subjects::subject::Token;

use super::wire::{find_job, job_to_wire, record};
use crate::Jobs;
use crate::domain::{Job, State};
use crate::error::JobsError;
use crate::storage;

/// A job that can be taken out.
enum Waiting {
    /// Of the broker.
    Message(Found),
    /// Of those whose concurrency key is taken.
    Key(Envelope),
}

impl Waiting {
    fn envelope(&self) -> &Envelope {
        match self {
            Self::Message(found) => &found.envelope,
            Self::Key(envelope) => envelope,
        }
    }
}

pub(crate) async fn cancel_job(jobs: &Jobs, cx: &Context, request: CancelJobRequest) -> Result<WireJob> {
    let mut tx = jobs.database.begin(cx).await?;
    let job = find_job(&mut tx, &request.job_id, request.queue, request.kind).await?;
    if job.state.has_ended() {
        return Err(JobsError::Ended(job.state.as_str()).into());
    }
    storage::request_cancellation(&mut tx, &job, cx.now()).await?;
    if let Some(waiting) = find_waiting(jobs, &job).await? {
        storage::keep_envelope(&mut tx, job.key(), job.round, waiting.envelope()).await?;
    }
    let details = json!({ "queue": job.queue, "kind": job.kind });
    record(&mut tx, "jobs.job.cancel_requested", "job", &job.id, details).await?;
    tx.commit().await?;

    let mut tx = jobs.database.begin(cx).await?;
    let mut job = find_job(&mut tx, &job.id, job.queue, job.kind).await?;
    // It may have ended meanwhile, or been put back by somebody else.
    if job.cancel_requested && !job.state.has_ended() {
        match is_taken_out(jobs, &mut tx, &job).await {
            Ok(true) => set_cancelled(jobs, &mut tx, &mut job).await?,
            Ok(false) => {}
            Err(error) => tracing::warn!(?error, id = job.id, "A job that is to be cancelled is taken out later."),
        }
    }
    let errors = storage::list_errors(&mut tx, &job).await?;
    tx.commit().await?;
    Ok(job_to_wire(job, errors))
}

/// Tries again what could not be reached before. What should have come back by `gone_before`, or was to be cancelled before that
/// and is not where it should wait, is gone.
pub(crate) async fn enforce_cancellation(
    jobs: &Jobs,
    tx: &mut Transaction,
    mut job: Job,
    gone_before: DateTime<Utc>,
) -> Result<()> {
    let is_gone = async || match whereabouts(&job, gone_before, jobs.clock.now()) {
        Whereabouts::Unknown => Ok(false),
        Whereabouts::Gone => Ok(true),
        Whereabouts::PastQueueOf(since) => has_passed(jobs, &job.queue, since).await,
    };
    if is_taken_out(jobs, tx, &job).await? || is_gone().await? {
        set_cancelled(jobs, tx, &mut job).await?;
    }
    Ok(())
}

/// Where a job is that was found nowhere.
#[derive(Debug, PartialEq, Eq)]
enum Whereabouts {
    /// It may run, or be on its way.
    Unknown,
    /// It was taken out by a process that died before it could note that.
    Gone,
    /// The same, unless it still waits in its queue among what came since.
    PastQueueOf(DateTime<Utc>),
}

/// One whose end was told and not heard of yet looks as if it were gone; what is told counts.
fn whereabouts(job: &Job, gone_before: DateTime<Utc>, now: DateTime<Utc>) -> Whereabouts {
    let was_searched = job.cancel_requested_at.is_some_and(|since| since < gone_before);
    match (job.state, job.run_at) {
        (State::Pending, None) if job.sequence.is_some() && job.attempt == 0 && was_searched => Whereabouts::Gone,
        (State::Pending | State::RetryScheduled | State::Waiting, Some(run_at)) => match run_at > now {
            true if was_searched => Whereabouts::Gone,
            false if run_at < gone_before => Whereabouts::PastQueueOf(run_at),
            _ => Whereabouts::Unknown,
        },
        _ => Whereabouts::Unknown,
    }
}

/// Whether nothing waits in a queue that has come by a time.
async fn has_passed(jobs: &Jobs, queue: &str, time: DateTime<Utc>) -> Result<bool> {
    let state = jobs.engine.broker().queue(queue).await?;
    Ok(state.and_then(|state| state.oldest).is_none_or(|oldest| oldest > time))
}

async fn set_cancelled(jobs: &Jobs, tx: &mut Transaction, job: &mut Job) -> Result<()> {
    let now = jobs.clock.now();
    storage::set_cancelled(tx, job, now).await?;
    (job.state, job.run_at, job.finished_at) = (State::Cancelled, None, Some(now));
    let event = JobCancelled { job_id: job.id.clone(), queue: job.queue.clone(), kind: job.kind.clone() };
    tx.publish(&event).await
}

/// Takes a job out of where it waits. Where it may run, it is told; then its runner says how it ended.
async fn is_taken_out(jobs: &Jobs, tx: &mut Transaction, job: &Job) -> Result<bool> {
    let Some((place, id)) = job.place() else { return Ok(false) };
    // A runner that has it already hears of it, and its word counts.
    jobs.engine.broker().tell_cancelled(&place, &id).await;
    let Some(waiting) = find_waiting(jobs, job).await? else { return Ok(false) };
    storage::keep_envelope(tx, job.key(), job.round, waiting.envelope()).await?;
    match waiting {
        Waiting::Message(found) => jobs.engine.broker().take(&found).await,
        Waiting::Key(_) => jobs.engine.withdraw_waiting(&place, &id).await,
    }
}

/// Where it can be taken out.
async fn find_waiting(jobs: &Jobs, job: &Job) -> Result<Option<Waiting>> {
    let Some((place, id)) = job.place() else { return Ok(None) };
    let runner = job::runner_of(&job.queue).unwrap_or(job::MANAGER);
    if let Some(found) = find_message(jobs, job, &place, &id, runner).await? {
        return Ok(Some(Waiting::Message(found)));
    }
    if runner != job::MANAGER {
        return Ok(None);
    }
    Ok(jobs.engine.find_waiting(&place, &id).await?.map(Waiting::Key))
}

async fn find_message(jobs: &Jobs, job: &Job, place: &Place, id: &Token, runner: &str) -> Result<Option<Found>> {
    let broker = jobs.engine.broker();
    match (job.state, job.run_at, job.sequence) {
        (State::RetryScheduled | State::Waiting, _, _) | (State::Pending, Some(_), _) => {
            for schedule in [place.retry_schedule(runner, id), place.schedule(id)] {
                if let Some(found) = broker.find_schedule(&schedule).await? {
                    return Ok(Some(found));
                }
            }
            Ok(None)
        }
        (State::Pending, None, Some(sequence)) if job.attempt == 0 => broker.find_job(sequence, place, id).await,
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn a_job_that_is_nowhere_is_gone_when_it_was_searched_for_long_enough() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
        let ago = |seconds: i64| Some(now - TimeDelta::seconds(seconds));
        let job = |state, run_at, sequence, cancel_requested_at| Job {
            number: 1,
            queue: "q".to_owned(),
            kind: "k".to_owned(),
            id: "id".to_owned(),
            state,
            rank: 0,
            round: 0,
            attempt: 0,
            max_attempts: 1,
            args: None,
            progress: None,
            result: None,
            created_at: now,
            run_at,
            started_at: None,
            finished_at: None,
            cancel_requested: true,
            cancel_requested_at,
            sequence,
        };
        let whereabouts = |job: Job| whereabouts(&job, now - TimeDelta::minutes(1), now);
        let past = |seconds: i64| Whereabouts::PastQueueOf(now - TimeDelta::seconds(seconds));

        assert_eq!(whereabouts(job(State::Pending, None, Some(7), ago(61))), Whereabouts::Gone);
        assert_eq!(whereabouts(job(State::Pending, ago(-3_600), None, ago(61))), Whereabouts::Gone);
        assert_eq!(whereabouts(job(State::Pending, ago(3_600), None, ago(1))), past(3_600));
        assert_eq!(whereabouts(job(State::RetryScheduled, ago(61), None, ago(1))), past(61));
        for on_its_way in [
            job(State::Pending, None, Some(7), ago(1)),
            job(State::Pending, None, None, ago(61)),
            job(State::Pending, ago(-3_600), None, ago(1)),
            job(State::RetryScheduled, ago(1), None, ago(61)),
            job(State::Running, None, Some(7), ago(61)),
        ] {
            assert_eq!(whereabouts(on_its_way), Whereabouts::Unknown);
        }
    }
}
