//! Whether a user has a permission. For other services.

use kernel::{Context, Result};
use subjects::authz::v1::{AuthorizeReply, AuthorizeRequest};

use crate::Authz;
use crate::domain::Pattern;
use crate::error::AuthzError;
use crate::grounds::parse_user_id;

pub(crate) async fn authorize(authz: &Authz, cx: &Context, request: AuthorizeRequest) -> Result<AuthorizeReply> {
    let user_id = parse_user_id(&request.user_id).map_err(AuthzError::from)?;
    let permission = Pattern::parse(&request.permission).map_err(AuthzError::from)?;
    let grounds = authz.grounds(cx, user_id).await?;

    let allowed = grounds.permit(permission.as_str());
    // Also those without a role: an answer must not outlive their being made.
    let mut roles: Vec<String> = grounds.held.roles().map(str::to_owned).collect();
    let inherited = grounds.held.roles().flat_map(|role| grounds.engine.policy().with_inherited(role));
    roles.extend(inherited.map(|role| role.name.to_string()));
    roles.sort_unstable();
    roles.dedup();
    let group_ids = grounds.held.groups.iter().map(|group| group.id.clone()).collect();
    Ok(AuthorizeReply { allowed, roles, group_ids, consistency_token: String::new() })
}
