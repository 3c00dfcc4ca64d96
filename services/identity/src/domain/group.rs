//! Groups of users.

use chrono::{DateTime, Utc};
use unicode_normalization::UnicodeNormalization as _;
use uuid::Uuid;

use super::Fault;

/// Longest name in characters.
const NAME_CHARACTERS_MAX: usize = 200;

/// Longest description in bytes.
const DESCRIPTION_BYTES_MAX: usize = 1_024;

/// Roles of one group at most.
pub const GROUP_ROLES_MAX: usize = 64;

/// Groups that one user is in at most, so that what a decision rests on is bounded.
pub const GROUPS_OF_USER_MAX: usize = 256;

/// A group's id: a UUIDv7, so that its order is the order of creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupId(pub Uuid);

impl GroupId {
    /// Takes the hyphenated form only, in any case.
    pub fn parse(given: &str) -> Result<Self, Fault> {
        const INVALID: Fault = Fault::new("/groupId", "invalid_id", "Give the id of a group, a UUID.");
        if given.len() != uuid::fmt::Hyphenated::LENGTH {
            return Err(INVALID);
        }
        Uuid::try_parse(given).map(Self).map_err(|_| INVALID)
    }
}

impl std::fmt::Display for GroupId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// 1 to 200 characters, none of them a control character; two names are the same after NFKC and lower-casing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupName {
    given: String,
    normalised: String,
}

impl GroupName {
    /// Keeps the name as given, without the white space around it.
    pub fn parse(given: &str) -> Result<Self, Fault> {
        let name = given.trim();
        let fault = |code, detail| Err(Fault::new("/name", code, detail));
        if name.is_empty() {
            return fault("required", "Give a name.");
        }
        if name.contains(char::is_control) {
            return fault("invalid_characters", "Leave out control characters.");
        }
        if name.chars().nth(NAME_CHARACTERS_MAX).is_some() {
            return fault("too_long", "Give at most 200 characters.");
        }
        Ok(Self { given: name.to_owned(), normalised: name.nfkc().collect::<String>().to_lowercase() })
    }

    /// As it was given.
    pub fn as_given(&self) -> &str {
        &self.given
    }

    /// As it is compared.
    pub fn normalised(&self) -> &str {
        &self.normalised
    }
}

/// What a group is for; 1,024 bytes at most, no control characters; may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDescription(String);

impl GroupDescription {
    /// Keeps the text without the white space around it.
    pub fn parse(given: &str) -> Result<Self, Fault> {
        let text = given.trim();
        let fault = |code, detail| Err(Fault::new("/description", code, detail));
        if text.len() > DESCRIPTION_BYTES_MAX {
            return fault("too_long", "Give at most 1,024 bytes.");
        }
        if text.contains(char::is_control) {
            return fault("invalid_characters", "Leave out control characters.");
        }
        Ok(Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A group as kept.
#[derive(Clone, Debug)]
pub struct Group {
    /// See [`GroupId`].
    pub id: GroupId,
    /// As given.
    pub name: String,
    /// See [`GroupDescription`].
    pub description: String,
    /// In order.
    pub roles: Vec<String>,
    /// To the microsecond.
    pub created_at: DateTime<Utc>,
    /// To the microsecond; the time of creation at first.
    pub updated_at: DateTime<Utc>,
    /// Another one after each edit.
    pub revision: i64,
}

/// A group as far as the roles of a member are concerned.
#[derive(Clone, Debug)]
pub struct GroupRoles {
    /// See [`GroupId`].
    pub id: GroupId,
    /// As given.
    pub name: String,
    /// In order.
    pub roles: Vec<String>,
}

/// What a user holds.
#[derive(Clone, Debug, Default)]
pub struct HeldRoles {
    /// The user's own, in order.
    pub own: Vec<String>,
    /// The groups that the user is in, in order of id; also those without roles.
    pub groups: Vec<GroupRoles>,
}

impl HeldRoles {
    /// Every role that the user holds, in order and each once.
    pub fn all(&self) -> Vec<String> {
        let mut all: Vec<String> =
            self.own.iter().chain(self.groups.iter().flat_map(|group| &group.roles)).cloned().collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_look_the_same_are_the_same() {
        let plain = GroupName::parse("Support Team").unwrap();
        for same in ["support team", "  SUPPORT TEAM ", "Ｓupport Team"] {
            assert_eq!(GroupName::parse(same).unwrap().normalised(), plain.normalised(), "{same}");
        }
        for wrong in ["", "  ", "a\nb", &"x".repeat(201)] {
            assert!(GroupName::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn held_roles_are_told_once() {
        let group = |roles: &[&str]| GroupRoles {
            id: GroupId(Uuid::nil()),
            name: String::new(),
            roles: roles.iter().map(|&role| role.to_owned()).collect(),
        };
        let held = HeldRoles { own: vec!["b".to_owned()], groups: vec![group(&["a", "b"]), group(&[]), group(&["c"])] };
        assert_eq!(held.all(), ["a", "b", "c"]);
    }
}
