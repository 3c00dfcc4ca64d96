//! Headers of messages. Values that come from outside go through a fallible conversion: the client's own `insert`
//! panics on a line break.

use std::str::FromStr as _;

use async_nats::header::{HeaderName, HeaderValue};
use async_nats::{HeaderMap, Message};

/// The context of a call between our own processes, as one header.
pub(crate) static CONTEXT: HeaderName = HeaderName::from_static(subjects::subject::CONTEXT_HEADER);
pub(crate) static AUTHORIZATION: HeaderName = HeaderName::from_static("Authorization");
pub(crate) static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(crate) static REQUEST_TIMEOUT_MS: HeaderName = HeaderName::from_static("Request-Timeout-Ms");
pub(crate) static REQUEST_ID: HeaderName = HeaderName::from_static("Request-Id");
pub(crate) static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("Idempotency-Key");
pub(crate) static IF_MATCH: HeaderName = HeaderName::from_static("If-Match");
pub(crate) static CONTENT_TYPE: HeaderName = HeaderName::from_static("Content-Type");
pub(crate) static RETRY_AFTER: HeaderName = HeaderName::from_static("Retry-After");
/// ADR-32: the number of an error.
pub(crate) static ERROR_CODE: HeaderName = HeaderName::from_static("Nats-Service-Error-Code");
/// ADR-32: the error in one line.
pub(crate) static ERROR: HeaderName = HeaderName::from_static("Nats-Service-Error");

/// Sets a header. Control characters, which would break the message or a log, become spaces.
#[expect(clippy::disallowed_methods, reason = "the one place that inserts, and the value has been parsed")]
pub(crate) fn set(headers: &mut HeaderMap, name: &HeaderName, value: &str) {
    let parsed = if value.contains(char::is_control) {
        let line: String =
            value.chars().map(|character| if character.is_control() { ' ' } else { character }).collect();
        HeaderValue::from_str(&line)
    } else {
        HeaderValue::from_str(value)
    };
    headers.insert(name.clone(), parsed.expect("a value without control characters is one line"));
}

/// The number of an error reply; `None` for a success.
pub(crate) fn error_code(message: &Message) -> Option<u16> {
    let code = message.headers.as_ref()?.get(ERROR_CODE.clone())?;
    Some(code.as_str().parse().ok().filter(|code| (400..600).contains(code)).unwrap_or(500))
}

/// Seconds after which an error reply says to try again.
pub(crate) fn retry_after_s(message: &Message) -> Option<u32> {
    message.headers.as_ref()?.get(RETRY_AFTER.clone())?.as_str().parse().ok()
}
