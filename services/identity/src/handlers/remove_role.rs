//! Somebody takes a role from a user.

use kernel::{Context, Result};
use subjects::identity::v1::send_mail::Purpose;
use subjects::identity::v1::{REMOVE_ROLE, RemoveRoleReply, RemoveRoleRequest, UserRoleRemoved};

use super::administrators;
use crate::Identity;
use crate::domain::{RoleName, UserId};
use crate::error::IdentityError;
use crate::granting::Target;
use crate::notices;
use crate::storage;

/// Taking what they do not have changes nothing.
pub(crate) async fn remove_role(
    identity: &Identity,
    cx: &Context,
    request: RemoveRoleRequest,
) -> Result<RemoveRoleReply> {
    let id = UserId::parse(&request.user_id).map_err(IdentityError::from)?;
    let role = RoleName::parse_one(&request.role).map_err(IdentityError::from)?;

    let mut tx = identity.database.begin(cx).await?;
    let before = administrators::lock(&mut tx).await?;
    storage::lock_user(&mut tx, id).await?.ok_or(IdentityError::NotFound(id))?;
    if storage::delete_role(&mut tx, id, &role).await? {
        let target = Target { kind: "user", id: &id.to_string() };
        tx = before.keep_one(identity, cx, &REMOVE_ROLE, target, tx).await?;
        tx.publish(&UserRoleRemoved { user_id: id.to_string(), role: role.as_str().to_owned() }).await?;
        notices::enqueue(&mut tx, cx, id, Purpose::RolesChanged).await?;
    }
    let committed = tx.commit().await?;
    Ok(RemoveRoleReply { consistency_token: committed.consistency_token })
}
