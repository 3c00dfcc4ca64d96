//! Whether somebody may give these roles to others. For identity, which gives them.

use kernel::{Context, Result};
use subjects::authz::v1::review_grant_reply::Lacking;
use subjects::authz::v1::{ReviewGrantReply, ReviewGrantRequest};

use crate::Authz;
use crate::error::AuthzError;
use crate::knowledge::parse_user_id;
use crate::storage;

/// Answered from where things are stored, never from what is cached.
pub(crate) async fn review_grant(authz: &Authz, cx: &Context, request: ReviewGrantRequest) -> Result<ReviewGrantReply> {
    let user_id = parse_user_id(&request.user_id).map_err(AuthzError::from)?;
    let held = authz.knowledge.read_holdings(cx, user_id).await?;
    let names: Vec<String> = held.roles().map(str::to_owned).chain(request.roles.iter().cloned()).collect();
    let policy = storage::load_policy_of(&mut *authz.database.pool().acquire().await?, &names).await?;

    let own = policy.permissions_of(held.roles());
    let mut reply = ReviewGrantReply::default();
    for role in request.roles {
        if policy.find(&role).is_none() {
            reply.unknown_roles.push(role);
            continue;
        }
        let permitted = policy.permissions_of([role.as_str()]);
        let lacking = permitted.iter().find(|wanted| !own.iter().any(|pattern| pattern.covers(wanted)));
        if let Some(lacking) = lacking {
            let permission = lacking.as_str().to_owned();
            reply.lacking.push(Lacking { role, permission });
        }
    }
    Ok(reply)
}
