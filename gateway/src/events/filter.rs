//! Which events a client wants, and what it must be permitted for that.

use subjects::subject::{self, Token};

/// `evt.<service>.<entity>.<action>`.
const TOKENS: usize = 4;

/// A subject filter that at least one event could have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    subject: String,
    permission: String,
}

impl Filter {
    /// Reads `evt.identity.>`, `evt.*.user.*` and the like; an error says what is wrong.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let tokens: Vec<&str> = text.split('.').take(TOKENS + 1).collect();
        if tokens[0] != "evt" {
            return Err("must begin with evt., as in evt.identity.>");
        }
        if tokens.len() > TOKENS {
            return Err("has more than the four words of an event's subject");
        }
        let (last, before) = tokens.split_last().expect("a split has one part at least");
        let is_word = |token: &str| token == "*" || Token::parse(token).is_some();
        if !before.iter().all(|token| is_word(token)) || !(is_word(last) || *last == ">") {
            return Err("words are letters, digits, _ and -, or * alone; > stands alone and last");
        }
        if *last != ">" && tokens.len() < TOKENS {
            return Err("has fewer than the four words of an event's subject; end it with .> for all below");
        }
        let permission = match tokens[1] {
            "*" | ">" => "events.*.read".to_owned(),
            service => format!("events.{service}.read"),
        };
        Ok(Self { subject: text.to_owned(), permission })
    }

    /// As the broker takes it.
    pub(super) fn subject(&self) -> &str {
        &self.subject
    }

    /// Whether it covers a stored subject.
    pub(super) fn covers(&self, stored: &str) -> bool {
        subject::covers(&self.subject, stored)
    }

    /// `events.<service>.read`, or that of all services where it covers several.
    pub(super) fn permission(&self) -> &str {
        &self.permission
    }
}

#[cfg(test)]
mod tests {
    use super::Filter;

    #[test]
    fn permission_is_that_of_all_that_is_covered() {
        for (filter, permission) in [
            ("evt.>", "events.*.read"),
            ("evt.*.user.created", "events.*.read"),
            ("evt.*.>", "events.*.read"),
            ("evt.identity.>", "events.identity.read"),
            ("evt.identity.*.created", "events.identity.read"),
            ("evt.auth.session.>", "events.auth.read"),
            ("evt.auth.session.reuse_detected", "events.auth.read"),
        ] {
            assert_eq!(Filter::parse(filter).map(|filter| filter.permission).as_deref(), Ok(permission), "{filter}");
        }
    }

    #[test]
    fn what_no_event_can_have_is_refused() {
        for filter in [
            "",
            ">",
            "*",
            "evt",
            "evt.",
            "evt.a",
            "evt.a.b",
            "evt.a.b.",
            "evt.a.b.c.d",
            "evt.a.b.c.>",
            "evt.>.a",
            "evt.a>",
            "evt.a*.>",
            "evt..>",
            "evt.a b.>",
            "evt.ü.>",
            "live.evt.>",
            "audit.>",
            "EVT.>",
            "evt.a\r\n.>",
        ] {
            assert!(Filter::parse(filter).is_err(), "{filter:?}");
        }
    }
}
