//! The roles a user has now. For other services.

use kernel::{Context, Result};
use subjects::identity::v1::{GetUserRolesReply, GetUserRolesRequest};

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
    let roles = storage::find_roles(&mut connection, id).await?.ok_or(IdentityError::NotFound(id))?;
    Ok(GetUserRolesReply { roles, groups: Vec::new() })
}
