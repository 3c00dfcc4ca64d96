//! What the handlers show, in the words of the contract, and what several of them look up or record.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use kernel::{AuditAction, Result, Transaction};
use subjects::audit::v1::Outcome;
use subjects::free::v1::RawJson;
use subjects::jobs::v1 as wire;

use crate::domain::{DeadLetter, Job, JobError, Schedule};
use crate::error::JobsError;
use crate::storage::{self, LastTick, StoredQueue};

/// A job as the API shows it.
pub(super) fn job_to_wire(job: Job, errors: Vec<JobError>) -> wire::Job {
    let json = |text: Option<String>| text.map(|text| RawJson { text });
    wire::Job {
        id: job.id,
        queue: job.queue,
        kind: job.kind,
        state: job.state.to_wire().into(),
        args: json(job.args),
        attempt: job.attempt,
        max_attempts: job.max_attempts,
        created_at: Some(job.created_at.into()),
        run_at: job.run_at.map(Into::into),
        started_at: job.started_at.map(Into::into),
        finished_at: job.finished_at.map(Into::into),
        progress: json(job.progress),
        result: json(job.result),
        errors: errors.into_iter().map(error_to_wire).collect(),
        cancel_requested: job.cancel_requested,
    }
}

fn error_to_wire(error: JobError) -> wire::AttemptError {
    wire::AttemptError { attempt: error.attempt, at: Some(error.at.into()), message: error.message }
}

/// A dead letter as the API shows it.
pub(super) fn letter_to_wire(letter: DeadLetter, errors: Vec<JobError>) -> wire::DeadLetter {
    let text = std::str::from_utf8(&letter.body).ok();
    let args = text.filter(|text| !text.trim().is_empty() && subjects::json::check_any(text.as_bytes()).is_ok());
    let body = if args.is_none() { STANDARD.encode(&letter.body) } else { String::new() };
    wire::DeadLetter {
        args: args.map(|text| RawJson { text: text.to_owned() }),
        body,
        id: letter.id,
        queue: letter.queue,
        kind: letter.kind,
        reason: letter.reason.to_wire().into(),
        error: letter.error,
        headers: letter.headers.into_iter().collect(),
        attempt: letter.attempt,
        max_attempts: letter.max_attempts,
        created_at: Some(letter.created_at.into()),
        failed_at: Some(letter.failed_at.into()),
        errors: errors.into_iter().map(error_to_wire).collect(),
    }
}

/// A queue as the API shows it.
pub(super) fn queue_to_wire(queue: &StoredQueue, state: &kernel::jobs::QueueState, now: DateTime<Utc>) -> wire::Queue {
    let bounded = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let settings = &queue.settings;
    let age = state.oldest.map_or(0, |oldest| (now - oldest).num_milliseconds().max(0));
    wire::Queue {
        name: queue.name.clone(),
        concurrency: settings.concurrency,
        backoff_base_ms: settings.backoff_base_ms,
        backoff_max_ms: settings.backoff_max_ms,
        max_attempts: settings.max_attempts,
        timeout_ms: settings.timeout_ms,
        paused: state.paused,
        pending: bounded(state.pending),
        running: bounded(state.running),
        oldest_age_ms: u32::try_from(age).unwrap_or(u32::MAX),
        owned: subjects::job::runner_of(&queue.name).is_some(),
        rate_per_second: settings.rate.map(|rate| rate.per_second),
        rate_burst: settings.rate.map(|rate| rate.burst),
        revision: queue.revision.to_string(),
    }
}

/// What is given, where something is.
pub(super) fn given(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// The one job of this id.
pub(super) async fn find_job(tx: &mut Transaction, id: &str, queue: String, kind: String) -> Result<Job> {
    let (queue, kind) = (given(queue), given(kind));
    let mut jobs = storage::find_jobs(tx, id, queue.as_deref(), kind.as_deref()).await?;
    match (jobs.pop(), jobs.is_empty()) {
        (Some(job), true) => Ok(job),
        (Some(last), false) => {
            let places = jobs.into_iter().chain([last]).map(|job| (job.queue, job.kind)).collect();
            Err(JobsError::Ambiguous(places).into())
        }
        (None, _) => Err(JobsError::JobNotFound.into()),
    }
}

/// The one dead letter of this id.
pub(super) async fn find_letter(tx: &mut Transaction, id: &str, queue: String, kind: String) -> Result<DeadLetter> {
    let (queue, kind) = (given(queue), given(kind));
    let mut letters = storage::find_letters(tx, id, queue.as_deref(), kind.as_deref()).await?;
    match (letters.pop(), letters.is_empty()) {
        (Some(letter), true) => Ok(letter),
        (Some(last), false) => {
            let places = letters.into_iter().chain([last]).map(|letter| (letter.queue, letter.kind)).collect();
            Err(JobsError::Ambiguous(places).into())
        }
        (None, _) => Err(JobsError::LetterNotFound.into()),
    }
}

/// Records an action that no event stands for.
pub(super) async fn record(
    tx: &mut Transaction,
    action: &str,
    target_type: &str,
    target_id: &str,
    details: serde_json::Value,
) -> Result<()> {
    let details = details.to_string();
    tx.record(AuditAction { action, target_type, target_id, outcome: Outcome::Success, details }).await
}

/// A schedule as the API shows it.
pub(super) fn schedule_to_wire(schedule: Schedule, last: LastTick, now: DateTime<Utc>) -> wire::Schedule {
    let timing = schedule.timing().filter(|_| !schedule.paused);
    let plan = schedule.plan;
    wire::Schedule {
        id: schedule.id,
        name: plan.name,
        cron: plan.cron,
        time_zone: plan.time_zone,
        queue: plan.queue,
        kind: plan.kind,
        args: Some(RawJson { text: plan.args }),
        overlap: plan.overlap.to_wire().into(),
        catch_up: plan.catch_up.to_wire().into(),
        catch_up_max: plan.catch_up_max,
        jitter_ms: plan.jitter_ms,
        max_attempts: plan.max_attempts,
        timeout_ms: plan.timeout_ms,
        paused: schedule.paused,
        service: schedule.service.unwrap_or_default(),
        next_at: timing.and_then(|timing| timing.after(now).next()).map(Into::into),
        last_at: last.due_at.map(Into::into),
        last_outcome: last.outcome.map(|outcome| outcome.to_wire().into()).unwrap_or_default(),
        last_job_id: last.job_id.unwrap_or_default(),
        created_at: Some(schedule.created_at.into()),
        updated_at: Some(schedule.updated_at.into()),
        revision: schedule.revision.to_string(),
    }
}

/// A schedule with what was decided last.
pub(super) async fn show_schedule(
    tx: &mut Transaction,
    schedule: Schedule,
    now: DateTime<Utc>,
) -> Result<wire::Schedule> {
    let last = storage::last_ticks(tx, std::slice::from_ref(&schedule.id)).await?.pop().unwrap_or_default();
    Ok(schedule_to_wire(schedule, last, now))
}

/// The schedule of this id.
pub(super) async fn find_schedule(tx: &mut Transaction, id: &str) -> Result<Schedule> {
    Ok(storage::find_schedule(tx, id).await?.ok_or(JobsError::ScheduleNotFound)?)
}

/// The same, of those that were made over the API.
pub(super) async fn own_schedule(tx: &mut Transaction, id: &str) -> Result<Schedule> {
    let schedule = find_schedule(tx, id).await?;
    match schedule.service {
        Some(service) => Err(JobsError::Declared(service).into()),
        None => Ok(schedule),
    }
}
