//! Gives the broker the times of schedules ahead of their coming, and takes back what counts no more. What is in the database and
//! what is in the stream give the same result whatever happened in between: a store that was lost gets its times again, and what
//! passed meanwhile is given out late, so that it is caught up as each schedule says.
//!
//! The broker fires by itself, whether this service runs or not. Every instance does this; one at a time.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::try_join_all;
use kernel::{Context, Error, Lifecycle, Result};
use subjects::job;

use crate::domain::{CATCH_UP_MAX, Plan, Schedule, Timing};
use crate::handlers::release_queued;
use crate::{Jobs, storage};

/// When it is done again where it failed or another instance was at it.
const AGAIN: Duration = Duration::from_secs(1);

/// The broker has the times of so long ahead, as many at least, and as many at most.
const AHEAD: TimeDelta = TimeDelta::minutes(5);
const AHEAD_COUNT_MIN: usize = 8;
const AHEAD_COUNT_MAX: usize = 1_000;

/// What has come in these seconds may just be on its way out of the stream.
const FIRING: TimeDelta = TimeDelta::seconds(5);

/// Messages that are on their way to the broker at once.
const AT_ONCE: usize = 256;

/// Another version of this service may be there for so long while one takes the other's place.
const REPLACED_WITHIN: TimeDelta = TimeDelta::hours(1);

/// Schedules read at once.
const SCHEDULES_MAX: i64 = 1_000;

/// How long a round may take.
const ROUND_MAX: Duration = Duration::from_mins(2);

pub(crate) async fn keep(jobs: &Jobs, life: &Lifecycle) {
    let stop = life.stop_token();
    while !stop.is_cancelled() {
        let pause = match plan(jobs).await {
            Ok(true) => jobs.settings.schedule_interval(),
            Ok(false) => AGAIN,
            Err(error) => {
                tracing::warn!(?error, "The times of schedules cannot be given to the broker just now.");
                AGAIN
            }
        };
        let pause = async {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = jobs.schedules.notified() => {}
            }
        };
        let _ = stop.run_until_cancelled(pause).await;
    }
}

/// False where another instance is at it, which may not have seen what this one is to see.
async fn plan(jobs: &Jobs) -> Result<bool> {
    let cx = Context::for_service("jobs", &jobs.clock, &jobs.random, ROUND_MAX);
    let mut tx = jobs.database.begin(&cx).await?;
    if !storage::may_plan(&mut tx).await? {
        return Ok(false);
    }
    let now = jobs.clock.now();
    declare(jobs, &cx, now).await?;
    // Seen before the schedules are read: what is planned of one that is made meanwhile is not taken for a stranger's.
    let broker = jobs.engine.broker();
    let ticks = broker.ticks().await?;
    let mut others = jobs.database.begin(&cx).await?;
    storage::note_store(&mut others, ticks.created_at).await?;
    storage::close_lost(&mut others, broker.queue_created_at().await?).await?;
    let (mut schedules, mut after) = (Vec::new(), None);
    loop {
        let some = storage::list_schedules(&mut others, None, after.as_deref(), SCHEDULES_MAX).await?;
        let Some(last) = some.last() else { break };
        after = Some(last.plan.name.clone());
        schedules.extend(some);
    }
    others.commit().await?;

    let (mut wanted, mut planned, mut missing) = (BTreeSet::new(), Vec::new(), Vec::new());
    // Those of another version's making, which this one cannot read, are left alone.
    let mut unread = BTreeSet::new();
    for schedule in schedules.iter().filter(|schedule| !schedule.paused) {
        let Some(timing) = schedule.timing() else {
            unread.insert(schedule.id.as_str());
            continue;
        };
        let times = times(schedule, &timing, now);
        let is_missing = |(subject, due_at): &&(String, DateTime<Utc>)| {
            let is_new = *due_at > schedule.planned_until;
            !ticks.planned.contains(subject) && (is_new || *due_at > now + FIRING)
        };
        missing.extend(times.iter().filter(is_missing).map(|(_, due_at)| (*due_at, schedule)));
        let until = times.last().map_or(schedule.planned_until, |(_, due_at)| *due_at);
        if until > schedule.planned_until {
            planned.push((schedule, until));
        }
        wanted.extend(times.into_iter().map(|(subject, _)| subject));
    }
    give(jobs, missing).await?;
    let stale = |subject: &&String| {
        let is_not_ours_to_take_back = |(id, due_at)| due_at <= now || unread.contains(id);
        !wanted.contains(*subject) && !job::parse_tick_schedule(subject).is_some_and(is_not_ours_to_take_back)
    };
    let stale: Vec<&String> = ticks.planned.iter().filter(stale).collect();
    for some in stale.chunks(AT_ONCE) {
        try_join_all(some.iter().map(|subject| broker.unschedule(subject))).await?;
    }
    storage::note_planned(&mut tx, &planned).await?;
    tx.commit().await?;

    let mut tx = jobs.database.begin(&cx).await?;
    release_queued(jobs, &mut tx, None).await?;
    tx.commit().await?;
    Ok(true)
}

/// The times that the broker should have: those ahead, and those of the past that it was never given.
fn times(schedule: &Schedule, timing: &Timing, now: DateTime<Utc>) -> Vec<(String, DateTime<Utc>)> {
    let past = if schedule.planned_until < now {
        timing.last_between(schedule.planned_until, now, CATCH_UP_MAX as usize)
    } else {
        Vec::new()
    };
    let is_near = |(place, due_at): &(usize, DateTime<Utc>)| *place < AHEAD_COUNT_MIN || *due_at <= now + AHEAD;
    let ahead = timing.after(now).take(AHEAD_COUNT_MAX).enumerate().take_while(is_near).map(|(_, due_at)| due_at);
    past.into_iter().chain(ahead).map(|due_at| (job::tick_schedule(&schedule.id, due_at), due_at)).collect()
}

/// The nearest first, whosever they are.
async fn give(jobs: &Jobs, mut missing: Vec<(DateTime<Utc>, &Schedule)>) -> Result<()> {
    missing.sort_by_key(|(due_at, _)| *due_at);
    let later = |schedule: &Schedule| {
        let jitter = f64::from(schedule.plan.jitter_ms) * jobs.random.fraction();
        TimeDelta::milliseconds(jitter as i64)
    };
    let broker = jobs.engine.broker();
    let plan =
        |(due_at, schedule): &(DateTime<Utc>, &Schedule)| (schedule.id.clone(), *due_at, *due_at + later(schedule));
    for some in missing.chunks(AT_ONCE) {
        let some: Vec<_> = some.iter().map(plan).collect();
        try_join_all(some.iter().map(|(id, due_at, fire_at)| broker.plan_tick(id, *due_at, *fire_at))).await?;
    }
    Ok(())
}

/// What services declare exists for as long as they do. That one is held stays as it is.
async fn declare(jobs: &Jobs, cx: &Context, now: DateTime<Utc>) -> Result<()> {
    let mut tx = jobs.database.begin(cx).await?;
    let mut declared = Vec::new();
    for contract in job::contracts() {
        let Some(plan) = Plan::declared(contract) else { continue };
        declared.push(plan.name.clone());
        let known = storage::find_declared(&mut tx, &plan.name).await?;
        if known.as_ref().is_some_and(|known| known.plan == plan) {
            continue;
        }
        let service = Some(contract.service.to_owned());
        let mut schedule = match known {
            Some(known) if known.plan.cron == plan.cron => Schedule { plan, service, updated_at: now, ..known },
            Some(known) => {
                let (active_since, planned_until, queued_at) = (now, now, None);
                Schedule { plan, service, active_since, planned_until, queued_at, updated_at: now, ..known }
            }
            None => Schedule {
                // Nobody can guess the ids of its jobs, and so keep them out.
                id: cx.new_id().to_string(),
                plan,
                service,
                paused: false,
                active_since: now,
                planned_until: now,
                queued_at: None,
                created_at: now,
                updated_at: now,
                revision: 0,
            },
        };
        if !storage::put_schedule(&mut tx, &mut schedule).await? {
            return Err(Error::conflict("name_taken", "No other schedule can have this name."));
        }
    }
    storage::delete_undeclared(&mut tx, &declared, now - REPLACED_WITHIN).await?;
    tx.commit().await?;
    Ok(())
}
