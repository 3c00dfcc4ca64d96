//! The roles a user has now, and which sessions count. For other services.

use kernel::{Context, Result};
use subjects::identity::v1::{GetUserRolesReply, GetUserRolesRequest, GroupRoles};

use crate::Identity;
use crate::domain::UserId;
use crate::error::IdentityError;
use crate::storage;

pub(crate) async fn get_user_roles(
    identity: &Identity,
    _cx: &Context,
    request: GetUserRolesRequest,
) -> Result<GetUserRolesReply> {
    let id = UserId::parse(&request.user_id).map_err(IdentityError::from)?;
    let mut connection = identity.database.pool().acquire().await?;
    let held = storage::find_holder(&mut connection, id).await?;
    let held = held.filter(|held| !held.is_disabled).ok_or(IdentityError::NotFound(id))?;
    let groups = held.roles.groups.into_iter();
    let groups = groups.map(|group| GroupRoles { id: group.id.to_string(), name: group.name, roles: group.roles });
    Ok(GetUserRolesReply {
        roles: held.roles.own,
        groups: groups.collect(),
        password_version: held.password.version,
        kept_session_id: held.password.kept_session.map(|id| id.to_string()).unwrap_or_default(),
    })
}
