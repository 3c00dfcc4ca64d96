//! Subjects that are not endpoints. What varies in one is a [`Token`], so that no text of a user's can name another.

use std::fmt;

/// Longest token that comes from outside (S40).
pub const TOKEN_MAX: usize = 64;

/// One token of a subject: `[A-Za-z0-9_-]{1,64}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Token(String);

impl Token {
    /// None where the text has a character that would split, widen or break a subject.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        ((1..=TOKEN_MAX).contains(&text.len()) && text.bytes().all(fits)).then(|| Self(text.to_owned()))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The audit record of an action: `audit.identity.user.registered`.
pub fn audit(action: &str) -> String {
    format!("audit.{action}")
}

/// The heartbeat of a service's relay.
pub fn beat(service: &str) -> String {
    format!("beat.{service}")
}

/// Where the server republishes what it has stored under `stored`.
pub fn live(stored: &str) -> String {
    format!("live.{stored}")
}

/// Whether `pattern`, which may have the wildcards `*` and, at its end, `>`, covers a literal subject.
pub fn covers(pattern: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for expected in pattern.split('.') {
        match (expected, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (expected, Some(token)) if expected == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

/// The prefix under which a broker user reads its replies.
pub fn inbox_prefix(user: &str) -> String {
    format!("_INBOX.{user}")
}

/// The header that carries a call's context between our own processes.
pub const CONTEXT_HEADER: &str = "Trunkline-Context";

#[cfg(test)]
mod tests {
    use super::{Token, covers};

    #[test]
    fn a_pattern_covers_token_by_token() {
        for pattern in ["evt.>", "evt.a.>", "evt.a.b.c", "evt.*.b.*", ">", "evt.a.b.>"] {
            assert!(covers(pattern, "evt.a.b.c"), "{pattern}");
        }
        for pattern in ["evt", "evt.a", "evt.a.b.c.>", "evt.a.b.c.*", "evt.*.b", "evt.a.b.d", "", "*"] {
            assert!(!covers(pattern, "evt.a.b.c"), "{pattern}");
        }
    }

    #[test]
    fn a_token_cannot_split_or_widen_a_subject() {
        for text in ["", ".", "a.b", "*", ">", "a b", "a\r\n", "ü", &"a".repeat(65)] {
            assert_eq!(Token::parse(text), None, "{text:?}");
        }
        assert_eq!(Token::parse("0198-aB_z").map(|t| t.to_string()).as_deref(), Some("0198-aB_z"));
    }
}
