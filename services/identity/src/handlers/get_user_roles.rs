//! The roles a user has now. For other services.

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
    let held = storage::find_roles(&mut connection, id).await?.ok_or(IdentityError::NotFound(id))?;
    let groups = held.groups.into_iter();
    let groups = groups.map(|group| GroupRoles { id: group.id.to_string(), name: group.name, roles: group.roles });
    Ok(GetUserRolesReply { roles: held.own, groups: groups.collect() })
}
