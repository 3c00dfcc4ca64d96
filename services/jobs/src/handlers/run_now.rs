//! The job of a schedule is submitted by hand, beside its times.

use kernel::{Context, Result};
use serde_json::json;
use subjects::jobs::v1::{RunNowReply, RunNowRequest};

use super::take_ticks::{note_job, submit_noted};
use super::wire::{find_schedule, record};
use crate::domain::Outcome;
use crate::error::JobsError;
use crate::{Jobs, storage};

pub(crate) async fn run_now(jobs: &Jobs, cx: &Context, request: RunNowRequest) -> Result<RunNowReply> {
    let mut tx = jobs.database.begin(cx).await?;
    let schedule = find_schedule(&mut tx, &request.schedule_id).await?;
    let id = schedule.job_id_by_hand(cx.now()).ok_or(JobsError::ScheduleNotFound)?;
    let job_id = id.to_string();
    // It counts among those that a time has to wait for.
    storage::insert_tick(&mut tx, &schedule.id, cx.now(), Outcome::Started, Some(&job_id)).await?;
    let details = json!({ "name": schedule.plan.name, "jobId": job_id });
    record(&mut tx, "jobs.schedule.run", "schedule", &schedule.id, details).await?;
    let noted = note_job(&mut tx, &schedule, id, Some(cx.trace()), cx.now()).await?;
    submit_noted(jobs, &mut tx, noted.into_iter().collect()).await?;
    tx.commit().await?;
    Ok(RunNowReply { job_id })
}
