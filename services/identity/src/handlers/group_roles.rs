//! The roles that a group gives to its members.

use kernel::{Context, Result};
use subjects::identity::v1::{
    ASSIGN_GROUP_ROLE, AssignGroupRoleReply, AssignGroupRoleRequest, GroupRoleAssigned, GroupRoleRemoved,
    REMOVE_GROUP_ROLE, RemoveGroupRoleReply, RemoveGroupRoleRequest,
};

use super::administrators;
use crate::Identity;
use crate::domain::{GROUP_ROLES_MAX, GroupId, RoleName};
use crate::error::IdentityError;
use crate::granting::{self, Target};
use crate::notices;
use crate::storage;

/// Giving it again changes nothing.
pub(crate) async fn assign_group_role(
    identity: &Identity,
    cx: &Context,
    request: AssignGroupRoleRequest,
) -> Result<AssignGroupRoleReply> {
    let id = GroupId::parse(&request.group_id).map_err(IdentityError::from)?;
    let role = RoleName::parse_one(&request.role).map_err(IdentityError::from)?;
    let (group_id, name) = (id.to_string(), role.as_str().to_owned());
    let target = Target { kind: "group", id: &group_id };
    let unknown = granting::review(identity, cx, &ASSIGN_GROUP_ROLE, target, std::slice::from_ref(&name)).await?;
    if !unknown.is_empty() {
        return Err(IdentityError::RoleNotFound(name).into());
    }

    let mut tx = identity.database.begin(cx).await?;
    let group = storage::lock_group(&mut tx, id).await?.ok_or(IdentityError::GroupNotFound(id))?;
    cx.check_if_match(Some(group.revision))?;
    let mut revision = group.revision;
    if storage::insert_group_role(&mut tx, id, &role, cx.now()).await? {
        if group.roles.len() >= GROUP_ROLES_MAX {
            return Err(IdentityError::TooMany("roles of this group").into());
        }
        revision = storage::touch_group(&mut tx, id, cx.now()).await?;
        tx.publish(&GroupRoleAssigned { group_id, role: name }).await?;
        notices::enqueue_to_members(&mut tx, cx, id).await?;
    }
    let committed = tx.commit().await?;
    Ok(AssignGroupRoleReply { consistency_token: committed.consistency_token, revision: revision.to_string() })
}

/// Taking what it does not have changes nothing.
pub(crate) async fn remove_group_role(
    identity: &Identity,
    cx: &Context,
    request: RemoveGroupRoleRequest,
) -> Result<RemoveGroupRoleReply> {
    let id = GroupId::parse(&request.group_id).map_err(IdentityError::from)?;
    let role = RoleName::parse_one(&request.role).map_err(IdentityError::from)?;

    let mut tx = identity.database.begin(cx).await?;
    let before = administrators::lock(&mut tx).await?;
    let group = storage::lock_group(&mut tx, id).await?.ok_or(IdentityError::GroupNotFound(id))?;
    cx.check_if_match(Some(group.revision))?;
    let mut revision = group.revision;
    if storage::delete_group_role(&mut tx, id, &role).await? {
        let target = Target { kind: "group", id: &id.to_string() };
        tx = before.keep_one(identity, cx, &REMOVE_GROUP_ROLE, target, tx).await?;
        revision = storage::touch_group(&mut tx, id, cx.now()).await?;
        tx.publish(&GroupRoleRemoved { group_id: id.to_string(), role: role.as_str().to_owned() }).await?;
        notices::enqueue_to_members(&mut tx, cx, id).await?;
    }
    let committed = tx.commit().await?;
    Ok(RemoveGroupRoleReply { consistency_token: committed.consistency_token, revision: revision.to_string() })
}
