//! Nobody gives what they lack: before roles are given, authz says whether the giver may do all that they permit. Nor does
//! anybody get at what they lack by way of another's password.
//!
//! Asked before the transaction begins. That a role is changed or a giver loses a role meanwhile is the same as if it had
//! happened after; whoever changes a role answers for all who hold it then.

use kernel::{AuditAction, Context, Result};
use subjects::Endpoint;
use subjects::audit::v1::Outcome;
use subjects::authz::v1::ReviewGrantRequest;

use crate::Identity;
use crate::error::IdentityError;

/// To whom something is given, or whose password is, for the record of a refusal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    /// `user` or `group`.
    pub kind: &'static str,
    /// Which; empty for one that is yet to be made.
    pub id: &'a str,
}

/// Refuses, and records it, where one of the roles permits what the caller may not do. Gives the names that are no roles:
/// what to make of them is the caller's to say.
pub(crate) async fn review(
    identity: &Identity,
    cx: &Context,
    endpoint: &'static Endpoint,
    target: Target<'_>,
    roles: &[String],
) -> Result<Vec<String>> {
    if roles.is_empty() {
        return Ok(Vec::new());
    }
    let request = ReviewGrantRequest { user_id: cx.user_id()?.to_owned(), roles: roles.to_vec() };
    let review = identity.authz.review_grant(cx, request).await?;
    let Some(lacking) = review.lacking.into_iter().next() else { return Ok(review.unknown_roles) };

    let details = serde_json::json!({ "role": lacking.role, "permission": lacking.permission }).to_string();
    record_denied(identity, cx, endpoint, target, details).await?;
    Err(IdentityError::Escalation { role: lacking.role, permission: lacking.permission }.into())
}

/// Records a refusal by the rules of this service, in a transaction of its own. `details` are JSON, or nothing.
pub(crate) async fn record_denied(
    identity: &Identity,
    cx: &Context,
    endpoint: &'static Endpoint,
    target: Target<'_>,
    details: String,
) -> Result<()> {
    let mut tx = identity.database.begin(cx).await?;
    tx.record(AuditAction {
        action: &format!("identity.{}.denied", endpoint.name),
        target_type: target.kind,
        target_id: target.id,
        outcome: Outcome::Denied,
        details,
    })
    .await?;
    tx.commit().await.map(|_| ())
}
