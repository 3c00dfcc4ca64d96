//! An administrator deletes a user.

use kernel::{Context, Result};
use subjects::identity::v1::{DELETE_USER, DeleteUserReply, DeleteUserRequest, UserDeleted};

use super::administrators;
use crate::Identity;
use crate::domain::UserId;
use crate::error::IdentityError;
use crate::granting::Target;
use crate::storage;

pub(crate) async fn delete_user(
    identity: &Identity,
    cx: &Context,
    request: DeleteUserRequest,
) -> Result<DeleteUserReply> {
    let id = UserId::parse(&request.user_id).map_err(IdentityError::from)?;

    let mut tx = identity.database.begin(cx).await?;
    let before = administrators::lock(&mut tx).await?;
    let user = storage::lock_user(&mut tx, id).await?.ok_or(IdentityError::NotFound(id))?;
    cx.check_if_match(Some(user.revision))?;
    storage::delete_user(&mut tx, id).await?;
    let target = Target { kind: "user", id: &id.to_string() };
    tx = before.keep_one(identity, cx, &DELETE_USER, target, tx).await?;
    tx.publish(&UserDeleted { user_id: id.to_string() }).await?;
    let committed = tx.commit().await?;
    identity.users.forget(id);
    Ok(DeleteUserReply { consistency_token: committed.consistency_token })
}
