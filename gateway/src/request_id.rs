//! The name under which a request is found again: the client's own where it is fit to be logged, otherwise a new one.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

/// Carries the id both ways.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id taken from a client. What is fit here must be fit for the kernel, or a request would have two names.
const LENGTH_MAX: usize = 64;

/// 1 to 64 characters of `[A-Za-z0-9_-]`. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(HeaderValue);

impl RequestId {
    /// The client's id, or `make`'s where the client gave none, a bad one or several.
    pub(crate) fn of(headers: &HeaderMap, make: impl FnOnce() -> Uuid) -> Self {
        let mut values = headers.get_all(REQUEST_ID).iter();
        match (values.next(), values.next()) {
            (Some(value), None) if is_id(value.as_bytes()) => Self(value.clone()),
            _ => Self::from(make()),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        self.0.to_str().expect("an id has visible characters only")
    }

    pub(crate) fn to_value(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl From<Uuid> for RequestId {
    fn from(id: Uuid) -> Self {
        let mut text = Uuid::encode_buffer();
        let text = Bytes::copy_from_slice(id.hyphenated().encode_lower(&mut text).as_bytes());
        Self(HeaderValue::from_maybe_shared(text).expect("a UUID has visible characters only"))
    }
}

fn is_id(text: &[u8]) -> bool {
    (1..=LENGTH_MAX).contains(&text.len())
        && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(byte))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use uuid::Uuid;

    use super::{REQUEST_ID, RequestId};

    fn id(values: &[&str]) -> String {
        let headers: HeaderMap =
            values.iter().map(|value| (REQUEST_ID, HeaderValue::from_bytes(value.as_bytes()).unwrap())).collect();
        RequestId::of(&headers, Uuid::nil).as_str().to_owned()
    }

    #[test]
    fn fit_ids_are_kept_and_others_replaced() {
        let made = Uuid::nil().to_string();
        let longest = "x".repeat(64);
        assert_eq!(id(&["aB-c_9"]), "aB-c_9");
        assert_eq!(id(&[&longest]), longest);
        for unfit in [&[][..], &[""], &["a.b"], &["a b"], &["a\u{e9}"], &["<x>"], &[&"x".repeat(65)], &["a", "b"]] {
            assert_eq!(id(unfit), made, "{unfit:?}");
        }
    }
}
