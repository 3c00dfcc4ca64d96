//! An administrator changes a user's name or password.

use kernel::{Context, Result};
use subjects::identity::v1::send_mail::Purpose;
use subjects::identity::v1::{UPDATE_USER, UpdateUserRequest, User, UserPasswordChanged, UserUpdated};

use crate::Identity;
use crate::domain::{DisplayName, Fault, UserId};
use crate::error::IdentityError;
use crate::granting::{self, Target};
use crate::notices;
use crate::storage;

/// Whoever sets a password can sign in with it, and so must be allowed whatever the user is, disabled or not. Nobody sets their own:
/// who comes by a token must not make the account theirs without the present password.
pub(crate) async fn update_user(identity: &Identity, cx: &Context, request: UpdateUserRequest) -> Result<User> {
    let UpdateUserRequest { user_id, display_name, password } = request;
    let id = UserId::parse(&user_id).map_err(IdentityError::from)?;
    if display_name.is_none() && password.is_none() {
        let fault = Fault { pointer: "", code: "required", detail: "Give displayName, password or both." };
        return Err(IdentityError::from(fault).into());
    }
    let user_id = id.to_string();
    let user = storage::find_user(&mut *identity.database.pool().acquire().await?, id).await?;
    let user = user.ok_or(IdentityError::NotFound(id))?;
    let (name, hash) = if let Some(password) = password {
        if UserId::parse(cx.user_id()?).is_ok_and(|caller| caller == id) {
            let target = Target { kind: "user", id: &user_id };
            granting::record_denied(identity, cx, &UPDATE_USER, target, String::new()).await?;
            return Err(IdentityError::OwnPassword.into());
        }
        let held = storage::find_holder(&mut *identity.database.pool().acquire().await?, id).await?;
        let held = held.ok_or(IdentityError::NotFound(id))?;
        granting::review(identity, cx, &UPDATE_USER, Target { kind: "user", id: &user_id }, &held.roles.all()).await?;
        let parse = move || user.parse_password(password.into(), display_name.as_deref());
        let (name, hash) = identity.hashing.hash(cx, parse).await?.map_err(IdentityError::Invalid)?;
        (name, Some(hash))
    } else {
        (display_name.as_deref().map(DisplayName::parse).transpose().map_err(IdentityError::from)?, None)
    };

    let mut tx = identity.database.begin(cx).await?;
    let user = storage::lock_user(&mut tx, id).await?.ok_or(IdentityError::NotFound(id))?;
    cx.check_if_match(Some(user.revision))?;
    let user = storage::update_user(&mut tx, id, name.as_ref(), cx.now()).await?;
    tx.publish(&UserUpdated { user_id: user_id.clone() }).await?;
    if let Some(hash) = hash {
        let password_version = storage::set_password(&mut tx, id, &hash, cx.now()).await?;
        tx.publish(&UserPasswordChanged { user_id, password_version, kept_session_id: String::new() }).await?;
        notices::enqueue(&mut tx, cx, id, Purpose::PasswordSet).await?;
    }
    tx.commit().await?;
    identity.users.forget(id);
    Ok(user.into())
}
