//! Whether a user has a permission. For other services.

use kernel::{Context, Result};
use subjects::authz::v1::{AuthorizeReply, AuthorizeRequest};

use crate::Authz;
use crate::domain::{Engine, Permission};
use crate::error::AuthzError;
use crate::{holdings, storage};

pub(crate) async fn authorize(authz: &Authz, cx: &Context, request: AuthorizeRequest) -> Result<AuthorizeReply> {
    let user_id = holdings::parse_user_id(&request.user_id).map_err(AuthzError::from)?;
    let permission = Permission::parse(&request.permission).map_err(AuthzError::from)?;
    let held = holdings::find(authz, cx, user_id).await?;
    let policy = storage::load_policy(&mut *authz.database.pool().acquire().await?).await?;

    let engine = Engine::new(policy, [], 0);
    let principal = engine.principal(held.roles());
    let allowed = engine.decide(&principal, permission.as_str()).unwrap_or(false);
    let inherited = held.roles().flat_map(|role| engine.policy().with_inherited(role));
    let mut roles: Vec<String> = inherited.map(|role| role.name.to_string()).collect();
    roles.extend(held.roles().map(str::to_owned));
    roles.sort();
    roles.dedup();
    let group_ids = held.groups.iter().map(|group| group.id.clone()).collect();
    Ok(AuthorizeReply { allowed, roles, group_ids, consistency_token: String::new() })
}
