//! Whether a user has a permission. For other services.

use kernel::{Context, Result};
use subjects::authz::v1::{AuthorizeReply, AuthorizeRequest};

use super::parse_consistency;
use crate::Authz;
use crate::domain::Pattern;
use crate::error::AuthzError;
use crate::knowledge::parse_user_id;

pub(crate) async fn authorize(authz: &Authz, cx: &Context, request: AuthorizeRequest) -> Result<AuthorizeReply> {
    let user_id = parse_user_id(&request.user_id).map_err(AuthzError::from)?;
    let permission = Pattern::parse(&request.permission).map_err(AuthzError::from)?;
    let consistency = parse_consistency(&request.consistency_token)?;

    let known = authz.knowledge.of_holder(cx, user_id, consistency).await?;

    let inherited = known.holdings.roles().flat_map(|role| known.engine.policy().with_inherited(role));
    let mut roles: Vec<String> = inherited.map(|role| role.name.to_string()).collect();
    // Also those without a role, which may be made one day.
    roles.extend(known.holdings.roles().map(str::to_owned));
    roles.sort_unstable();
    roles.dedup();
    Ok(AuthorizeReply {
        allowed: known.allows(permission.as_str()),
        roles,
        group_ids: known.holdings.groups.iter().map(|group| group.id.clone()).collect(),
        consistency_token: known.token.map(|token| token.to_string()).unwrap_or_default(),
    })
}
