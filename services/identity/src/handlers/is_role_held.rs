//! Whether anybody holds a role of some name. For authz.

use kernel::{Context, Result};
use subjects::identity::v1::{IsRoleHeldReply, IsRoleHeldRequest};

use crate::Identity;
use crate::domain::RoleName;
use crate::error::IdentityError;
use crate::storage;

pub(crate) async fn is_role_held(
    identity: &Identity,
    _cx: &Context,
    request: IsRoleHeldRequest,
) -> Result<IsRoleHeldReply> {
    let role = RoleName::parse_one(&request.role).map_err(IdentityError::from)?;
    let held = storage::is_role_held(&mut *identity.database.pool().acquire().await?, role.as_str()).await?;
    Ok(IsRoleHeldReply { held })
}
