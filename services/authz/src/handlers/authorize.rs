//! Whether a user has a permission. For other services.

use kernel::authorization::Consistency;
use kernel::{Context, Error, Result};
use subjects::authz::v1::{AuthorizeReply, AuthorizeRequest};

use crate::Authz;
use crate::domain::Permission;
use crate::error::AuthzError;
use crate::holdings;

pub(crate) async fn authorize(authz: &Authz, cx: &Context, request: AuthorizeRequest) -> Result<AuthorizeReply> {
    let user_id = holdings::parse_user_id(&request.user_id).map_err(AuthzError::from)?;
    let permission = Permission::parse(&request.permission).map_err(AuthzError::from)?;
    let consistency = Consistency::parse(&request.consistency_token).ok_or_else(no_token)?;

    let known = authz.knowledge.of_user(cx, user_id, consistency).await?;

    let inherited = known.holdings.roles().flat_map(|role| known.engine.policy().with_inherited(role));
    let mut roles: Vec<String> = inherited.map(|role| role.name.to_string()).collect();
    // Also those without a role, which may be made one day.
    roles.extend(known.holdings.roles().map(str::to_owned));
    roles.sort();
    roles.dedup();
    Ok(AuthorizeReply {
        allowed: known.allows(permission.as_str()),
        roles,
        group_ids: known.holdings.groups.iter().map(|group| group.id.clone()).collect(),
        consistency_token: known.token.map(|token| token.to_string()).unwrap_or_default(),
    })
}

fn no_token() -> Error {
    Error::field("/consistencyToken", "invalid", "must be a consistencyToken from an answer, or `latest`")
}
