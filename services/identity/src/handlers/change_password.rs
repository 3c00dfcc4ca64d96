//! Somebody changes their password.

use std::sync::Arc;

use kernel::{AuditAction, Context, Result};
use subjects::audit::v1::Outcome;
use subjects::identity::v1::send_mail::Purpose;
use subjects::identity::v1::{ChangePasswordReply, ChangePasswordRequest, UserPasswordChanged};
use uuid::Uuid;

use crate::Identity;
use crate::domain::{Fault, GivenPassword, UserId, Verdict};
use crate::error::IdentityError;
use crate::notices;
use crate::storage;

/// Asks for the present password, so that a token alone does not make an account somebody else's. The session goes on by which it
/// is changed; all others of the user end.
pub(crate) async fn change_password(
    identity: &Identity,
    cx: &Context,
    request: ChangePasswordRequest,
) -> Result<ChangePasswordReply> {
    let ChangePasswordRequest { current_password, new_password } = request;
    let id = UserId::parse(cx.user_id()?).map_err(|_| IdentityError::CallerGone)?;
    let session = Uuid::try_parse(cx.session_id()?).map_err(|_| IdentityError::CallerGone)?;
    let known = storage::find_password(&mut *identity.database.pool().acquire().await?, id).await?;
    let (user, stored, version) =
        known.filter(|(user, ..)| user.state.may_sign_in()).ok_or(IdentityError::CallerGone)?;
    let current = Arc::new(GivenPassword::new(current_password.into()));
    if identity.hashing.check(cx, current, Some(stored)).await? == Verdict::Wrong {
        return refuse(identity, cx, id).await;
    }
    let parse = move || user.parse_password(new_password.into(), None);
    let (_, hash) = identity.hashing.hash(cx, parse).await?.map_err(in_own_field)?;

    let mut tx = identity.database.begin(cx).await?;
    let Some(password_version) = storage::change_password(&mut tx, id, version, &hash, session, cx.now()).await? else {
        // Somebody else was quicker, so what was given is no more the present one.
        drop(tx);
        return refuse(identity, cx, id).await;
    };
    let (user_id, kept_session_id) = (id.to_string(), session.to_string());
    tx.publish(&UserPasswordChanged { user_id, password_version, kept_session_id }).await?;
    notices::enqueue(&mut tx, cx, id, Purpose::PasswordChanged).await?;
    tx.commit().await?;
    Ok(ChangePasswordReply {})
}

async fn refuse(identity: &Identity, cx: &Context, id: UserId) -> Result<ChangePasswordReply> {
    let mut tx = identity.database.begin(cx).await?;
    tx.record(AuditAction {
        action: "identity.change_password.denied",
        target_type: "user",
        target_id: &id.to_string(),
        outcome: Outcome::Denied,
        details: String::new(),
    })
    .await?;
    tx.commit().await?;
    Err(IdentityError::WrongPassword.into())
}

fn in_own_field(faults: Vec<Fault>) -> IdentityError {
    IdentityError::Invalid(faults.into_iter().map(|fault| Fault { pointer: "/newPassword", ..fault }).collect())
}
