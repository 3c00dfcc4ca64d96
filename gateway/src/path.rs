//! Which paths are plain enough to be routed.
//!
//! Two readers of one path must never disagree about what it names, so everything that some reader would fold, strip or
//! decode again is refused before the router sees it. Nothing is normalised: a path is taken as it stands or not at all.

use crate::percent;

/// Longest decoded path parameter, in bytes: room for the longest name a service takes, with none to spare for a load.
const PARAMETER_BYTES_MAX: usize = 256;

/// What stands in a path beside letters and digits: `pchar` of RFC 3986 §3.3 without `;`, and the separator.
const PUNCTUATION: &[u8] = b"/-_.~:@!$&'()*+,=";

/// Whether `path` (absolute, without query) has exactly one reading: no empty or dot segment, no separator or dot in
/// disguise, no second layer of escapes, nothing but the characters of RFC 3986 §3.3 without `;`.
pub(crate) fn is_plain(path: &str) -> bool {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return false;
    }
    let mut escaped = false;
    for &byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => {}
            _ if PUNCTUATION.contains(&byte) => {}
            b'%' => escaped = true,
            _ => return false,
        }
    }
    let plain_segments = || path[1..].split('/').all(|segment| !matches!(segment, "." | ".."));
    !path.contains("//") && (!path.contains("/.") || plain_segments()) && (!escaped || escapes_are_plain(path))
}

/// Whether every escape of `path` stands for a character that means nothing to a reader of paths.
fn escapes_are_plain(path: &str) -> bool {
    let Some(decoded) = percent::decode(path, false) else {
        return false;
    };
    // Escapes may not add what the path did not show: a separator, a dot, a further escape, a parameter.
    let hidden = |character: char| decoded.matches(character).count() != path.matches(character).count();
    !decoded.contains(['%', '\\'])
        && !decoded.contains(char::is_control)
        && !hidden('/')
        && !hidden('.')
        && !hidden(';')
}

/// Whether a decoded path parameter can be anybody's id or name: 1 to 256 bytes, no space, no control character, no
/// trailing dot, which some readers drop.
pub(crate) fn is_parameter(value: &str) -> bool {
    (1..=PARAMETER_BYTES_MAX).contains(&value.len())
        && !value.ends_with('.')
        && !value.contains(|character: char| character.is_control() || character.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::{is_parameter, is_plain};

    #[test]
    fn plain_paths_pass() {
        for path in
            ["/", "/livez", "/.well-known/jwks.json", "/api/v1/users/0198-a", "/api/v1/users/", "/a%20b", "/caf%C3%A9"]
        {
            assert!(is_plain(path), "{path}");
        }
    }

    #[test]
    fn paths_with_a_second_reading_are_refused() {
        for path in [
            "",
            "x",
            "*",
            "//x",
            "/a//b",
            "/a/./b",
            "/a/../b",
            "/..",
            "/.",
            "/a/..",
            "/%2e%2e/a",
            "/a/%2E/b",
            "/a%2fb",
            "/a%5cb",
            "/a\\b",
            "/a%00b",
            "/a%0ab",
            "/a;p=1",
            "/a%3bp=1",
            "/a%252e",
            "/a%25",
            "/%",
            "/%2",
            "/%zz",
            "/%c0%ae",
            "/%ff",
            "/a b",
            "/a\u{e9}",
            "/a\"b",
            "/a<b",
            "/a|b",
            "/a{b}",
            "/a^b",
            "/a`b",
            "/a#b",
        ] {
            assert!(!is_plain(path), "{path}");
        }
    }

    #[test]
    fn parameters_are_short_visible_and_end_in_no_dot() {
        assert!(is_parameter("audit.*.read"));
        for value in ["", "a b", "a\u{0}", "me.", "a\u{a0}", &"x".repeat(257)] {
            assert!(!is_parameter(value), "{value:?}");
        }
    }
}
