//! What a user holds, as identity tells it.

/// Roles of a user, own and by groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Whether the user exists and may sign in. Where not, nothing else is known and nothing is permitted.
    pub counts: bool,
    /// The user's own roles, in order.
    pub own: Vec<String>,
    /// The groups that the user is in.
    pub groups: Vec<GroupHolding>,
}

/// A group and what its members hold by it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupHolding {
    /// A UUID.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// In order.
    pub roles: Vec<String>,
}

impl Holdings {
    /// The names of all held roles, some perhaps twice.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.own.iter().chain(self.groups.iter().flat_map(|group| &group.roles)).map(String::as_str)
    }
}
