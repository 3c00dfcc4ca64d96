//! Schedules are listed, shown and deleted.

use kernel::page::Page;
use kernel::{Context, Result};
use serde_json::json;
use subjects::jobs::v1::{
    DeleteScheduleReply, DeleteScheduleRequest, GetScheduleRequest, ListSchedulesReply, ListSchedulesRequest,
    Schedule as WireSchedule,
};

use super::wire::{find_schedule, given, own_schedule, record, schedule_to_wire, show_schedule};
use crate::{Jobs, storage};

pub(crate) async fn list_schedules(
    jobs: &Jobs,
    cx: &Context,
    request: ListSchedulesRequest,
) -> Result<ListSchedulesReply> {
    let page = Page::<String>::parse(format!("schedules {}", request.queue), request.page_size, &request.page_token)?;
    let queue = given(request.queue);
    let mut tx = jobs.database.begin(cx).await?;
    let after = page.after().map(String::as_str);
    let rows = storage::list_schedules(&mut tx, queue.as_deref(), after, page.limit()).await?;
    let (schedules, next_page_token) = page.cut(rows, |schedule| schedule.plan.name.clone());
    let ids: Vec<String> = schedules.iter().map(|schedule| schedule.id.clone()).collect();
    let last = storage::last_ticks(&mut tx, &ids).await?;
    let shown = schedules.into_iter().zip(last).map(|(schedule, last)| {
        let shown = schedule_to_wire(schedule, last, cx.now());
        WireSchedule { args: None, ..shown }
    });
    Ok(ListSchedulesReply { items: shown.collect(), next_page_token })
}

pub(crate) async fn get_schedule(jobs: &Jobs, cx: &Context, request: GetScheduleRequest) -> Result<WireSchedule> {
    let mut tx = jobs.database.begin(cx).await?;
    let schedule = find_schedule(&mut tx, &request.schedule_id).await?;
    show_schedule(&mut tx, schedule, cx.now()).await
}

pub(crate) async fn delete_schedule(
    jobs: &Jobs,
    cx: &Context,
    request: DeleteScheduleRequest,
) -> Result<DeleteScheduleReply> {
    let mut tx = jobs.database.begin(cx).await?;
    let schedule = own_schedule(&mut tx, &request.schedule_id).await?;
    cx.check_if_match(Some(schedule.revision))?;
    storage::delete_schedule(&mut tx, &schedule.id).await?;
    record(&mut tx, "jobs.schedule.deleted", "schedule", &schedule.id, json!({ "name": schedule.plan.name })).await?;
    tx.commit().await?;
    jobs.schedules.notify_one();
    Ok(DeleteScheduleReply {})
}
