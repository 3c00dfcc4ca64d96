//! What a caller wants a resource to be before it is changed (`If-Match`, RFC 9110 §13.1.1), so that nobody overwrites an edit
//! that they have not seen. The tag of a resource is its revision.

use subjects::FieldError;

use crate::{Error, Result};

/// White space between the elements of a list (RFC 9110 §5.6.3).
const SPACE: [char; 2] = [' ', '\t'];

/// A condition on what is to be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum IfMatch {
    /// `*`: it is there, whatever its revision.
    Any,
    /// Its revision is one of these. Weak tags are left out, since they never match by the strong comparison that counts here.
    OneOf(Vec<String>),
}

impl IfMatch {
    /// Reads the header's value: `*`, or tags as `ETag` gives them. 400 for anything else, since what cannot be read must neither
    /// hold nor fail.
    pub(crate) fn parse(value: &str) -> Result<Self> {
        let value = value.trim_matches(SPACE);
        if value == "*" {
            return Ok(Self::Any);
        }
        strong_tags(value).map(Self::OneOf).ok_or_else(|| {
            let detail = "must be `*`, or one or several values of `ETag`, in double quotes";
            Error::malformed("invalid_if_match", "If-Match cannot be read.").with_errors(vec![FieldError::new(
                "/If-Match",
                "invalid",
                detail,
            )])
        })
    }

    /// Whether it holds for a resource of this revision; `None` where there is no such resource.
    pub(crate) fn holds(&self, revision: Option<i64>) -> bool {
        match (self, revision) {
            (_, None) => false,
            (Self::Any, Some(_)) => true,
            (Self::OneOf(tags), Some(revision)) => tags.contains(&revision.to_string()),
        }
    }
}

/// The strong ones of a list of tags; `None` where it is no such list. Empty elements are passed over (RFC 9110 §5.6.1.2), but
/// one must be there. A comma may stand in a tag.
fn strong_tags(list: &str) -> Option<Vec<String>> {
    let (mut strong, mut any) = (Vec::new(), false);
    let mut rest = list;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return any.then_some(strong);
        }
        let weak = rest.strip_prefix("W/");
        let (tag, behind) = weak.unwrap_or(rest).strip_prefix('"')?.split_once('"')?;
        if !tag.chars().all(|character| matches!(character, '!' | '#'..='~' | '\u{80}'..)) {
            return None;
        }
        any = true;
        if weak.is_none() {
            strong.push(tag.to_owned());
        }
        rest = behind.trim_start_matches(SPACE);
        if !(rest.is_empty() || rest.starts_with(',')) {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(value: &str) -> bool {
        IfMatch::parse(value).unwrap().holds(Some(17))
    }

    #[test]
    fn the_same_revision_holds_alone_and_in_a_list() {
        for value in [
            "\"17\"",
            " \"17\" ",
            "\"1\", \"17\"",
            "\"1\",\"17\",",
            ",, \"17\"\t,\"x,y\"",
            "W/\"17\", \"17\"",
            "*",
            " * ",
        ] {
            assert!(holds(value), "{value}");
        }
    }

    #[test]
    fn others_do_not_hold_and_neither_do_weak_ones() {
        for value in ["\"1\"", "\"017\"", "\"17_\"", "\"\"", "W/\"17\"", "\"1,17\"", "\"é\"", "\"*\""] {
            assert!(!holds(value), "{value}");
        }
        assert!(!IfMatch::Any.holds(None));
        assert!(!IfMatch::parse("\"17\"").unwrap().holds(None));
    }

    #[test]
    fn what_is_no_list_of_tags_is_refused_with_a_pointer() {
        for value in [
            "",
            " ",
            ",",
            "17",
            "'17'",
            "\"17",
            "17\"",
            "w/\"17\"",
            "W/17",
            "\"1\" \"17\"",
            "\"1\";\"17\"",
            "*, \"17\"",
            "\"17\", *",
            "**",
            "\"1 7\"",
            "\"1\u{7}7\"",
        ] {
            let error = IfMatch::parse(value).unwrap_err();
            assert_eq!((error.status(), error.code()), (400, "invalid_if_match"), "{value}");
            assert_eq!(error.errors()[0].pointer, "/If-Match", "{value}");
        }
    }
}
