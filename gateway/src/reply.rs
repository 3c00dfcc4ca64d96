//! The one shape of every answer: the fields that each carries, and how success, problems and pages differ.
//!
//! Nothing is cached unless the contract says so: an answer depends on who asks, and `no-store` is what keeps it out of
//! shared caches and off disks alike.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, REFERRER_POLICY, RETRY_AFTER,
    STRICT_TRANSPORT_SECURITY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;
use subjects::{Endpoint, Http};

use crate::refusal::Refusal;
use crate::request_id::{REQUEST_ID, RequestId};

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const NO_SNIFF: HeaderValue = HeaderValue::from_static("nosniff");
const NO_REFERRER: HeaderValue = HeaderValue::from_static("no-referrer");
const NOTHING_ACTIVE: HeaderValue =
    HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; base-uri 'none'");
const CLOSE: HeaderValue = HeaderValue::from_static("close");
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"trunkline\"");
const TOKEN_CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"trunkline\", error=\"invalid_token\"");

/// Fields of an answer, none of its own and all of those below: room without growing.
const FIELDS: usize = 12;

/// An answer with a body of `content_type`.
pub(crate) fn with_body(status: StatusCode, content_type: HeaderValue, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.reserve(FIELDS);
    headers.insert(CONTENT_TYPE, content_type);
    response
}

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Response {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}

/// The answer to a plain `OPTIONS`.
pub(crate) fn options(allow: HeaderValue) -> Response {
    let mut response = empty(StatusCode::NO_CONTENT);
    response.headers_mut().insert(ALLOW, allow);
    response
}

/// What a service replied, with the status, the tag and the lifetime that the contract gives it.
pub(crate) fn success(endpoint: &Endpoint, http: &Http, body: Bytes) -> Response {
    let tag = if endpoint.shows_revision { tag(&body) } else { None };
    let status = StatusCode::from_u16(http.success).expect("the contract has statuses of HTTP only");
    let mut response = if status == StatusCode::NO_CONTENT { empty(status) } else { with_body(status, JSON, body) };
    if let Some(tag) = tag {
        response.headers_mut().insert(ETAG, tag);
    }
    if http.cache_max_age_s > 0 {
        let lifetime = format!("public, max-age={}", http.cache_max_age_s);
        let lifetime = HeaderValue::try_from(lifetime).expect("digits are fit for a header");
        response.headers_mut().insert(CACHE_CONTROL, lifetime);
    }
    response
}

/// The revision that a reply shows, as a strong tag; it changes with each edit, though not with what the service counts beside.
fn tag(body: &[u8]) -> Option<HeaderValue> {
    #[derive(Deserialize)]
    struct Revised {
        revision: String,
    }
    let Revised { revision } = serde_json::from_slice(body).ok()?;
    HeaderValue::try_from(format!("\"{revision}\"")).ok()
}

/// What a service refused, as it said it; `bad_token` where it refused the caller's token.
pub(crate) fn service_problem(
    status: StatusCode,
    problem: Bytes,
    retry_after_s: Option<u32>,
    bad_token: bool,
) -> Response {
    let mut response = with_body(status, PROBLEM, problem);
    if let Some(seconds) = retry_after_s {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge(bad_token));
    }
    response
}

/// What the edge refuses.
pub(crate) fn refusal(refusal: &Refusal, request_id: &RequestId) -> Response {
    let error = &refusal.error;
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = with_body(status, PROBLEM, error.to_problem(request_id.as_str()).to_json());
    let headers = response.headers_mut();
    if let Some(delay) = error.retry_delay() {
        let seconds = delay.as_millis().div_ceil(1_000).max(1);
        headers.insert(RETRY_AFTER, HeaderValue::from(u64::try_from(seconds).unwrap_or(u64::MAX)));
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, challenge(!refusal.anonymous && error.code() == "invalid_token"));
    }
    if let Some(allow) = &refusal.allow {
        headers.insert(ALLOW, allow.clone());
    }
    if refusal.close {
        headers.insert(CONNECTION, CLOSE);
    }
    response
}

/// What a 401 asks for (RFC 6750 §3).
fn challenge(bad_token: bool) -> HeaderValue {
    if bad_token { TOKEN_CHALLENGE } else { CHALLENGE }
}

/// Adds what every answer carries.
pub(crate) fn finish(headers: &mut HeaderMap, request_id: &RequestId, hsts: Option<&HeaderValue>) {
    headers.insert(REQUEST_ID, request_id.to_value());
    headers.insert(X_CONTENT_TYPE_OPTIONS, NO_SNIFF);
    headers.insert(REFERRER_POLICY, NO_REFERRER);
    headers.insert(CONTENT_SECURITY_POLICY, NOTHING_ACTIVE);
    headers.entry(CACHE_CONTROL).or_insert(NO_STORE);
    if let Some(hsts) = hsts {
        headers.insert(STRICT_TRANSPORT_SECURITY, hsts.clone());
    }
}

/// Makes the connection end with this answer.
pub(crate) fn close(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, CLOSE);
}
