//! Nobody gives what they lack: what a change adds to a role must be the giver's own.

use kernel::{AuditAction, Context, Result};
use subjects::Endpoint;
use subjects::audit::v1::Outcome;

use crate::Authz;
use crate::domain::{Holdings, Pattern, Policy, Role, RoleName};
use crate::error::AuthzError;
use crate::knowledge::parse_user_id;

/// What somebody may give on: what they may do by the roles they hold, as identity says now.
#[derive(Debug)]
pub(crate) struct Giver(Holdings);

impl Giver {
    /// The caller. Read anew, since what is cached could be behind by the moment that matters.
    pub(crate) async fn find(authz: &Authz, cx: &Context) -> Result<Self> {
        let user_id = parse_user_id(cx.user_id()?).map_err(AuthzError::from)?;
        Ok(Self(authz.knowledge.read_holdings(cx, user_id).await?))
    }

    /// Of what the role would permit or inherit in place of what it was before, the first that the giver may not do. `policy`
    /// is as it is now; inherited roles that it does not know permit nothing yet.
    pub(crate) fn first_lacking(&self, policy: &Policy, before: Option<&Role>, role: &Role) -> Option<Pattern> {
        let had = |name: &RoleName| before.is_some_and(|before| before.inherits.contains(name));
        let inherited = role.inherits.iter().filter(|name| !had(name)).map(RoleName::as_str);
        let permissions =
            role.permissions.iter().filter(|p| !before.is_some_and(|before| before.permissions.contains(p)));
        let own = policy.permissions_of(self.0.roles());
        let is_covered = |wanted: &Pattern| own.iter().any(|pattern| pattern.covers(wanted));
        permissions.chain(policy.permissions_of(inherited)).find(|wanted| !is_covered(wanted)).cloned()
    }
}

/// The refusal, recorded.
pub(crate) async fn refuse(
    authz: &Authz,
    cx: &Context,
    endpoint: &'static Endpoint,
    role: &RoleName,
    lacking: &Pattern,
) -> Result<AuthzError> {
    let mut tx = authz.database.begin(cx).await?;
    tx.record(AuditAction {
        action: &format!("authz.{}.denied", endpoint.name),
        target_type: "role",
        target_id: role.as_str(),
        outcome: Outcome::Denied,
        details: serde_json::json!({ "permission": lacking.as_str() }).to_string(),
    })
    .await?;
    tx.commit().await?;
    Ok(AuthzError::Escalation(lacking.as_str().to_owned()))
}
