//! The context of a call as it travels between our own processes: a protobuf message in one header.
//!
//! The value is the message without its access token in base64, then, where there is one, a dot and the token as it is:
//! a token is most of a context's bytes and is plain text already.

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
#[expect(clippy::disallowed_methods, reason = "neither base64 nor visible characters hold a line break")]
pub(crate) fn to_headers(context: &mut CallContext) -> HeaderMap {
    let is_plain = context.access_token.bytes().all(|byte| byte.is_ascii_graphic());
    let token = if is_plain { std::mem::take(&mut context.access_token) } else { String::new() };
    let bytes = context.encode_to_vec();
    let mut value = String::with_capacity(bytes.len().div_ceil(3) * 4 + 1 + token.len());
    STANDARD_NO_PAD.encode_string(bytes, &mut value);
    if !token.is_empty() {
        value.push('.');
        value.push_str(&token);
        context.access_token = token;
    }
    let mut map = HeaderMap::new();
    map.insert(headers::CONTEXT.clone(), HeaderValue::from(value));
    map
}

/// Reads the header's value. `None` for anything that is not exactly one context.
pub(crate) fn parse(value: &str) -> Option<CallContext> {
    if value.len() > HEADERS_BYTES_MAX {
        return None;
    }
    let (encoded, token) = value.split_once('.').map_or((value, None), |(encoded, token)| (encoded, Some(token)));
    let bytes = STANDARD_NO_PAD.decode(encoded).ok()?;
    let mut context = CallContext::decode(bytes.as_slice()).ok()?;
    if let Some(token) = token {
        if !context.access_token.is_empty() {
            return None;
        }
        token.clone_into(&mut context.access_token);
    }
    Some(context)
}

#[cfg(test)]
mod tests {
    use subjects::wire::v1::Binding;

    use super::*;

    #[test]
    fn context_round_trips() {
        let mut context = CallContext {
            access_token: "a.b.c".to_owned(),
            timeout_ms: 5_000,
            trace_id: vec![1; 16],
            bindings: vec![Binding { field: "user_id".to_owned(), value: "\r\n\u{0}".to_owned() }],
            ..CallContext::default()
        };

        for token in ["", "a.b.c", "not\nplain"] {
            context.access_token = token.to_owned();
            let map = to_headers(&mut context);

            assert_eq!(map.len(), 1);
            assert!(context.access_token == token);
            assert!(parse(map.get(headers::CONTEXT.clone()).unwrap().as_str()) == Some(context.clone()));
        }
    }

    #[test]
    fn two_tokens_are_refused() {
        let hidden = CallContext { access_token: "hidden\n".to_owned(), ..CallContext::default() };
        let map = to_headers(&mut hidden.clone());
        let value = map.get(headers::CONTEXT.clone()).unwrap().as_str();

        assert!(parse(&format!("{value}.other")).is_none());
    }

    #[test]
    fn garbage_is_refused() {
        for value in ["====", "a b", "////", &"A".repeat(HEADERS_BYTES_MAX + 1)] {
            assert!(parse(value).is_none(), "{}", &value[..3]);
        }
    }
}
