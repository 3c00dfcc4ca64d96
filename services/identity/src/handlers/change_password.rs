//! Somebody changes their password.

use std::sync::Arc;

use kernel::{Context, Result};
use subjects::identity::v1::send_mail::Purpose;
use subjects::identity::v1::{CHANGE_PASSWORD, ChangePasswordReply, ChangePasswordRequest, UserPasswordChanged};
use uuid::Uuid;

use crate::Identity;
use crate::domain::{Fault, GivenPassword, UserId, Verdict};
use crate::error::IdentityError;
use crate::granting::{self, Target};
use crate::notices;
use crate::storage;

/// Asks for the present password, so that a token alone does not make an account somebody else's; five times at once, then each
/// three minutes, so that a token does not find the password out either. The session goes on by which it
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
    wait_for_turn(identity, cx, id).await?;
    let current = Arc::new(GivenPassword::new(current_password.into()));
    if identity.hashing.check(cx, current, Some(stored)).await? == Verdict::Wrong {
        return refuse(identity, cx, id).await;
    }
    storage::forget_guesses(&mut *identity.database.pool().acquire().await?, id).await?;
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

/// Refuses who has tried too often, before anything costly is done. The tries are on record, so this is not: whoever goes on would
/// only fill the log.
async fn wait_for_turn(identity: &Identity, cx: &Context, id: UserId) -> Result<()> {
    let now = cx.now();
    match storage::take_guess(&mut *identity.database.pool().acquire().await?, id, now).await? {
        None => Ok(()),
        Some(free_at) => Err(IdentityError::TooManyGuesses((free_at - now).to_std().unwrap_or_default()).into()),
    }
}

async fn refuse(identity: &Identity, cx: &Context, id: UserId) -> Result<ChangePasswordReply> {
    let target = Target { kind: "user", id: &id.to_string() };
    granting::record_denied(identity, cx, &CHANGE_PASSWORD, target, String::new()).await?;
    Err(IdentityError::WrongPassword.into())
}

fn in_own_field(faults: Vec<Fault>) -> IdentityError {
    IdentityError::Invalid(faults.into_iter().map(|fault| Fault { pointer: "/newPassword", ..fault }).collect())
}
