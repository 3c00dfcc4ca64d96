//! Jobs are checked whole, noted in the history, and stored in the work queue, before the caller hears of it.
//!
//! The transaction of the history is begun first and committed last, so that what was not stored in the queue is noted nowhere.
//! Many are noted and then stored together: nobody can have told of them before. A caller that hears of neither repeats the call
//! with its key: for two minutes the broker knows the id, and the history for as long as it is kept.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use kernel::jobs::{JobBroker, Stored, Submission};
use kernel::{Context, FieldError, Result};
use serde_json::json;
use sqlx::PgConnection;
use subjects::job;
use subjects::jobs::v1::job::State;
use subjects::jobs::v1::{SubmitBatchReply, SubmitBatchRequest, SubmitReply, SubmitRequest, Transition};

use super::wire::record;
use crate::Jobs;
use crate::domain::{Accepted, accept};
use crate::error::JobsError;
use crate::queues;
use crate::storage::{self, NewJob};

/// Jobs of one call.
const BATCH_MAX: usize = 1_000;

/// So many are noted before they are stored, and where they are once for all; fewer at once with their places.
const MANY: usize = 8;

pub(crate) async fn submit(jobs: &Jobs, cx: &Context, request: SubmitRequest) -> Result<SubmitReply> {
    let accepted = accept(with_key(cx, request), &cx.new_id().to_string(), cx.now()).map_err(JobsError::Invalid)?;
    let mut replies = take(jobs, cx, vec![accepted], "jobs.job.submitted").await?;
    Ok(replies.pop().expect("one for each job"))
}

pub(crate) async fn submit_batch(jobs: &Jobs, cx: &Context, request: SubmitBatchRequest) -> Result<SubmitBatchReply> {
    if request.jobs.is_empty() || request.jobs.len() > BATCH_MAX {
        let fault = FieldError::new("/jobs", "out_of_range", format!("must be 1 to {BATCH_MAX} jobs"));
        return Err(JobsError::Invalid(vec![fault]).into());
    }
    let (mut accepted, mut faults) = (Vec::with_capacity(request.jobs.len()), Vec::new());
    for (place, job) in request.jobs.into_iter().enumerate() {
        match accept(job, &cx.new_id().to_string(), cx.now()) {
            Ok(job) => accepted.push(job),
            Err(wrong) => faults.extend(
                wrong
                    .into_iter()
                    .map(|fault| FieldError { pointer: format!("/jobs/{place}{}", fault.pointer), ..fault }),
            ),
        }
    }
    if !faults.is_empty() {
        return Err(JobsError::Invalid(faults).into());
    }
    Ok(SubmitBatchReply { results: take(jobs, cx, accepted, "jobs.jobs.submitted").await? })
}

/// The key of the request's header, where its body has none.
fn with_key(cx: &Context, mut request: SubmitRequest) -> SubmitRequest {
    if let Some(key) = cx.idempotency_key().filter(|_| request.idempotency_key.is_empty()) {
        key.clone_into(&mut request.idempotency_key);
    }
    request
}

async fn take(jobs: &Jobs, cx: &Context, mut accepted: Vec<Accepted>, action: &str) -> Result<Vec<SubmitReply>> {
    let broker = jobs.engine.broker();
    if accepted.iter().any(|job| job.submission.run_at.is_some())
        && broker.schedules().await? + accepted.len() as u64 > jobs.settings.schedules_max.into()
    {
        return Err(JobsError::TooManySchedules.into());
    }
    let new: Vec<NewJob> = accepted.iter().map(to_row).collect();
    queues::admit(jobs, cx, new.iter().map(|job| job.queue.as_str())).await?;

    let mut tx = jobs.database.begin(cx).await?;
    let fresh = fresh(&mut tx, &accepted, &new).await?;
    let target = if new.len() == 1 { new[0].id.clone() } else { String::new() };
    let names: BTreeSet<&str> = new.iter().map(|job| job.queue.as_str()).collect();
    let details = json!({ "jobs": fresh.len(), "duplicates": new.len() - fresh.len(), "queues": names });
    record(&mut tx, action, "job", &target, details).await?;

    // They run in the trace of who submitted them.
    let traceparent = cx.trace().to_traceparent();
    for job in &mut accepted {
        job.submission.headers.push(("traceparent".to_owned(), traceparent.clone()));
    }
    let submissions: Vec<&Submission> = fresh.iter().map(|&place| &accepted[place].submission).collect();
    let rows: Vec<&NewJob> = fresh.iter().map(|&place| &new[place]).collect();
    let stored = if rows.len() >= MANY && rows.iter().all(|job| job.run_at.is_none()) {
        note_and_store(&mut tx, broker, &rows, &submissions, cx.now()).await?
    } else {
        store_and_note(&mut tx, broker, &rows, &submissions, cx.now()).await?
    };
    tx.commit().await?;

    for &place in &fresh {
        broker.show(|| pending(&new[place], cx.now())).await;
    }
    if names.iter().any(|queue| job::runner_of(queue).is_none()) {
        jobs.queues.notify_one();
    }
    let known: BTreeSet<usize> =
        fresh.iter().zip(&stored).filter(|(_, stored)| stored.duplicate).map(|(&place, _)| place).collect();
    let reply = |(place, job): (usize, NewJob)| SubmitReply {
        job_id: job.id,
        duplicate: !fresh.contains(&place) || known.contains(&place),
    };
    Ok(new.into_iter().enumerate().map(reply).collect())
}

async fn store_and_note(
    tx: &mut PgConnection,
    broker: &JobBroker,
    rows: &[&NewJob],
    submissions: &[&Submission],
    now: DateTime<Utc>,
) -> Result<Vec<Stored>> {
    let stored = broker.submit_all(submissions, now).await?;
    let rows: Vec<(&NewJob, Option<u64>)> =
        rows.iter().zip(&stored).map(|(job, stored)| (*job, place(job, stored))).collect();
    storage::insert_submitted(tx, &rows, now).await?;
    Ok(stored)
}

async fn note_and_store(
    tx: &mut PgConnection,
    broker: &JobBroker,
    rows: &[&NewJob],
    submissions: &[&Submission],
    now: DateTime<Utc>,
) -> Result<Vec<Stored>> {
    let batch = storage::insert_batch(tx, rows, now).await?;
    let stored = broker.submit_all(submissions, now).await?;
    if let (Some(batch), Some(first)) = (batch, in_a_row(&stored)) {
        storage::note_batch(tx, batch, first).await?;
    } else {
        let places: Vec<(&NewJob, u64)> =
            rows.iter().zip(&stored).filter_map(|(job, stored)| Some((*job, place(job, stored)?))).collect();
        storage::note_sequences(tx, &places).await?;
    }
    Ok(stored)
}

/// Where a job is in the work queue.
fn place(job: &NewJob, stored: &Stored) -> Option<u64> {
    (!stored.duplicate && job.run_at.is_none()).then_some(stored.sequence)
}

/// The place of the first, where each is new and lies behind the one before.
fn in_a_row(stored: &[Stored]) -> Option<u64> {
    let first = stored.first()?.sequence;
    let is_next = |(sequence, stored): (u64, &Stored)| !stored.duplicate && stored.sequence == sequence;
    (first..).zip(stored).all(is_next).then_some(first)
}

/// The places of those that are not known to the history, nor there twice. Ids of our own are new.
async fn fresh(connection: &mut PgConnection, accepted: &[Accepted], new: &[NewJob]) -> Result<BTreeSet<usize>> {
    let keyed: Vec<&NewJob> = new.iter().zip(accepted).filter(|(_, job)| job.has_key).map(|(job, _)| job).collect();
    let mut known = storage::find_known(connection, &keyed).await?;
    let is_fresh = |(place, job): (usize, &NewJob)| {
        let is_known = accepted[place].has_key && !known.insert((job.queue.clone(), job.kind.clone(), job.id.clone()));
        (!is_known).then_some(place)
    };
    Ok(new.iter().enumerate().filter_map(is_fresh).collect())
}

fn to_row(accepted: &Accepted) -> NewJob {
    let submission = &accepted.submission;
    NewJob {
        queue: submission.place.queue.to_string(),
        kind: submission.place.kind.to_string(),
        id: submission.id.to_string(),
        args: String::from_utf8_lossy(&submission.arguments).into_owned(),
        max_attempts: accepted.max_attempts,
        run_at: submission.run_at,
    }
}

/// What is shown of a job that was just stored.
pub(super) fn pending(job: &NewJob, now: DateTime<Utc>) -> Transition {
    Transition {
        job_id: job.id.clone(),
        queue: job.queue.clone(),
        kind: job.kind.clone(),
        state: State::Pending.into(),
        at: Some(now.into()),
        max_attempts: job.max_attempts,
        created_at: Some(now.into()),
        run_at: job.run_at.map(Into::into),
        ..Transition::default()
    }
}
