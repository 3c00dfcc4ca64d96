//! A dead letter goes back into its queue as it was, from its first attempt on.

use chrono::{DateTime, Utc};
use kernel::jobs::Submission;
use kernel::{Context, Result, Transaction};
use serde_json::json;
use subjects::job::Place;
use subjects::jobs::v1::{Job as WireJob, ReplayDeadLetterRequest};
use subjects::subject::Token;

use super::wire::{find_job, find_letter, job_to_wire, record};
use crate::Jobs;
use crate::domain::{DeadLetter, Job};
use crate::error::JobsError;
use crate::storage::{self, NewJob};

pub(crate) async fn replay_dead_letter(jobs: &Jobs, cx: &Context, request: ReplayDeadLetterRequest) -> Result<WireJob> {
    let mut tx = jobs.database.begin(cx).await?;
    let letter = find_letter(&mut tx, &request.job_id, request.queue, request.kind).await?;
    let job = match put_back_letter(jobs, &mut tx, &letter, cx.now(), cx.now()).await? {
        Some(job) => job,
        None => find_job(&mut tx, &letter.id, letter.queue.clone(), letter.kind.clone()).await?,
    };
    let details = json!({ "queue": letter.queue, "kind": letter.kind, "reason": letter.reason.as_str() });
    record(&mut tx, "jobs.dead_letter.replayed", "job", &letter.id, details).await?;
    let errors = storage::list_errors(&mut tx, &job).await?;
    tx.commit().await?;
    Ok(job_to_wire(job, errors))
}

/// Through a schedule, since the broker would swallow a second message with the job's own id for two minutes.
///
/// It is stored there before the transaction is committed, so that a letter which counts as put back was. Where the process dies in
/// between, or nobody knows, it is put back again: as long as it waits that is the same schedule, as the round is the same, and
/// once its runner has told of that round `None` is given, and nothing but the letter is noted.
pub(super) async fn put_back_letter(
    jobs: &Jobs,
    tx: &mut Transaction,
    letter: &DeadLetter,
    now: DateTime<Utc>,
    run_at: DateTime<Utc>,
) -> Result<Option<Job>> {
    let submission = submission(letter)?;
    let round = letter.round + 1;
    let args = std::str::from_utf8(&letter.body).ok().filter(|text| subjects::json::check_any(text.as_bytes()).is_ok());
    let row = NewJob {
        queue: letter.queue.clone(),
        kind: letter.kind.clone(),
        id: letter.id.clone(),
        args: args.filter(|text| !text.trim().is_empty()).unwrap_or("null").to_owned(),
        max_attempts: letter.max_attempts,
        run_at: (run_at > now).then_some(run_at),
    };
    storage::mark_replayed(tx, letter, now).await?;
    let Some(job) = storage::put_back(tx, &row, round, letter.created_at).await? else { return Ok(None) };
    jobs.engine.broker().put_back(&submission, round, letter.created_at, run_at).await?;
    jobs.queues.notify_one();
    Ok(Some(job))
}

/// The job that it was, where it can be one again.
pub(super) fn submission(letter: &DeadLetter) -> Result<Submission, JobsError> {
    let token =
        |text: &str| Token::parse(text).ok_or(JobsError::NotRetryable("without a name that a subject can have"));
    let place = Place { queue: token(&letter.queue)?, kind: token(&letter.kind)?, lane: letter.lane };
    let (arguments, headers) = (letter.body.clone(), letter.headers.clone());
    let submission = Submission { place, id: token(&letter.id)?, arguments, run_at: None, headers };
    if submission.has_room() { Ok(submission) } else { Err(JobsError::NotRetryable("larger than a job may be")) }
}
