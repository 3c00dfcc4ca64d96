//! Everything the edge itself refuses, in one place: the status, the stable word and the sentence of each refusal. What
//! a service refuses passes through as the service said it and is not listed here.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode};
use kernel::Error;

/// Why a request ends at the edge.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// What the client is told.
    pub(crate) error: Error,
    /// Methods that the path knows, for 405.
    pub(crate) allow: Option<HeaderValue>,
    /// The connection cannot be read further: where the next request begins is unknown or not worth waiting for.
    pub(crate) close: bool,
    /// No credential came at all, which a challenge must not call an error (RFC 6750 §3.1).
    pub(crate) anonymous: bool,
}

/// Leaves a handler as an empty answer that carries the refusal; the server renders it, since it knows the request.
impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = Response::default();
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self { error, allow: None, close: false, anonymous: false }
    }
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Error::new(status.as_u16(), code, detail).into()
    }

    fn closing(self) -> Self {
        Self { close: true, ..self }
    }

    /// The request as such cannot be read in exactly one way.
    pub(crate) fn malformed(detail: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed_request", detail).closing()
    }

    pub(crate) fn malformed_path() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed_path", "The path can be read in more than one way.")
    }

    pub(crate) fn malformed_query(detail: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed_query", detail)
    }

    pub(crate) fn duplicate_parameter(name: &str) -> Self {
        let detail = format!("The parameter `{name}` is given more than once.");
        Self::new(StatusCode::BAD_REQUEST, "duplicate_parameter", detail)
    }

    pub(crate) fn unsupported_precondition() -> Self {
        let detail =
            "If-None-Match and If-Unmodified-Since are not held against a change. Use If-Match where it is taken.";
        Self::new(StatusCode::BAD_REQUEST, "precondition_not_supported", detail)
    }

    pub(crate) fn unexpected_body() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "unexpected_body", "This method takes no body.").closing()
    }

    /// The client stopped in the middle of its body or framed it wrongly.
    pub(crate) fn malformed_body() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed_body", "The body does not arrive as its head says.").closing()
    }

    pub(crate) fn no_token() -> Self {
        Self { anonymous: true, ..Self::malformed_token() }
    }

    /// In the words of the verifier: what is wrong with a credential is nobody's to learn.
    pub(crate) fn malformed_token() -> Self {
        let detail = "The access token is missing, malformed, expired or not ours.";
        Error::unauthenticated("invalid_token", detail).into()
    }

    pub(crate) fn foreign_origin() -> Self {
        Self::new(StatusCode::FORBIDDEN, "origin_not_allowed", "Pages of this origin may not call.")
    }

    pub(crate) fn not_found() -> Self {
        Error::not_found("There is nothing at this path.").into()
    }

    pub(crate) fn method_not_allowed(allow: HeaderValue) -> Self {
        let refusal =
            Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This path does not know the method.");
        Self { allow: Some(allow), ..refusal }
    }

    pub(crate) fn unknown_method() -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "method_not_implemented", "No path knows the method.").closing()
    }

    pub(crate) fn body_timeout() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", "The body took too long to arrive.").closing()
    }

    pub(crate) fn body_too_large(bytes_max: u32) -> Self {
        let detail = format!("The body may have {bytes_max} bytes at most.");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail).closing()
    }

    pub(crate) fn uri_too_long() -> Self {
        Self::new(StatusCode::URI_TOO_LONG, "uri_too_long", "Path and query may have 8 KiB together.").closing()
    }

    pub(crate) fn unsupported_media_type() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "Send `Content-Type: application/json`.",
        )
    }

    pub(crate) fn unsupported_encoding() -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_content_encoding", "Send the body without encoding.")
    }

    pub(crate) fn unknown_expectation() -> Self {
        Self::new(StatusCode::EXPECTATION_FAILED, "expectation_failed", "Only `100-continue` can be expected.")
            .closing()
    }

    pub(crate) fn rate_limited(wait: Duration) -> Self {
        let error = Error::new(429, "rate_limited", "Too many requests from this address. Try again later.");
        error.retry_after(wait).into()
    }

    pub(crate) fn headers_too_large() -> Self {
        let detail = "The header fields may be 100 and have 16 KiB together.";
        Self::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large", detail).closing()
    }

    pub(crate) fn overloaded() -> Self {
        let error = Error::new(503, "overloaded", "Too many requests are being answered. Try again later.");
        error.retry_after(Duration::from_secs(1)).into()
    }

    pub(crate) fn not_ready() -> Self {
        Error::unavailable("This gateway takes no requests just now.").retry_after(Duration::from_secs(1)).into()
    }

    /// A service answered with something that is no answer.
    pub(crate) fn bad_reply() -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "bad_reply", "A service gave an answer that cannot be passed on.")
    }
}
