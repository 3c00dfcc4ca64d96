//! Has users told by mail what administrators changed of them: within the change's own transaction, so that one is never without
//! the other. A change of a group's roles, which may concern thousands, is told to nobody.

use kernel::jobs::Submission;
use kernel::{Context, Result, Transaction};
use subjects::identity::v1::SendMail;
use subjects::identity::v1::send_mail::Purpose;

use crate::domain::UserId;

/// Has a notice sent to `user_id` once `tx` is committed.
pub(crate) async fn enqueue(tx: &mut Transaction, cx: &Context, user_id: UserId, purpose: Purpose) -> Result<()> {
    let mail = SendMail { user_id: user_id.to_string(), purpose: purpose.into() };
    tx.enqueue(Submission::of(&mail, cx.new_id())).await
}
