//! Dead letters are deleted for good, here and in their stream: there up to the last that is kept here, so that one which comes in
//! just this moment is not lost before anybody could see it.

use kernel::{Context, FieldError, Result};
use serde_json::json;
use subjects::jobs::v1::{PurgeDeadLettersReply, PurgeDeadLettersRequest};
use subjects::subject::Token;

use super::wire::{given, record};
use crate::Jobs;
use crate::error::JobsError;
use crate::storage::{self, LetterFilter};

pub(crate) async fn purge_dead_letters(
    jobs: &Jobs,
    cx: &Context,
    request: PurgeDeadLettersRequest,
) -> Result<PurgeDeadLettersReply> {
    let filter = LetterFilter { queue: given(request.queue), kind: given(request.kind), ..LetterFilter::default() };
    let is_filtered = filter.queue.is_some() || filter.kind.is_some();
    if is_filtered == request.all {
        let fault =
            FieldError::new("/all", "invalid", "must be true where neither queue nor kind is given, and only there");
        return Err(JobsError::Invalid(vec![fault]).into());
    }
    let subject =
        format!("dlq.jobs.{}.{}", token("/queue", filter.queue.as_ref())?, token("/kind", filter.kind.as_ref())?);

    let mut tx = jobs.database.begin(cx).await?;
    let purged = u32::try_from(storage::delete_letters(&mut tx, &filter).await?).unwrap_or(u32::MAX);
    let details = json!({ "purged": purged, "queue": filter.queue, "kind": filter.kind });
    record(&mut tx, "jobs.dead_letters.purged", "dead_letters", "", details).await?;
    jobs.engine.broker().purge_letters(&subject).await?;
    tx.commit().await?;
    Ok(PurgeDeadLettersReply { purged })
}

fn token(pointer: &str, given: Option<&String>) -> Result<String> {
    let Some(text) = given else { return Ok("*".to_owned()) };
    let fault = || FieldError::new(pointer, "invalid", "must be 1 to 64 of [A-Za-z0-9_-]");
    Ok(Token::parse(text).ok_or_else(|| JobsError::Invalid(vec![fault()]))?.to_string())
}
