//! The context of a call as it travels between our own processes: a protobuf message in one header.

use async_nats::HeaderMap;
use async_nats::header::HeaderValue;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use prost::Message as _;
use subjects::wire::v1::CallContext;

use crate::nats::headers;

/// Longest value of the header, in bytes: the cap on all headers of a message.
pub(crate) const HEADERS_BYTES_MAX: usize = 16 * 1_024;

/// The one header of a call.
#[expect(clippy::disallowed_methods, reason = "base64 holds no line break")]
pub(crate) fn to_headers(context: &CallContext) -> HeaderMap {
    let value = STANDARD_NO_PAD.encode(context.encode_to_vec());
    let mut map = HeaderMap::new();
    map.insert(headers::CONTEXT.clone(), HeaderValue::from(value));
    map
}

/// Reads the header's value. `None` for anything that is not exactly one context.
pub(crate) fn parse(value: &str) -> Option<CallContext> {
    if value.len() > HEADERS_BYTES_MAX {
        return None;
    }
    let bytes = STANDARD_NO_PAD.decode(value).ok()?;
    CallContext::decode(bytes.as_slice()).ok()
}

#[cfg(test)]
mod tests {
    use subjects::wire::v1::Binding;

    use super::*;

    #[test]
    fn context_round_trips() {
        let context = CallContext {
            access_token: "a.b.c".to_owned(),
            timeout_ms: 5_000,
            trace_id: vec![1; 16],
            bindings: vec![Binding { field: "user_id".to_owned(), value: "\r\n\u{0}".to_owned() }],
            ..CallContext::default()
        };

        let map = to_headers(&context);

        assert_eq!(map.len(), 1);
        assert!(parse(map.get(headers::CONTEXT.clone()).unwrap().as_str()) == Some(context));
    }

    #[test]
    fn garbage_is_refused() {
        for value in ["====", "a b", "////", &"A".repeat(HEADERS_BYTES_MAX + 1)] {
            assert!(parse(value).is_none(), "{}", &value[..3]);
        }
    }
}
