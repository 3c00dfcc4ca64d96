//! Somebody gives a role to a user.

use kernel::{Context, Result};
use subjects::identity::v1::send_mail::Purpose;
use subjects::identity::v1::{ASSIGN_ROLE, AssignRoleReply, AssignRoleRequest, UserRoleAssigned};

use crate::Identity;
use crate::domain::{ROLES_MAX, RoleName, UserId};
use crate::error::IdentityError;
use crate::granting::{self, Target};
use crate::notices;
use crate::storage;

/// Giving it again changes nothing.
pub(crate) async fn assign_role(
    identity: &Identity,
    cx: &Context,
    request: AssignRoleRequest,
) -> Result<AssignRoleReply> {
    let id = UserId::parse(&request.user_id).map_err(IdentityError::from)?;
    let role = RoleName::parse_one(&request.role).map_err(IdentityError::from)?;
    let (user_id, name) = (id.to_string(), role.as_str().to_owned());
    let target = Target { kind: "user", id: &user_id };
    let unknown = granting::review(identity, cx, &ASSIGN_ROLE, target, std::slice::from_ref(&name)).await?;
    if !unknown.is_empty() {
        return Err(IdentityError::RoleNotFound(name).into());
    }

    let mut tx = identity.database.begin(cx).await?;
    storage::lock_user(&mut tx, id).await?.ok_or(IdentityError::NotFound(id))?;
    if storage::insert_role(&mut tx, id, &role, cx.now()).await? {
        if storage::count_roles(&mut tx, id).await? > ROLES_MAX {
            return Err(IdentityError::TooMany("roles of this user").into());
        }
        tx.publish(&UserRoleAssigned { user_id, role: name }).await?;
        notices::enqueue(&mut tx, cx, id, Purpose::RolesChanged).await?;
    }
    let committed = tx.commit().await?;
    Ok(AssignRoleReply { consistency_token: committed.consistency_token })
}
