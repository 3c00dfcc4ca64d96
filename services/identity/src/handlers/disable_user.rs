//! An administrator keeps a user from signing in and from doing anything.

use kernel::{Context, Result};
use subjects::identity::v1::{DISABLE_USER, DisableUserRequest, User, UserDisabled};

use super::administrators;
use crate::Identity;
use crate::domain::UserId;
use crate::error::IdentityError;
use crate::granting::Target;
use crate::storage;

/// Disabling again changes nothing. The sessions of before end, and do not go on where the user is enabled again.
pub(crate) async fn disable_user(identity: &Identity, cx: &Context, request: DisableUserRequest) -> Result<User> {
    let id = UserId::parse(&request.user_id).map_err(IdentityError::from)?;

    let mut tx = identity.database.begin(cx).await?;
    let before = administrators::lock(&mut tx).await?;
    let user = storage::lock_user(&mut tx, id).await?.ok_or(IdentityError::NotFound(id))?;
    cx.check_if_match(Some(user.revision))?;
    if storage::disable_user(&mut tx, id, cx.now()).await? {
        let target = Target { kind: "user", id: &id.to_string() };
        tx = before.keep_one(identity, cx, &DISABLE_USER, target, tx).await?;
        let password_version = storage::outdate_sessions(&mut tx, id).await?;
        tx.publish(&UserDisabled { user_id: id.to_string(), password_version }).await?;
    }
    let user = storage::find_user(&mut tx, id).await?.ok_or(IdentityError::NotFound(id))?;
    let committed = tx.commit().await?;
    identity.users.forget(id);
    Ok(User { consistency_token: committed.consistency_token, ..user.into() })
}
