//! Everybody is written to whom a change of a group's roles concerned.

use kernel::Result;
use kernel::jobs::{Outcome, Run};
use serde_json::json;
use subjects::identity::v1::SpreadNotice;
use uuid::Uuid;

use crate::Identity;
use crate::notices;
use crate::storage;

/// Letters that are enqueued in one transaction.
const STEP: i64 = 200;

/// Who is written to is struck off in the transaction that enqueues the letter. So a run that follows on one which was cut off
/// goes on where that had come to, and run again when it is done it finds nobody.
pub(crate) async fn spread_notice(identity: &Identity, run: &Run) -> Outcome {
    let arguments: SpreadNotice = match run.arguments() {
        Ok(arguments) => arguments,
        Err(outcome) => return outcome,
    };
    let Ok(notice_id) = Uuid::try_parse(&arguments.notice_id) else {
        return Outcome::Undecodable("/noticeId is no id".to_owned());
    };
    match spread(identity, run, notice_id).await {
        Ok(letters) => Outcome::Done(json!({ "letters": letters }).to_string()),
        Err(error) => error.into(),
    }
}

async fn spread(identity: &Identity, run: &Run, notice_id: Uuid) -> Result<usize> {
    let mut letters = 0;
    loop {
        let mut tx = identity.database.begin(&run.cx).await?;
        let recipients = storage::take_recipients(&mut tx, notice_id, STEP).await?;
        if recipients.is_empty() {
            return Ok(letters);
        }
        letters += recipients.len();
        for user_id in recipients {
            notices::enqueue_of_many(&mut tx, &run.cx, user_id).await?;
        }
        tx.commit().await?;
        run.progress(json!({ "letters": letters }).to_string());
    }
}
