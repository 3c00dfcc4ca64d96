//! Names of roles. What a role permits is not identity's to know.

use super::Fault;

/// The role of whoever may do everything.
pub const ADMIN: &str = "admin";

/// Longest name in bytes.
const BYTES_MAX: usize = 64;

/// Roles of a user's own at most.
pub const ROLES_MAX: usize = 64;

/// A lower-case letter, then lower-case letters, digits, `_` and `-`; 64 at most.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoleName(String);

impl RoleName {
    /// The roles of a request, in order and each once.
    pub fn parse_all(given: &[String]) -> Result<Vec<Self>, Fault> {
        if given.len() > ROLES_MAX {
            return Err(Fault::new("/roles", "too_many", "Give at most 64 roles."));
        }
        let mut roles = given.iter().map(|name| Self::parse(name)).collect::<Result<Vec<_>, _>>()?;
        roles.sort();
        roles.dedup();
        Ok(roles)
    }

    /// One role, from the field `/role`.
    pub fn parse_one(given: &str) -> Result<Self, Fault> {
        Self::parse(given).map_err(|fault| Fault { pointer: "/role", ..fault })
    }

    fn parse(given: &str) -> Result<Self, Fault> {
        let fits = given.len() <= BYTES_MAX
            && given.starts_with(|first: char| first.is_ascii_lowercase())
            && given.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
        if fits {
            Ok(Self(given.to_owned()))
        } else {
            Err(Fault::new("/roles", "invalid_role", "Name roles such as `auditor`."))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(names: &[&str]) -> Result<Vec<RoleName>, Fault> {
        RoleName::parse_all(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn each_role_counts_once_and_in_order() {
        let roles = parse(&["billing-clerk", "admin", "admin"]).unwrap();

        assert_eq!(roles.iter().map(RoleName::as_str).collect::<Vec<_>>(), ["admin", "billing-clerk"]);
    }

    #[test]
    fn names_that_would_not_fit_a_permission_are_refused() {
        for name in ["", "Admin", "a.b", "a b", "*", "1st", "rôle", &"a".repeat(65)] {
            assert_eq!(parse(&[name]).unwrap_err().code, "invalid_role", "{name:?}");
        }
    }
}
