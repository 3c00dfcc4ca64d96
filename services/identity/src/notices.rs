//! Has users told by mail what administrators changed of them, and what was changed of their password: within the change's own
//! transaction, so that one is never without the other.
//!
//! A group may have very many members. When its roles change, who is in it at that moment is noted down in one statement, and a
//! job has a letter written to each, in steps (`handlers/spread_notice.rs`), behind all other mail.

use kernel::jobs::Submission;
use kernel::{Context, Result, Transaction};
use subjects::identity::v1::send_mail::Purpose;
use subjects::identity::v1::{SendMail, SpreadNotice};
use subjects::job::Lane;

use crate::domain::{GroupId, UserId};
use crate::storage;

/// Has a notice sent to `user_id` once `tx` is committed.
pub(crate) async fn enqueue(tx: &mut Transaction, cx: &Context, user_id: UserId, purpose: Purpose) -> Result<()> {
    let mail = SendMail { user_id: user_id.to_string(), purpose: purpose.into() };
    tx.enqueue(Submission::of(&mail, cx.new_id())).await
}

/// The same for one of many, who are written to when nothing else waits.
pub(crate) async fn enqueue_of_many(tx: &mut Transaction, cx: &Context, user_id: UserId) -> Result<()> {
    let mail = SendMail { user_id: user_id.to_string(), purpose: Purpose::RolesChanged.into() };
    let mut job = Submission::of(&mail, cx.new_id());
    job.place.lane = Lane::Low;
    tx.enqueue(job).await
}

/// Has everybody who is in the group now told that their roles were changed.
pub(crate) async fn enqueue_to_members(tx: &mut Transaction, cx: &Context, group_id: GroupId) -> Result<()> {
    let notice_id = cx.new_id();
    if storage::insert_recipients(tx, notice_id, group_id).await? == 0 {
        return Ok(());
    }
    let spread = SpreadNotice { notice_id: notice_id.to_string() };
    tx.enqueue(Submission::of(&spread, cx.new_id())).await
}
