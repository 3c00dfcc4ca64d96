//! A schedule is made. What the broker has to know of it follows from what is kept here (`schedules.rs`), so that nothing has to
//! succeed in two places.

use std::collections::BTreeSet;

use kernel::{Context, Result};
use serde_json::json;
use subjects::jobs::v1::{CreateScheduleRequest, Schedule as WireSchedule};

use super::wire::{record, show_schedule};
use crate::domain::{Plan, Schedule};
use crate::error::JobsError;
use crate::{Jobs, queues, storage};

pub(crate) async fn create_schedule(jobs: &Jobs, cx: &Context, request: CreateScheduleRequest) -> Result<WireSchedule> {
    let (paused, now) = (request.paused, cx.now());
    let plan = Plan::parse(request, now).map_err(JobsError::Invalid)?;
    let mut schedule = Schedule {
        id: cx.new_id().to_string(),
        plan,
        service: None,
        paused,
        active_since: now,
        planned_until: now,
        queued_at: None,
        created_at: now,
        updated_at: now,
        revision: 0,
    };
    let mut tx = jobs.database.begin(cx).await?;
    if storage::count_schedules(&mut tx).await? >= jobs.settings.crons_max.into() {
        return Err(JobsError::TooManyCrons.into());
    }
    queues::admit_in(jobs, &mut tx, cx, &BTreeSet::from([schedule.plan.queue.as_str()])).await?;
    if !storage::put_schedule(&mut tx, &mut schedule).await? {
        return Err(JobsError::NameTaken.into());
    }
    let plan = &schedule.plan;
    let details = json!({ "name": plan.name, "cron": plan.cron, "timeZone": plan.time_zone, "queue": plan.queue, "kind": plan.kind });
    record(&mut tx, "jobs.schedule.created", "schedule", &schedule.id, details).await?;
    let shown = show_schedule(&mut tx, schedule, now).await?;
    tx.commit().await?;
    jobs.schedules.notify_one();
    Ok(shown)
}
