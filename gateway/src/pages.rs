//! The gateway's own pages: whether it lives, whether it should be sent requests, and what can be asked of it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, LazyLock};

use axum::extract::{Request, State};
use axum::response::Response;
use http::header::{CACHE_CONTROL, ETAG};
use http::{HeaderValue, StatusCode};

use crate::edge::Edge;
use crate::refusal::Refusal;
use crate::reply;
use crate::server::Exchange;

/// A cache must ask whether the document is still the same; the answer to that is short.
const REVALIDATE: HeaderValue = HeaderValue::from_static("no-cache");

static OPENAPI_TAG: LazyLock<HeaderValue> = LazyLock::new(|| {
    let mut hasher = DefaultHasher::new(); // Seedless: every gateway of one build gives the same tag.
    subjects::openapi::document().hash(&mut hasher);
    HeaderValue::try_from(format!("\"{:016x}\"", hasher.finish())).expect("hexadecimal is fit for a header")
});

/// `GET /livez`: the process answers.
pub(crate) async fn livez() -> Response {
    reply::with_body(StatusCode::OK, reply::JSON, r#"{"status":"live"}"#)
}

/// `GET /readyz`: requests can be served now; 503 while they cannot, and first of all when the process stops.
pub(crate) async fn readyz(State(edge): State<Arc<Edge>>) -> Result<Response, Refusal> {
    if !edge.is_ready().await {
        return Err(Refusal::not_ready());
    }
    Ok(reply::with_body(StatusCode::OK, reply::JSON, r#"{"status":"ready"}"#))
}

/// `GET /openapi.json`: every operation, its parameters and its answers.
pub(crate) async fn openapi(request: Request) -> Response {
    let known = request.extensions().get::<Exchange>().and_then(|exchange| exchange.head.if_none_match.as_ref());
    let mut response = if known.is_some_and(|tags| names(tags, &OPENAPI_TAG)) {
        reply::empty(StatusCode::NOT_MODIFIED)
    } else {
        reply::with_body(StatusCode::OK, reply::JSON, subjects::openapi::document())
    };
    response.headers_mut().insert(ETAG, OPENAPI_TAG.clone());
    response.headers_mut().insert(CACHE_CONTROL, REVALIDATE);
    response
}

/// Whether `If-None-Match` names `tag`, by weak comparison (RFC 9110 §13.1.2).
fn names(tags: &HeaderValue, tag: &HeaderValue) -> bool {
    let (Ok(tags), Ok(tag)) = (tags.to_str(), tag.to_str()) else { return false };
    tags.split(',').map(str::trim).any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::names;

    #[test]
    fn known_documents_are_recognised() {
        let tag = HeaderValue::from_static("\"abc\"");
        for known in ["\"abc\"", "W/\"abc\"", "\"x\", \"abc\"", "*"] {
            assert!(names(&HeaderValue::from_static(known), &tag), "{known}");
        }
        for other in ["", "abc", "\"abcd\"", "\"x\""] {
            assert!(!names(&HeaderValue::from_static(other), &tag), "{other}");
        }
    }
}
