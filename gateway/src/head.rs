//! The head of a request, read once: what is wrong with it as such, and what later steps need of it.
//!
//! Fields that are not named here are not read by anybody: what goes on to a service is built from nothing, so no
//! client can name a user, an address or a broker header.

use http::header::HeaderMap;
use http::{HeaderValue, Method, Request, Uri, Version};

use crate::refusal::Refusal;

/// Longest path and query together, in bytes.
const TARGET_BYTES_MAX: usize = 8 * 1024;
/// All header fields together, in bytes, with the separators that HTTP/1.1 writes.
const FIELDS_BYTES_MAX: usize = 16 * 1024;
const FIELDS_MAX: usize = 100;
/// `: ` and CRLF.
const SEPARATOR_BYTES: usize = 4;
/// Methods of the whole API, for paths and targets that are not looked up.
pub(crate) const ALLOW_ALL: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

/// What later steps need. Values are shared with the request, not copied.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    pub(crate) authorization: Option<HeaderValue>,
    pub(crate) content_type: Option<HeaderValue>,
    pub(crate) content_is_encoded: bool,
    pub(crate) origin: Option<HeaderValue>,
    pub(crate) user_agent: Option<HeaderValue>,
    pub(crate) idempotency_key: Option<HeaderValue>,
    pub(crate) if_match: Option<HeaderValue>,
    pub(crate) if_none_match: Option<HeaderValue>,
    pub(crate) if_unmodified_since: bool,
    pub(crate) last_event_id: Option<HeaderValue>,
    pub(crate) traceparent: Option<HeaderValue>,
    /// The client asks to speak something else next; what it sends then must not be taken for a request.
    pub(crate) wants_upgrade: bool,
    pub(crate) is_preflight: bool,
}

/// Reads and judges the head of `request`.
pub(crate) fn read<B>(request: &Request<B>) -> Result<Head, Refusal> {
    check_method(request.method())?;
    let fields = read_fields(request.headers())?;
    check_target(request.uri(), request.version(), request.method(), fields.host)?;
    let mut head = fields.head;
    head.is_preflight &= request.method() == Method::OPTIONS && head.origin.is_some();
    Ok(head)
}

struct Fields<'a> {
    head: Head,
    host: Option<&'a HeaderValue>,
}

fn read_fields(headers: &HeaderMap) -> Result<Fields<'_>, Refusal> {
    let mut head = Head::default();
    let mut host = None;
    let mut bytes = 0;
    for (name, value) in headers {
        bytes += name.as_str().len() + value.len() + SEPARATOR_BYTES;
        match name.as_str() {
            "host" => only(&mut host, value)?,
            "authorization" => only_copy(&mut head.authorization, value)?,
            "content-type" => only_copy(&mut head.content_type, value)?,
            "origin" => only_copy(&mut head.origin, value)?,
            "content-encoding" => head.content_is_encoded |= !value.as_bytes().eq_ignore_ascii_case(b"identity"),
            "transfer-encoding" if !value.as_bytes().eq_ignore_ascii_case(b"chunked") => {
                return Err(Refusal::malformed("The only transfer coding is `chunked`."));
            }
            "expect" if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
                return Err(Refusal::unknown_expectation());
            }
            "upgrade" => head.wants_upgrade = true,
            "access-control-request-method" => head.is_preflight = true,
            "user-agent" => head.user_agent = Some(value.clone()),
            "idempotency-key" => only_copy(&mut head.idempotency_key, value)?,
            "if-match" => append(&mut head.if_match, value),
            "if-none-match" => append(&mut head.if_none_match, value),
            "if-unmodified-since" => head.if_unmodified_since = true,
            "last-event-id" => only_copy(&mut head.last_event_id, value)?,
            "traceparent" => head.traceparent = Some(value.clone()),
            _ => {}
        }
    }
    if bytes > FIELDS_BYTES_MAX || headers.len() > FIELDS_MAX {
        return Err(Refusal::headers_too_large());
    }
    Ok(Fields { head, host })
}

/// Fields that steer routing, credentials or parsing may come once: two readers could choose differently.
fn only<'a>(place: &mut Option<&'a HeaderValue>, value: &'a HeaderValue) -> Result<(), Refusal> {
    place.replace(value).map_or(Ok(()), |_| Err(duplicate()))
}

fn only_copy(place: &mut Option<HeaderValue>, value: &HeaderValue) -> Result<(), Refusal> {
    place.replace(value.clone()).map_or(Ok(()), |_| Err(duplicate()))
}

/// Fields that are lists may come in several lines (RFC 9110 §5.3).
fn append(place: &mut Option<HeaderValue>, value: &HeaderValue) {
    let joined = match place {
        Some(before) => [before.as_bytes(), b", ", value.as_bytes()].concat(),
        None => return *place = Some(value.clone()),
    };
    *place = Some(HeaderValue::from_bytes(&joined).expect("two values and a comma are a value"));
}

fn duplicate() -> Refusal {
    Refusal::malformed("A header field that may come once comes twice.")
}

fn check_method(method: &Method) -> Result<(), Refusal> {
    match *method {
        Method::GET | Method::HEAD | Method::POST | Method::PUT | Method::PATCH | Method::DELETE | Method::OPTIONS => {
            Ok(())
        }
        Method::TRACE | Method::CONNECT => Err(Refusal { close: true, ..Refusal::method_not_allowed(ALLOW_ALL) }),
        _ => Err(Refusal::unknown_method()),
    }
}

fn check_target(uri: &Uri, version: Version, method: &Method, host: Option<&HeaderValue>) -> Result<(), Refusal> {
    if uri.path_and_query().is_some_and(|target| target.as_str().len() > TARGET_BYTES_MAX) {
        return Err(Refusal::uri_too_long());
    }
    let host = host.map(HeaderValue::as_bytes);
    let authority = uri.authority().map(|authority| authority.as_str().as_bytes());
    let host = match version {
        Version::HTTP_2 => match (authority, host) {
            (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => {
                return Err(Refusal::malformed("`:authority` and `Host` differ."));
            }
            (authority, host) => authority.or(host),
        },
        // Only a proxy is asked in absolute form (RFC 9112 §3.2.2), and this is none.
        _ if authority.is_some() || uri.scheme().is_some() => {
            return Err(Refusal::malformed("The target must be a path."));
        }
        Version::HTTP_10 if host.is_none() => return Ok(()),
        _ => host,
    };
    if !host.is_some_and(is_host) {
        return Err(Refusal::malformed("`Host` must name one host."));
    }
    if uri.path() == "*" && method != Method::OPTIONS {
        return Err(Refusal::malformed("The target must be a path."));
    }
    Ok(())
}

/// Whether `host` is a name or address with an optional port (RFC 9110 §7.2), without user information.
fn is_host(host: &[u8]) -> bool {
    let (name, port) = match host.iter().rposition(|&byte| byte == b':') {
        Some(at) if !host.ends_with(b"]") => (&host[..at], Some(&host[at + 1..])),
        _ => (host, None),
    };
    let bracketed = name.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]"));
    let name_is_sound = match bracketed {
        Some(address) => {
            !address.is_empty() && address.iter().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(byte))
        }
        None => !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(byte)),
    };
    let port_is_sound = port.is_none_or(|port| {
        let text = std::str::from_utf8(port).unwrap_or_default();
        port.iter().all(u8::is_ascii_digit) && text.parse::<u16>().is_ok()
    });
    name_is_sound && port_is_sound
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(uri: &str) -> http::request::Builder {
        Request::builder().uri(uri)
    }

    fn status(request: http::request::Builder) -> u16 {
        match read(&request.body(()).unwrap()) {
            Ok(_) => 200,
            Err(refusal) => refusal.error.status(),
        }
    }

    #[test]
    fn ordinary_head_passes_and_is_kept() {
        let request =
            get("/x").header("host", "a:8080").header("authorization", "Bearer t").header("x-user-id", "root");

        let head = read(&request.body(()).unwrap()).unwrap();

        assert_eq!(head.authorization.unwrap(), "Bearer t");
        assert!(!head.is_preflight && !head.wants_upgrade && !head.content_is_encoded);
    }

    #[test]
    fn lists_may_come_in_several_lines() {
        let request = get("/x").header("host", "a").header("if-match", "\"1\"").header("if-match", "W/\"\u{e9}\"");

        let head = read(&request.body(()).unwrap()).unwrap();

        assert_eq!(head.if_match.unwrap().as_bytes(), "\"1\", W/\"\u{e9}\"".as_bytes());
    }

    #[test]
    fn hosts() {
        for host in ["a", "a.example", "a.example.", "A.example:8080", "127.0.0.1:1", "[::1]", "[::1]:8080"] {
            assert_eq!(status(get("/x").header("host", host)), 200, "{host}");
        }
        for host in ["", "u@a", "a:x", "a:70000", "a:", "a b", "a/b", "[::1", "::1", "[]", "a,b", ":80"] {
            assert_eq!(status(get("/x").header("host", host)), 400, "{host}");
        }
        assert_eq!(status(get("/x")), 400);
        assert_eq!(status(get("/x").version(Version::HTTP_10)), 200);
        assert_eq!(status(get("/x").header("host", "a").header("host", "a")), 400);
    }

    #[test]
    fn http_2_names_its_host_once() {
        let http2 = |uri: &str| get(uri).version(Version::HTTP_2);
        assert_eq!(status(http2("http://a.example/x")), 200);
        assert_eq!(status(http2("http://a.example/x").header("host", "A.example")), 200);
        assert_eq!(status(http2("http://a.example/x").header("host", "b.example")), 400);
        assert_eq!(status(http2("http://u@a.example/x")), 400);
        assert_eq!(status(http2("/x")), 400);
    }

    #[test]
    fn targets_and_methods() {
        let with = |method: &str, uri: &str| status(get(uri).method(method).header("host", "a"));
        assert_eq!(with("GET", "http://a/x"), 400);
        assert_eq!(with("OPTIONS", "*"), 200);
        assert_eq!(with("GET", "*"), 400);
        assert_eq!(with("TRACE", "/x"), 405);
        assert_eq!(with("BREW", "/x"), 501);
        assert_eq!(with("get", "/x"), 501);
        assert_eq!(with("GET", &format!("/{}", "x".repeat(8 * 1024))), 414);
    }

    #[test]
    fn single_fields_and_sizes() {
        let with = |fields: &[(&str, &str)]| {
            let request = get("/x").header("host", "a");
            status(fields.iter().fold(request, |request, (name, value)| request.header(*name, *value)))
        };
        assert_eq!(with(&[("authorization", "Bearer a"), ("authorization", "Bearer b")]), 400);
        assert_eq!(with(&[("content-type", "a/b"), ("content-type", "a/b")]), 400);
        assert_eq!(with(&[("idempotency-key", "a"), ("idempotency-key", "b")]), 400);
        assert_eq!(with(&[("transfer-encoding", "gzip, chunked")]), 400);
        assert_eq!(with(&[("expect", "miracles")]), 417);
        assert_eq!(with(&[("x", &"y".repeat(16 * 1024))]), 431);
        assert_eq!(with(&[("x", "y"); 101]), 431);
        assert_eq!(with(&[("x", "y"); 99]), 200);
    }
}
