//! Times of schedules have come: it is decided for each what to do, and the jobs are submitted.
//!
//! Safe to run twice: what was decided for a time is noted with it in one transaction, and a time is decided once, however often
//! the broker gives it out.

use chrono::{DateTime, Utc};
use kernel::jobs::Submission;
use kernel::{Message, Result, TraceContext, Transaction};
use subjects::job::{self, Lane, Place, header};
use subjects::subject::Token;

use crate::Jobs;
use crate::domain::{Firing, Outcome, Overlap, Schedule};
use crate::error::JobsError;
use crate::storage::{self, NewJob};

pub(crate) async fn take_ticks(jobs: &Jobs, tx: &mut Transaction, messages: &[Message]) -> Result<()> {
    // In one order, so that two instances do not wait for each other in a circle.
    let mut ticks: Vec<(&str, Firing)> = messages.iter().filter_map(|message| read(jobs, message)).collect();
    ticks.sort_by_key(|(schedule_id, firing)| (*schedule_id, firing.due_at));
    for (schedule_id, firing) in ticks {
        take(jobs, tx, schedule_id, firing).await?;
    }
    Ok(())
}

/// `None` for what is no time of ours, and for what is told before it has come.
fn read<'a>(jobs: &Jobs, message: &'a Message) -> Option<(&'a str, Firing)> {
    let schedule_id = message.subject().strip_prefix("tick.")?;
    let due_at = DateTime::parse_from_rfc3339(message.header(header::DUE_AT)?).ok()?.to_utc();
    let fired_at = message.stored_at().unwrap_or_else(|| jobs.clock.now());
    let firing = Firing { due_at, fired_at, late_after: jobs.settings.late_after() };
    (fired_at >= due_at).then_some((schedule_id, firing))
}

async fn take(jobs: &Jobs, tx: &mut Transaction, schedule_id: &str, firing: Firing) -> Result<()> {
    let Some(schedule) = storage::find_schedule(tx, schedule_id).await? else { return Ok(()) };
    let due_at = firing.due_at;
    let Some(timing) = schedule.timing().filter(|timing| schedule.counts(timing, due_at)) else { return Ok(()) };
    let Some(id) = schedule.job_id(due_at) else { return Ok(()) };
    let outcome = if schedule.is_missed(&timing, firing) {
        Outcome::Missed
    } else if schedule.plan.overlap == Overlap::Allow || storage::count_open(tx, schedule_id).await? == 0 {
        Outcome::Started
    } else if schedule.plan.overlap == Overlap::QueueOne && schedule.queued_at.is_none() {
        Outcome::Queued
    } else {
        Outcome::Overlapped
    };
    let job_id = id.to_string();
    let started = (outcome == Outcome::Started).then_some(job_id.as_str());
    if !storage::insert_tick(tx, schedule_id, due_at, outcome, started).await? {
        return Ok(());
    }
    tracing::debug!(schedule_id, %due_at, outcome = outcome.as_str(), "A schedule was due.");
    match outcome {
        Outcome::Started => submit_job(jobs, tx, &schedule, id, None, jobs.clock.now()).await,
        Outcome::Queued => Ok(storage::queue_tick(tx, schedule_id, due_at).await?),
        Outcome::Missed | Outcome::Overlapped => Ok(()),
    }
}

/// Submits the jobs of times that had to wait for one of these jobs to end, or for any where none are given.
pub(crate) async fn release_queued(jobs: &Jobs, tx: &mut Transaction, ended: Option<&[String]>) -> Result<()> {
    for schedule_id in storage::list_queued(tx, ended).await? {
        let Some(schedule) = storage::find_schedule(tx, &schedule_id).await? else { continue };
        let Some(due_at) = schedule.queued_at else { continue };
        if storage::count_open(tx, &schedule_id).await? > 0 {
            continue;
        }
        let Some(id) = schedule.job_id(due_at) else { continue };
        storage::start_queued(tx, &schedule_id, due_at, &id.to_string()).await?;
        submit_job(jobs, tx, &schedule, id, None, jobs.clock.now()).await?;
    }
    Ok(())
}

/// As over the API: noted in the history first and committed last, so that one that was not stored is noted nowhere.
pub(super) async fn submit_job(
    jobs: &Jobs,
    tx: &mut Transaction,
    schedule: &Schedule,
    id: Token,
    trace: Option<TraceContext>,
    now: DateTime<Utc>,
) -> Result<()> {
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
    headers.extend(trace.map(|trace| ("traceparent".to_owned(), trace.to_traceparent())));
    let job = NewJob {
        queue: plan.queue.clone(),
        kind: plan.kind.clone(),
        id: id.to_string(),
        args: plan.args.clone(),
        max_attempts: if plan.max_attempts > 0 { plan.max_attempts } else { declared },
        run_at: None,
    };
    if storage::insert_jobs(tx, std::slice::from_ref(&job), now).await?.is_empty() {
        // A runner has told of it: it was stored before a commit that failed.
        return Ok(());
    }
    let submission = Submission { place, id, arguments: plan.args.clone().into(), run_at: None, headers };
    let stored = jobs.engine.broker().submit(&submission, now).await?;
    if !stored.duplicate {
        storage::note_sequences(tx, &[(&job, stored.sequence)]).await?;
    }
    if job::runner_of(&plan.queue).is_none() {
        jobs.queues.notify_one();
    }
    Ok(())
}
