//! Roles as they are defined.

use std::collections::BTreeSet;

use super::{Fault, Pattern};

/// Longest name in bytes.
const NAME_BYTES_MAX: usize = 64;

/// Longest description in bytes.
const DESCRIPTION_BYTES_MAX: usize = 1_024;

/// Permissions and patterns that one role names itself, at most.
pub const PERMISSIONS_MAX: usize = 1_000;

/// Roles that one role inherits directly, at most.
pub const INHERITS_MAX: usize = 64;

/// A lower-case letter, then lower-case letters, digits, `_` and `-`; 64 bytes at most.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoleName(Box<str>);

impl RoleName {
    /// `pointer` names the field it stands in.
    pub fn parse(pointer: &'static str, given: &str) -> Result<Self, Fault> {
        let fits = given.len() <= NAME_BYTES_MAX
            && given.starts_with(|first: char| first.is_ascii_lowercase())
            && given.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
        if fits {
            Ok(Self(given.into()))
        } else {
            Err(Fault::new(
                pointer,
                "invalid_role",
                "Name a role such as `auditor`: lower-case letters, digits, _ and -.",
            ))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for RoleName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for RoleName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// What a role is for; 1,024 bytes at most, no control characters; may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description(String);

impl Description {
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

/// A role: what it permits of itself, and whose permissions it has besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// See [`RoleName`].
    pub name: RoleName,
    /// See [`Description`].
    pub description: Description,
    /// Its own, in order.
    pub permissions: BTreeSet<Pattern>,
    /// The roles that it inherits directly, in order.
    pub inherits: BTreeSet<RoleName>,
    /// Exists from the first start; cannot be deleted or emptied.
    pub built_in: bool,
}

/// The permissions of a request, each once.
pub fn parse_permissions(given: &[String]) -> Result<BTreeSet<Pattern>, Fault> {
    if given.len() > PERMISSIONS_MAX {
        return Err(TOO_MANY_PERMISSIONS);
    }
    given.iter().map(|text| Pattern::parse(text).map_err(|fault| fault.at("/permissions"))).collect()
}

/// The inherited roles of a request, each once.
pub fn parse_inherits(given: &[String]) -> Result<BTreeSet<RoleName>, Fault> {
    if given.len() > INHERITS_MAX {
        return Err(Fault::new("/inherits", "too_many", "Let a role inherit at most 64 others."));
    }
    given.iter().map(|name| RoleName::parse("/inherits", name)).collect()
}

pub(super) const TOO_MANY_PERMISSIONS: Fault =
    Fault::new("/permissions", "too_many", "Give a role at most 1,000 permissions; a pattern stands for many.");
