//! Which web pages may call (CORS, WHATWG Fetch §3.2). Origins are compared byte for byte with a configured list; nothing
//! is reflected, nothing is matched by pattern, and no answer carries `Access-Control-Allow-Credentials`, since the
//! platform knows no cookies.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, VARY,
};
use http::{HeaderMap, HeaderValue, Uri};

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE");
const REQUEST_HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, idempotency-key, if-match, if-none-match, last-event-id, traceparent, x-request-id",
);
const RESPONSE_HEADERS: HeaderValue = HeaderValue::from_static("etag, retry-after, www-authenticate, x-request-id");
const PREFLIGHT_VARY: HeaderValue =
    HeaderValue::from_static("access-control-request-method, access-control-request-headers");

/// The origins that may call.
#[derive(Debug)]
pub(crate) struct Cors {
    allowed: Vec<HeaderValue>,
    max_age: HeaderValue,
}

impl Cors {
    /// `origins` as [`is_origin`] takes them; others never match. Browsers may keep a preflight's answer `max_age_s`.
    pub(crate) fn new(origins: &[String], max_age_s: u32) -> Self {
        let allowed = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect();
        Self { allowed, max_age: HeaderValue::from(max_age_s) }
    }

    /// Whether pages of `origin` may call.
    pub(crate) fn allows(&self, origin: &HeaderValue) -> bool {
        self.allowed.contains(origin)
    }

    /// Adds to an answer what lets pages of `origin` read it, where they may.
    pub(crate) fn apply(&self, origin: Option<&HeaderValue>, response: &mut HeaderMap) {
        if self.allowed.is_empty() {
            return;
        }
        response.append(VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = origin.filter(|origin| self.allows(origin)) {
            response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            response.insert(ACCESS_CONTROL_EXPOSE_HEADERS, RESPONSE_HEADERS);
        }
    }

    /// Adds to the answer of an allowed preflight what such a page may send.
    pub(crate) fn apply_preflight(&self, response: &mut HeaderMap) {
        response.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        response.insert(ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS);
        response.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        response.insert(VARY, PREFLIGHT_VARY);
    }
}

/// Whether `text` is an origin as a browser sends it (RFC 6454 §6.2): scheme, host in lower case and port where it is
/// not the scheme's own; no path, no pattern, not `null`.
pub(crate) fn is_origin(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else { return false };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return false };
    let default_port = matches!((scheme, authority.port_u16()), ("http", Some(80)) | ("https", Some(443)));
    text == format!("{scheme}://{authority}")
        && matches!(scheme, "http" | "https")
        && !default_port
        && !authority.host().is_empty()
        && !text.contains(|character: char| character.is_ascii_uppercase() || matches!(character, '*' | '@'))
}

#[cfg(test)]
mod tests {
    use http::header::{ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, VARY};
    use http::{HeaderMap, HeaderValue};

    use super::{Cors, is_origin};

    #[test]
    fn origins_are_what_browsers_send() {
        for good in ["https://a.example", "http://localhost:5173", "https://a.example:8443", "http://[::1]:3000"] {
            assert!(is_origin(good), "{good}");
        }
        for bad in [
            "",
            "*",
            "null",
            "a.example",
            "https://",
            "https://a.example/",
            "https://a.example/x",
            "https://*.example",
            "https://A.example",
            "https://u@a.example",
            "https://a.example:443",
            "http://a.example:80",
            "ftp://a.example",
        ] {
            assert!(!is_origin(bad), "{bad}");
        }
    }

    #[test]
    fn only_listed_origins_are_named_and_every_answer_varies() {
        let cors = Cors::new(&["https://a.example".to_owned()], 600);
        let named = |origin: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            cors.apply(origin.map(HeaderValue::from_static).as_ref(), &mut headers);
            assert_eq!(headers[VARY], "origin");
            assert!(!headers.contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS));
            headers.remove(ACCESS_CONTROL_ALLOW_ORIGIN)
        };

        assert_eq!(named(Some("https://a.example")).unwrap(), "https://a.example");
        for foreign in [
            "null",
            "https://evil.example",
            "https://a.example.evil",
            "https://xa.example",
            "http://a.example",
            "https://a.example:8443",
            "https://A.example",
            "https://a.example/",
        ] {
            assert_eq!(named(Some(foreign)), None, "{foreign}");
        }
        assert_eq!(named(None), None);
    }
}
