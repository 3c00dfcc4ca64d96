//! Times of schedules have come: it is decided for each what to do, and the jobs are submitted.
//!
//! Safe to run twice: what was decided for a time is noted with it in one transaction, and a time is decided once, however often
//! the broker gives it out.

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::try_join_all;
use kernel::jobs::Submission;
use kernel::telemetry::{self, Kind};
use kernel::{Message, Result, TraceContext, Transaction};
use subjects::job::{self, Lane, Place, header};
use subjects::subject::Token;
use tracing::{Instrument as _, Span};

use super::submit::pending;
use crate::Jobs;
use crate::domain::{Firing, Outcome, Overlap, Schedule};
use crate::error::JobsError;
use crate::storage::{self, NewJob};

/// How far the broker's clock may have been set back since it gave a time out.
const CLOCK_STEP_MAX: TimeDelta = TimeDelta::seconds(1);

/// Jobs that are on their way to the broker at once.
const AT_ONCE: usize = 256;

pub(crate) async fn take_ticks(jobs: &Jobs, tx: &mut Transaction, messages: &[Message]) -> Result<()> {
    // In one order, so that two instances do not wait for each other in a circle.
    let mut ticks: Vec<(&str, Firing)> = messages.iter().filter_map(|message| read(jobs, message)).collect();
    ticks.sort_by_key(|(schedule_id, firing)| (*schedule_id, firing.due_at));
    let mut noted = Vec::new();
    for (schedule_id, firing) in ticks {
        noted.extend(take(jobs, tx, schedule_id, firing).await?);
    }
    submit_noted(jobs, tx, noted).await
}

/// `None` for what is no time of ours, and for what is told before it has come.
fn read<'a>(jobs: &Jobs, message: &'a Message) -> Option<(&'a str, Firing)> {
    let schedule_id = message.subject().strip_prefix("tick.")?;
    let due_at = DateTime::parse_from_rfc3339(message.header(header::DUE_AT)?).ok()?.to_utc();
    let fired_at = message.stored_at().unwrap_or_else(|| jobs.clock.now());
    let firing = Firing { due_at, fired_at, late_after: jobs.settings.late_after() };
    (fired_at + CLOCK_STEP_MAX >= due_at).then_some((schedule_id, firing))
}

/// Decides what to do at a time, and gives the job that is to be submitted.
async fn take(jobs: &Jobs, tx: &mut Transaction, schedule_id: &str, firing: Firing) -> Result<Option<NotedJob>> {
    let Some(schedule) = storage::find_schedule(tx, schedule_id).await? else { return Ok(None) };
    let due_at = firing.due_at;
    let Some(timing) = schedule.timing().filter(|timing| schedule.counts(timing, due_at)) else { return Ok(None) };
    let Some(id) = schedule.job_id(due_at) else { return Ok(None) };
    // It goes first, also where the others have just ended.
    let one_waits = schedule.plan.overlap == Overlap::QueueOne && schedule.queued_at.is_some();
    let outcome = if schedule.is_missed(&timing, firing) {
        Outcome::Missed
    } else if one_waits {
        Outcome::Overlapped
    } else if schedule.plan.overlap == Overlap::Allow || storage::count_open(tx, &schedule).await? == 0 {
        Outcome::Started
    } else if schedule.plan.overlap == Overlap::QueueOne {
        Outcome::Queued
    } else {
        Outcome::Overlapped
    };
    let job_id = id.to_string();
    let started = (outcome == Outcome::Started).then_some(job_id.as_str());
    if !storage::insert_tick(tx, schedule_id, due_at, outcome, started).await? {
        return Ok(None);
    }
    tracing::debug!(schedule_id, %due_at, outcome = outcome.as_str(), "A schedule was due.");
    match outcome {
        Outcome::Started => note_due(jobs, tx, &schedule, id).await,
        Outcome::Queued => {
            storage::queue_tick(tx, schedule_id, due_at).await?;
            Ok(None)
        }
        Outcome::Missed | Outcome::Overlapped => Ok(None),
    }
}

/// Submits the jobs of times that had to wait for one of these jobs to end, or for any where none are given.
pub(crate) async fn release_queued(jobs: &Jobs, tx: &mut Transaction, ended: Option<&[String]>) -> Result<()> {
    let mut noted = Vec::new();
    for schedule_id in storage::list_queued(tx, ended).await? {
        let Some(schedule) = storage::find_schedule(tx, &schedule_id).await? else { continue };
        // One that is held is looked at again when it goes on.
        let Some(due_at) = schedule.queued_at.filter(|_| !schedule.paused) else { continue };
        if storage::count_open(tx, &schedule).await? > 0 {
            continue;
        }
        let Some(id) = schedule.job_id(due_at) else { continue };
        storage::start_queued(tx, &schedule_id, due_at, &id.to_string()).await?;
        noted.extend(note_due(jobs, tx, &schedule, id).await?);
    }
    submit_noted(jobs, tx, noted).await
}

/// In a trace that begins here: nobody has asked for it.
async fn note_due(jobs: &Jobs, tx: &mut Transaction, schedule: &Schedule, id: Token) -> Result<Option<NotedJob>> {
    let span = telemetry::span(Kind::Producer, "schedule.job.submit", None);
    let trace = telemetry::trace_of(&span);
    let noted = note_job(tx, schedule, id, trace, jobs.clock.now()).instrument(span.clone()).await?;
    Ok(noted.map(|noted| NotedJob { span, ..noted }))
}

/// A job that stands in the history and is to be submitted.
pub(super) struct NotedJob {
    job: NewJob,
    submission: Submission,
    span: Span,
}

/// As over the API: noted in the history first and committed last, so that one that was not stored is noted nowhere. `None` where
/// the history knows it.
pub(super) async fn note_job(
    tx: &mut Transaction,
    schedule: &Schedule,
    id: Token,
    trace: Option<TraceContext>,
    now: DateTime<Utc>,
) -> Result<Option<NotedJob>> {
    let plan = &schedule.plan;
    let token = |text: &str| Token::parse(text).ok_or(JobsError::ScheduleNotFound);
    let place = Place { queue: token(&plan.queue)?, kind: token(&plan.kind)?, lane: Lane::Normal };
    let declared = job::find(&plan.queue, &plan.kind).map_or(10, |contract| contract.attempts_max);
    let mut headers: Vec<(String, String)> =
        [(header::MAX_ATTEMPTS, plan.max_attempts), (header::TIMEOUT_MS, plan.timeout_ms)]
            .into_iter()
            .filter(|(_, value)| *value > 0)
            .map(|(name, value)| (name.to_owned(), value.to_string()))
            .collect();
    // A commit that failed behind the submission may be repeated long after the broker has forgotten the id.
    headers.push((header::UNIQUE.to_owned(), "true".to_owned()));
    headers.extend(trace.map(|trace| ("traceparent".to_owned(), trace.to_traceparent())));
    let job = NewJob {
        queue: plan.queue.clone(),
        kind: plan.kind.clone(),
        id: id.to_string(),
        args: plan.args.clone(),
        max_attempts: if plan.max_attempts > 0 { plan.max_attempts } else { declared },
        run_at: None,
    };
    if storage::insert_jobs(tx, &[&job], now).await?.is_empty() {
        // A runner has told of it: it was stored before a commit that failed.
        return Ok(None);
    }
    let submission = Submission { place, id, arguments: plan.args.clone().into(), run_at: None, headers };
    Ok(Some(NotedJob { job, submission, span: Span::none() }))
}

/// Submits jobs, many at once, and notes where they are.
pub(super) async fn submit_noted(jobs: &Jobs, tx: &mut Transaction, noted: Vec<NotedJob>) -> Result<()> {
    let (broker, now) = (jobs.engine.broker(), jobs.clock.now());
    for some in noted.chunks(AT_ONCE) {
        let stored = some.iter().map(|noted| broker.submit(&noted.submission, now).instrument(noted.span.clone()));
        let stored = try_join_all(stored).await?;
        let places: Vec<(&NewJob, u64)> = some
            .iter()
            .zip(stored)
            .filter(|(_, stored)| !stored.duplicate)
            .map(|(noted, stored)| (&noted.job, stored.sequence))
            .collect();
        storage::note_sequences(tx, &places).await?;
    }
    for NotedJob { job, .. } in &noted {
        broker.show(|| pending(job, now)).await;
    }
    if noted.iter().any(|noted| job::runner_of(&noted.job.queue).is_none()) {
        jobs.queues.notify_one();
    }
    Ok(())
}
