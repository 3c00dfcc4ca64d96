//! The name a user is shown by.

use super::Fault;

/// Longest name in characters.
const CHARACTERS_MAX: usize = 200;

/// 1 to 200 characters, not all of them spaces, none of them a control character. Not unique.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DisplayName(String);

impl DisplayName {
    /// Keeps the name as given, without the white space around it.
    pub fn parse(given: &str) -> Result<Self, Fault> {
        let name = given.trim();
        let fault = |code, detail| Err(Fault::new("/displayName", code, detail));
        if name.is_empty() {
            return fault("required", "Give a name.");
        }
        if name.contains(char::is_control) {
            return fault("invalid_characters", "Leave out control characters.");
        }
        if name.chars().nth(CHARACTERS_MAX).is_some() {
            return fault("too_long", "Give at most 200 characters.");
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_people_are_taken() {
        for name in ["Ann", "Ann-Marie O’Neill", "李小龍", "Ω", &"é".repeat(200)] {
            assert_eq!(DisplayName::parse(name).unwrap().as_str(), name);
        }
        assert_eq!(DisplayName::parse("  Ann ").unwrap().as_str(), "Ann");
    }

    #[test]
    fn empty_overlong_and_control_characters_are_refused() {
        let codes = ["", " \t ", "An\0n", "An\r\nn", "\u{1b}[2J", &"é".repeat(201)]
            .map(|name| DisplayName::parse(name).unwrap_err().code);

        assert_eq!(
            codes,
            ["required", "required", "invalid_characters", "invalid_characters", "invalid_characters", "too_long"]
        );
    }
}
