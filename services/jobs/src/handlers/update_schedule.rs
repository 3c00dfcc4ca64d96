//! A schedule is changed, held, or goes on. Times of the past never count for what it is from now on, but one that counted and
//! waits for others to end goes on waiting while its schedule is held.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use kernel::{Context, Result};
use serde_json::json;
use subjects::jobs::v1::{Schedule as WireSchedule, UpdateScheduleRequest};

use super::wire::{find_schedule, own_schedule, record, show_schedule};
use crate::domain::Schedule;
use crate::error::JobsError;
use crate::{Jobs, queues, storage};

pub(crate) async fn update_schedule(
    jobs: &Jobs,
    cx: &Context,
    mut request: UpdateScheduleRequest,
) -> Result<WireSchedule> {
    let id = std::mem::take(&mut request.schedule_id);
    let mut tx = jobs.database.begin(cx).await?;
    let mut schedule = own_schedule(&mut tx, &id).await?;
    cx.check_if_match(Some(schedule.revision))?;
    let plan = schedule.plan.clone().changed(request, cx.now()).map_err(JobsError::Invalid)?;
    queues::admit_in(jobs, &mut tx, cx, &BTreeSet::from([plan.queue.as_str()])).await?;
    if (&plan.cron, &plan.time_zone) != (&schedule.plan.cron, &schedule.plan.time_zone) {
        begin_anew(&mut schedule, cx.now());
        schedule.queued_at = None;
    }
    schedule.plan = plan;
    schedule.updated_at = cx.now();
    if !storage::put_schedule(&mut tx, &mut schedule).await? {
        return Err(JobsError::NameTaken.into());
    }
    let plan = &schedule.plan;
    let details = json!({ "name": plan.name, "cron": plan.cron, "timeZone": plan.time_zone, "queue": plan.queue, "kind": plan.kind });
    record(&mut tx, "jobs.schedule.updated", "schedule", &id, details).await?;
    let shown = show_schedule(&mut tx, schedule, cx.now()).await?;
    tx.commit().await?;
    jobs.schedules.notify_one();
    Ok(shown)
}

pub(crate) async fn hold_schedule(jobs: &Jobs, cx: &Context, id: &str, paused: bool) -> Result<WireSchedule> {
    let mut tx = jobs.database.begin(cx).await?;
    let mut schedule = find_schedule(&mut tx, id).await?;
    cx.check_if_match(Some(schedule.revision))?;
    if schedule.paused != paused {
        schedule.paused = paused;
        schedule.updated_at = cx.now();
        begin_anew(&mut schedule, cx.now());
        storage::put_schedule(&mut tx, &mut schedule).await?;
    }
    let action = if paused { "jobs.schedule.paused" } else { "jobs.schedule.resumed" };
    record(&mut tx, action, "schedule", id, json!({ "name": schedule.plan.name })).await?;
    let shown = show_schedule(&mut tx, schedule, cx.now()).await?;
    tx.commit().await?;
    jobs.schedules.notify_one();
    Ok(shown)
}

fn begin_anew(schedule: &mut Schedule, now: DateTime<Utc>) {
    schedule.active_since = now;
    schedule.planned_until = now;
}
