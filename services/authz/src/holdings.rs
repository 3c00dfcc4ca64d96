//! Which roles a user holds, as identity knows it.

use kernel::{Context, Result};
use subjects::identity::v1::{GetUserRolesRequest, GroupRoles};
use uuid::Uuid;

use crate::Authz;
use crate::domain::Fault;

/// What a user holds. Empty for nobody, and for one who may not sign in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holdings {
    /// The user's own roles, in order.
    pub(crate) own: Vec<String>,
    /// The groups that the user is in, with their roles.
    pub(crate) groups: Vec<GroupRoles>,
}

impl Holdings {
    /// The names of all held roles, some perhaps twice.
    pub(crate) fn roles(&self) -> impl Iterator<Item = &str> {
        self.own.iter().chain(self.groups.iter().flat_map(|group| &group.roles)).map(String::as_str)
    }
}

/// Asks identity.
pub(crate) async fn find(authz: &Authz, cx: &Context, user_id: Uuid) -> Result<Holdings> {
    match authz.identity.get_user_roles(cx, GetUserRolesRequest { user_id: user_id.to_string() }).await {
        Ok(reply) => Ok(Holdings { own: reply.roles, groups: reply.groups }),
        Err(error) if error.status() == 404 => Ok(Holdings::default()),
        Err(error) => Err(error),
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
