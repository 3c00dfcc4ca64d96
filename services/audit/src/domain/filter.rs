//! Which entries somebody asks for.

use chrono::{DateTime, Utc};

use super::Outcome;

/// Longest text to look for, in bytes; nothing longer is kept.
const TEXT_BYTES_MAX: usize = 4_096;

/// One thing wrong with one field of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// JSON pointer of the field: `/action`.
    pub pointer: &'static str,
    /// Stable snake_case word.
    pub code: &'static str,
    /// What the caller can do about it.
    pub detail: &'static str,
}

/// Which actions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActionFilter {
    /// This one.
    Exactly(String),
    /// All that begin so; ends in a dot, or is empty for all.
    Below(String),
}

impl ActionFilter {
    /// The one action.
    pub fn exactly(&self) -> Option<&str> {
        match self {
            Self::Exactly(action) => Some(action),
            Self::Below(_) => None,
        }
    }

    /// A pattern for SQL's `LIKE` with the escape character `\`, for all that begin so.
    pub fn pattern(&self) -> Option<String> {
        match self {
            Self::Exactly(_) => None,
            Self::Below(prefix) => Some(prefix.replace('\\', r"\\").replace('%', r"\%").replace('_', r"\_") + "%"),
        }
    }
}

/// What has to hold of an entry; `None` for what may be anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The actor's id.
    pub actor_id: Option<String>,
    /// The action.
    pub action: Option<ActionFilter>,
    /// The target's id.
    pub target_id: Option<String>,
    /// The outcome.
    pub outcome: Option<Outcome>,
    /// At or after.
    pub from: Option<DateTime<Utc>>,
    /// Before.
    pub to: Option<DateTime<Utc>>,
}

impl Filter {
    /// Takes what was given, empty texts for nothing given; tells all faults at once.
    pub fn parse(
        actor: String,
        action: String,
        target: String,
        outcome: Option<Outcome>,
        from: Option<DateTime<Utc>>,
        to: Option<DateTime<Utc>>,
    ) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        for (pointer, text) in [("/actor", &actor), ("/action", &action), ("/target", &target)] {
            if text.len() > TEXT_BYTES_MAX || text.contains('\0') {
                faults.push(Fault { pointer, code: "invalid", detail: "No entry has such a value." });
            }
        }
        let action = parse_action(action).map_err(|fault| faults.push(fault)).ok().flatten();
        if let (Some(from), Some(to)) = (from, to)
            && from >= to
        {
            faults.push(Fault { pointer: "/to", code: "invalid_range", detail: "Give a time after `from`." });
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let given = |text: String| (!text.is_empty()).then_some(text);
        Ok(Self { actor_id: given(actor), action, target_id: given(target), outcome, from, to })
    }
}

fn parse_action(given: String) -> Result<Option<ActionFilter>, Fault> {
    const INVALID: Fault = Fault {
        pointer: "/action",
        code: "invalid_action",
        detail: "Give an action, or the beginning of actions as `identity.*`.",
    };
    let Some(prefix) = given.strip_suffix('*') else {
        return match given.as_str() {
            "" => Ok(None),
            text if text.contains('*') => Err(INVALID),
            _ => Ok(Some(ActionFilter::Exactly(given))),
        };
    };
    let is_whole_words = prefix.is_empty() || prefix.ends_with('.');
    if prefix.contains('*') || !is_whole_words {
        Err(INVALID)
    } else {
        Ok(Some(ActionFilter::Below(prefix.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(given: &str) -> Result<Option<ActionFilter>, Vec<Fault>> {
        Filter::parse(String::new(), given.to_owned(), String::new(), None, None, None).map(|filter| filter.action)
    }

    #[test]
    fn action_is_exact_or_a_beginning() {
        assert_eq!(action("").unwrap(), None);
        let one = action("auth.session.reuse_detected").unwrap().unwrap();
        assert_eq!((one.exactly(), one.pattern()), (Some("auth.session.reuse_detected"), None));
        let below = |given| action(given).unwrap().unwrap().pattern().unwrap();
        assert_eq!(below("identity.*"), "identity.%");
        assert_eq!(below("a_b.*"), r"a\_b.%");
        assert_eq!(below("*"), "%");
        for wrong in ["ident*", "*.user.created", "identity.**", "identity.*.created", "**"] {
            assert_eq!(action(wrong).unwrap_err()[0].code, "invalid_action", "{wrong}");
        }
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let time = |second| DateTime::from_timestamp(second, 0);

        let faults =
            Filter::parse("a\0".to_owned(), "a*".to_owned(), "x".repeat(4_097), None, time(2), time(2)).unwrap_err();

        let pointers: Vec<_> = faults.iter().map(|fault| fault.pointer).collect();
        assert_eq!(pointers, ["/actor", "/target", "/action", "/to"]);
    }
}
