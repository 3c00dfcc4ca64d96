//! Jobs that were given up.

use kernel::page::Page;
use kernel::{Context, FieldError, Result};
use subjects::jobs::v1::{DeadLetter, GetDeadLetterRequest, ListDeadLettersReply, ListDeadLettersRequest, dead_letter};

use super::wire::{find_letter, given, letter_to_wire};
use crate::Jobs;
use crate::domain::Reason;
use crate::error::JobsError;
use crate::storage::{self, LetterFilter};

pub(crate) async fn list_dead_letters(
    jobs: &Jobs,
    cx: &Context,
    request: ListDeadLettersRequest,
) -> Result<ListDeadLettersReply> {
    let reason = match dead_letter::Reason::try_from(request.reason) {
        Ok(dead_letter::Reason::Unspecified) => None,
        Ok(reason) => Reason::parse(reason.as_str_name()),
        Err(_) => {
            let fault = FieldError::new("/reason", "invalid", "is no reason of a dead letter");
            return Err(JobsError::Invalid(vec![fault]).into());
        }
    };
    let list = format!("letters {:?} {} {}", reason, request.queue, request.kind);
    let page = Page::<i64>::parse(list, request.page_size, &request.page_token)?;
    let filter = LetterFilter { queue: given(request.queue), kind: given(request.kind), reason, failed_before: None };

    let mut tx = jobs.database.begin(cx).await?;
    let rows = storage::list_letters(&mut tx, &filter, page.after().copied(), page.limit()).await?;

    let (items, next_page_token) = page.cut(rows, |letter| letter.number);
    let items =
        items.into_iter().map(|letter| DeadLetter { body: String::new(), ..letter_to_wire(letter, Vec::new()) });
    Ok(ListDeadLettersReply { items: items.collect(), next_page_token })
}

pub(crate) async fn get_dead_letter(jobs: &Jobs, cx: &Context, request: GetDeadLetterRequest) -> Result<DeadLetter> {
    let mut tx = jobs.database.begin(cx).await?;
    let letter = find_letter(&mut tx, &request.job_id, request.queue, request.kind).await?;
    let known = storage::find_jobs(&mut tx, &letter.id, Some(&letter.queue), Some(&letter.kind)).await?;
    let errors = match known.first() {
        Some(job) => storage::list_errors(&mut tx, job).await?,
        None => Vec::new(),
    };
    Ok(letter_to_wire(letter, errors))
}
