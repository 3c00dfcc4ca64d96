//! An administrator enables a user again, which gives back the roles they hold.

use kernel::{Context, Result};
use subjects::identity::v1::{ENABLE_USER, EnableUserRequest, User, UserEnabled};

use crate::Identity;
use crate::domain::UserId;
use crate::error::IdentityError;
use crate::granting::{self, Target};
use crate::storage;

/// Enabling who is not disabled changes nothing.
pub(crate) async fn enable_user(identity: &Identity, cx: &Context, request: EnableUserRequest) -> Result<User> {
    let id = UserId::parse(&request.user_id).map_err(IdentityError::from)?;
    let held = storage::find_holder(&mut *identity.database.pool().acquire().await?, id).await?;
    let held = held.ok_or(IdentityError::NotFound(id))?;
    let user_id = id.to_string();
    if held.is_disabled {
        let target = Target { kind: "user", id: &user_id };
        granting::review(identity, cx, &ENABLE_USER, target, &held.roles.all()).await?;
    }

    let mut tx = identity.database.begin(cx).await?;
    let user = storage::lock_user(&mut tx, id).await?.ok_or(IdentityError::NotFound(id))?;
    cx.check_if_match(Some(user.revision))?;
    if held.is_disabled && storage::enable_user(&mut tx, id, cx.now()).await? {
        tx.publish(&UserEnabled { user_id }).await?;
    }
    let user = storage::find_user(&mut tx, id).await?.ok_or(IdentityError::NotFound(id))?;
    let committed = tx.commit().await?;
    identity.users.forget(id);
    Ok(User { consistency_token: committed.consistency_token, ..user.into() })
}
