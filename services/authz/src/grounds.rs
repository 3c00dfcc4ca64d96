//! What a decision is made from: what the user holds, and the policy made ready.

use std::sync::Arc;

use kernel::{Context, Error, Result};
use subjects::identity::v1::GetUserRolesRequest;
use uuid::Uuid;

use crate::Authz;
use crate::domain::{Engine, Fault, GroupHolding, Holdings};
use crate::storage;

/// What one decision is made from.
#[derive(Clone, Debug)]
pub(crate) struct Grounds {
    /// What the user holds.
    pub(crate) held: Arc<Holdings>,
    /// All roles.
    pub(crate) engine: Arc<Engine>,
}

impl Authz {
    /// What is known of a user and of the roles.
    pub(crate) async fn grounds(&self, cx: &Context, user_id: Uuid) -> Result<Grounds> {
        Ok(Grounds { held: Arc::new(self.read_holdings(cx, user_id).await?), engine: self.read_engine().await?.into() })
    }

    /// Asks identity what a user holds.
    pub(crate) async fn read_holdings(&self, cx: &Context, user_id: Uuid) -> Result<Holdings> {
        let request = GetUserRolesRequest { user_id: user_id.to_string() };
        let reply = match self.identity.get_user_roles(cx, request).await {
            Ok(reply) => reply,
            Err(error) if error.status() == 404 => return Ok(Holdings::default()),
            Err(error) => {
                let detail = "Which roles the user holds cannot be found out just now.";
                return Err(Error::unavailable(detail).with_source(error));
            }
        };
        let groups = reply.groups.into_iter();
        let groups = groups.map(|group| GroupHolding { id: group.id, name: group.name, roles: group.roles });
        Ok(Holdings { counts: true, own: reply.roles, groups: groups.collect() })
    }

    /// Reads the roles and works them out.
    pub(crate) async fn read_engine(&self) -> Result<Engine> {
        let policy = storage::load_policy(&mut *self.database.pool().acquire().await?).await?;
        Ok(Engine::new(policy, self.catalogue.permissions(), 0))
    }
}

impl Grounds {
    /// Whether the user has the permission, or all that a pattern covers.
    pub(crate) fn permit(&self, permission: &str) -> bool {
        let principal = self.engine.principal(self.held.roles());
        self.engine.decide(&principal, permission).unwrap_or(false)
    }
}

/// Takes the hyphenated form only, in any case.
pub(crate) fn parse_user_id(given: &str) -> Result<Uuid, Fault> {
    const INVALID: Fault = Fault::new("/userId", "invalid_id", "Give the id of a user, a UUID.");
    if given.len() != uuid::fmt::Hyphenated::LENGTH {
        return Err(INVALID);
    }
    Uuid::try_parse(given).map_err(|_| INVALID)
}
