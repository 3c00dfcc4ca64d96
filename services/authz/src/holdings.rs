//! Which roles a user holds, as identity knows it.

use subjects::identity::v1::GroupRoles;
use uuid::Uuid;

use crate::domain::Fault;

/// What a user holds. Empty for nobody, and for one who may not sign in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holdings {
    /// Whether the user exists and may sign in.
    pub(crate) counts: bool,
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

/// Takes the hyphenated form only, in any case.
pub(crate) fn parse_user_id(given: &str) -> Result<Uuid, Fault> {
    const INVALID: Fault = Fault::new("/userId", "invalid_id", "Give the id of a user, a UUID.");
    if given.len() != uuid::fmt::Hyphenated::LENGTH {
        return Err(INVALID);
    }
    Uuid::try_parse(given).map_err(|_| INVALID)
}
