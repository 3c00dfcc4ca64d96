//! Percent-decoding that refuses what it does not understand. Never guesses: a stray `%` or a byte sequence that is
//! not UTF-8 is the client's fault and is said so.

use std::borrow::Cow;

/// The text that `input` stands for (RFC 3986 §2.1), with `+` read as a space where `form` says that `input` comes from
/// a query. `None` for an incomplete escape or for bytes that are not UTF-8.
pub(crate) fn decode(input: &str, form: bool) -> Option<Cow<'_, str>> {
    if !input.bytes().any(|byte| byte == b'%' || (form && byte == b'+')) {
        return Some(Cow::Borrowed(input));
    }
    let mut decoded = Vec::with_capacity(input.len());
    let mut bytes = input.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => (hex(bytes.next()?)? << 4) | hex(bytes.next()?)?,
            b'+' if form => b' ',
            other => other,
        });
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn plain_text_is_borrowed_and_escapes_are_decoded() {
        assert!(matches!(decode("abc", true), Some(std::borrow::Cow::Borrowed("abc"))));
        assert_eq!(decode("a%20b+c%C3%A9", true).unwrap(), "a b c\u{e9}");
        assert_eq!(decode("a+b", false).unwrap(), "a+b");
    }

    #[test]
    fn broken_escapes_and_broken_utf_8_are_refused() {
        for broken in ["%", "%2", "%zz", "a%g0", "%c0%ae", "%ff", "%e2%82"] {
            assert_eq!(decode(broken, true), None, "{broken}");
        }
    }
}
