//! One job, with what went wrong in each attempt.

use kernel::{Context, Result};
use subjects::jobs::v1::{GetJobRequest, Job};

use super::wire::{find_job, job_to_wire};
use crate::{Jobs, storage};

pub(crate) async fn get_job(jobs: &Jobs, cx: &Context, request: GetJobRequest) -> Result<Job> {
    let mut tx = jobs.database.begin(cx).await?;
    let job = find_job(&mut tx, &request.job_id, request.queue, request.kind).await?;
    let errors = storage::list_errors(&mut tx, &job).await?;
    Ok(job_to_wire(job, errors))
}
