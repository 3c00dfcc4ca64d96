//! Jobs, the newest first.

use kernel::page::Page;
use kernel::{Context, FieldError, Result};
use subjects::jobs::v1::{ListJobsReply, ListJobsRequest, job};

use super::wire::{given, job_to_wire};
use crate::Jobs;
use crate::domain::State;
use crate::error::JobsError;
use crate::storage::{self, JobFilter};

pub(crate) async fn list_jobs(jobs: &Jobs, cx: &Context, request: ListJobsRequest) -> Result<ListJobsReply> {
    let state = match job::State::try_from(request.state) {
        Ok(job::State::Unspecified) => None,
        Ok(state) => State::from_wire(state),
        Err(_) => {
            let fault = FieldError::new("/state", "invalid", "is no state of a job");
            return Err(JobsError::Invalid(vec![fault]).into());
        }
    };
    let list = format!("jobs {:?} {} {}", state, request.queue, request.kind);
    let page = Page::<i64>::parse(list, request.page_size, &request.page_token)?;
    let filter = JobFilter { state, queue: given(request.queue), kind: given(request.kind) };

    let mut connection = jobs.database.begin(cx).await?;
    let rows = storage::list_jobs(&mut connection, &filter, page.after().copied(), page.limit()).await?;

    let (items, next_page_token) = page.cut(rows, |job| job.number);
    Ok(ListJobsReply { items: items.into_iter().map(|job| job_to_wire(job, Vec::new())).collect(), next_page_token })
}
