//! What stands beside a request's body: in one header between our own processes, in plain ones from people and other
//! languages. Never both, and never one of them twice, since then two readers could take it differently.

use async_nats::{HeaderMap, Message};
use subjects::wire::v1::{Binding, CallContext, call_context::Codec as WireCodec};

use crate::if_match::IfMatch;
use crate::nats::headers;
use crate::wire::HEADERS_BYTES_MAX;
use crate::{Client, Error, Result, TraceContext, wire};

/// Longest idempotency key, in bytes.
const IDEMPOTENCY_KEY_MAX: usize = 255;

/// Longest request id, in bytes.
const REQUEST_ID_MAX: usize = 64;

/// How body and reply are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    Json,
    Protobuf,
}

/// An access token as it was presented.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Presented {
    Nothing,
    /// Something that is no bearer token.
    Garbage,
    Token(String),
}

/// What stands beside the body.
pub(super) struct Envelope {
    pub(super) codec: Codec,
    /// Whether the caller named the codec itself and so is told that of the reply.
    pub(super) names_codec: bool,
    pub(super) presented: Presented,
    /// What is left of the caller's deadline; `None` where it names none.
    pub(super) timeout_ms: Option<u32>,
    pub(super) trace: Option<TraceContext>,
    /// Empty where the caller names none that can be taken.
    pub(super) request_id: String,
    pub(super) client: Client,
    pub(super) bindings: Vec<Binding>,
    pub(super) idempotency_key: String,
    pub(super) if_match: Option<IfMatch>,
}

impl Default for Envelope {
    fn default() -> Self {
        Self {
            codec: Codec::Json,
            names_codec: false,
            presented: Presented::Nothing,
            timeout_ms: None,
            trace: None,
            request_id: String::new(),
            client: Client::default(),
            bindings: Vec::new(),
            idempotency_key: String::new(),
            if_match: None,
        }
    }
}

impl Envelope {
    /// Reads the headers of a message: 400 for what is ambiguous or broken, 415 for a foreign type, 431 for too much.
    /// What the error's reply needs (`codec` aside) is not known then.
    pub(super) fn read(message: &Message) -> Result<Self> {
        let Some(map) = message.headers.as_ref().filter(|map| !map.is_empty()) else { return Ok(Self::default()) };
        let reply = message.reply.as_ref().map_or(0, |reply| reply.len());
        let headers_bytes = message.length.saturating_sub(message.payload.len() + message.subject.len() + reply);
        if headers_bytes > HEADERS_BYTES_MAX {
            return Err(Error::new(431, "headers_too_large", "The headers are larger than 16 KiB."));
        }
        let plain = Plain::read(map)?;
        match plain.context {
            None => plain.into_envelope(),
            Some(_) if !plain.is_empty() => {
                let detail = "Trunkline-Context and the headers that it stands for must not be given together.";
                Err(Error::malformed("conflicting_headers", detail))
            }
            Some(value) => {
                let context = wire::parse(value)
                    .ok_or_else(|| Error::malformed("invalid_header", "Trunkline-Context is broken."))?;
                Self::from_context(context)
            }
        }
    }

    fn from_context(context: CallContext) -> Result<Self> {
        let codec = match WireCodec::try_from(context.codec) {
            Ok(WireCodec::Json) => Codec::Json,
            Ok(WireCodec::Protobuf) => Codec::Protobuf,
            Err(_) => return Err(unsupported_type()),
        };
        let token = context.access_token;
        Ok(Self {
            codec,
            names_codec: false,
            presented: if token.is_empty() { Presented::Nothing } else { Presented::Token(token) },
            timeout_ms: (context.timeout_ms > 0).then_some(context.timeout_ms),
            trace: TraceContext::from_parts(&context.trace_id, &context.span_id, context.sampled),
            request_id: if is_request_id(&context.request_id) { context.request_id } else { String::new() },
            client: Client { address: context.client_address, user_agent: context.user_agent },
            bindings: context.bindings,
            idempotency_key: idempotency_key(context.idempotency_key)?,
            if_match: context.if_match.as_deref().map(IfMatch::parse).transpose()?,
        })
    }
}

/// The headers that count, each at most once: those that people write, or the one that stands for them.
#[derive(Default)]
struct Plain<'a> {
    context: Option<&'a str>,
    authorization: Option<&'a str>,
    content_type: Option<&'a str>,
    idempotency_key: Option<&'a str>,
    if_match: Option<&'a str>,
    request_id: Option<&'a str>,
    timeout_ms: Option<&'a str>,
    traceparent: Option<&'a str>,
}

impl<'a> Plain<'a> {
    /// Names are compared without regard to case, as people write them.
    fn read(map: &'a HeaderMap) -> Result<Self> {
        let mut plain = Self::default();
        for (name, values) in map.iter() {
            let name: &str = name.as_ref();
            let is = |known: &async_nats::HeaderName| name.eq_ignore_ascii_case(known.as_ref());
            let place = if is(&headers::CONTEXT) {
                if name != <_ as AsRef<str>>::as_ref(&headers::CONTEXT) {
                    return Err(Error::malformed("invalid_header", "Trunkline-Context is written in another way."));
                }
                &mut plain.context
            } else if is(&headers::AUTHORIZATION) {
                &mut plain.authorization
            } else if is(&headers::CONTENT_TYPE) {
                &mut plain.content_type
            } else if is(&headers::IDEMPOTENCY_KEY) {
                &mut plain.idempotency_key
            } else if is(&headers::IF_MATCH) {
                &mut plain.if_match
            } else if is(&headers::REQUEST_ID) {
                &mut plain.request_id
            } else if is(&headers::REQUEST_TIMEOUT_MS) {
                &mut plain.timeout_ms
            } else if is(&headers::TRACEPARENT) {
                &mut plain.traceparent
            } else {
                continue;
            };
            let [value] = values.as_slice() else { return Err(duplicate()) };
            if place.replace(value.as_str()).is_some() {
                return Err(duplicate());
            }
        }
        Ok(plain)
    }

    /// Whether none of those that people write is there.
    fn is_empty(&self) -> bool {
        let all = [
            self.authorization,
            self.content_type,
            self.idempotency_key,
            self.if_match,
            self.request_id,
            self.timeout_ms,
            self.traceparent,
        ];
        all.iter().all(Option::is_none)
    }

    fn into_envelope(self) -> Result<Envelope> {
        let codec = match self.content_type {
            None => Codec::Json,
            Some(kind) if is_json(kind) => Codec::Json,
            Some(kind) if kind.eq_ignore_ascii_case("application/protobuf") => Codec::Protobuf,
            Some(_) => return Err(unsupported_type()),
        };
        let timeout_ms = self.timeout_ms.map(str::parse).transpose();
        Ok(Envelope {
            codec,
            names_codec: self.content_type.is_some(),
            presented: self.authorization.map_or(Presented::Nothing, bearer),
            timeout_ms: timeout_ms.map_err(|_| {
                Error::malformed("invalid_header", "Request-Timeout-Ms is not a whole number of milliseconds.")
            })?,
            trace: self.traceparent.and_then(TraceContext::parse),
            request_id: self.request_id.filter(|id| is_request_id(id)).unwrap_or_default().to_owned(),
            idempotency_key: idempotency_key(self.idempotency_key.unwrap_or_default().to_owned())?,
            if_match: self.if_match.map(IfMatch::parse).transpose()?,
            ..Envelope::default()
        })
    }
}

/// RFC 6750 §2.1; the scheme's case does not matter (RFC 9110 §11.1).
fn bearer(value: &str) -> Presented {
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() => {
            Presented::Token(token.trim_start_matches(' ').to_owned())
        }
        _ => Presented::Garbage,
    }
}

/// `application/json`, alone or with the one charset that JSON has (RFC 8259 §8.1).
fn is_json(kind: &str) -> bool {
    let (essence, parameter) = kind.split_once(';').unwrap_or((kind, ""));
    let parameter = parameter.trim();
    essence.trim_end().eq_ignore_ascii_case("application/json")
        && (parameter.is_empty() || parameter.eq_ignore_ascii_case("charset=utf-8"))
}

/// Ids go into logs, spans and records.
fn is_request_id(id: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=REQUEST_ID_MAX).contains(&id.len()) && id.bytes().all(fits)
}

fn idempotency_key(key: String) -> Result<String> {
    if key.len() <= IDEMPOTENCY_KEY_MAX && key.bytes().all(|byte| (b'!'..=b'~').contains(&byte)) {
        Ok(key)
    } else {
        Err(Error::malformed("invalid_idempotency_key", "Idempotency-Key is at most 255 printable ASCII characters."))
    }
}

fn duplicate() -> Error {
    Error::malformed("duplicate_header", "A header that may stand once stands twice.")
}

fn unsupported_type() -> Error {
    Error::new(415, "unsupported_media_type", "The body is neither application/json nor application/protobuf.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Envelope> {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, *value);
        }
        let length = pairs.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>() + 10;
        Envelope::read(&Message {
            subject: "".into(),
            reply: None,
            payload: bytes::Bytes::new(),
            headers: Some(map),
            status: None,
            description: None,
            length,
        })
    }

    fn refused(pairs: &[(&str, &str)]) -> (u16, String) {
        let error = read(pairs).err().unwrap();
        (error.status(), error.code().to_owned())
    }

    fn context() -> String {
        let mut context = CallContext { access_token: "a.b.c".to_owned(), ..CallContext::default() };
        wire::to_headers(&mut context).get(headers::CONTEXT.clone()).unwrap().as_str().to_owned()
    }

    #[test]
    fn plain_headers_are_read_whatever_their_case() {
        let envelope = read(&[
            ("authorization", "bearer a.b.c"),
            ("Request-Timeout-Ms", "250"),
            ("request-id", "r-1"),
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            ("Content-Type", "application/json; charset=UTF-8"),
            ("Idempotency-Key", "k"),
            ("if-match", "*"),
            ("Nats-Msg-Id", "passed over"),
        ])
        .unwrap();

        assert!(envelope.presented == Presented::Token("a.b.c".to_owned()));
        assert_eq!(
            (envelope.timeout_ms, envelope.request_id.as_str(), envelope.codec),
            (Some(250), "r-1", Codec::Json)
        );
        assert!(envelope.trace.is_some() && envelope.names_codec);
        assert_eq!((envelope.idempotency_key.as_str(), envelope.if_match), ("k", Some(IfMatch::Any)));
    }

    #[test]
    fn ambiguity_is_refused() {
        let context = context();
        let twice = |name| refused(&[(name, "x"), (name, "y")]);

        for name in [
            "Authorization",
            "Request-Id",
            "traceparent",
            "Request-Timeout-Ms",
            "Content-Type",
            "Idempotency-Key",
            "If-Match",
        ] {
            assert_eq!(twice(name), (400, "duplicate_header".to_owned()), "{name}");
        }
        assert_eq!(refused(&[("Authorization", "Bearer x"), ("authorization", "Bearer x")]).1, "duplicate_header");
        assert_eq!(refused(&[("Trunkline-Context", &context), ("Trunkline-Context", &context)]).1, "duplicate_header");
        assert_eq!(refused(&[("Trunkline-Context", &context), ("Authorization", "Bearer x")]).1, "conflicting_headers");
        assert_eq!(refused(&[("trunkline-context", &context)]).1, "invalid_header");
        assert_eq!(refused(&[("Trunkline-Context", "!")]).1, "invalid_header");
        assert!(read(&[("Trunkline-Context", &context), ("X-Other", "y")]).is_ok());
    }

    #[test]
    fn foreign_types_sizes_and_numbers_are_refused() {
        for kind in
            ["text/plain", "application/json, text/plain", "application/json;charset=latin1", "application/xml", ""]
        {
            assert_eq!(refused(&[("Content-Type", kind)]).0, 415, "{kind}");
        }
        for timeout in ["", "-1", "1.5", "1e3", "4294967296", " 1"] {
            assert_eq!(refused(&[("Request-Timeout-Ms", timeout)]).0, 400, "{timeout}");
        }
        assert_eq!(refused(&[("X", &"x".repeat(HEADERS_BYTES_MAX))]).0, 431);
        assert_eq!(refused(&[("Idempotency-Key", &"k".repeat(256))]).0, 400);
        assert_eq!(refused(&[("If-Match", "")]), (400, "invalid_if_match".to_owned()), "not taken for none");
    }

    #[test]
    fn odd_tokens_and_ids_are_noticed_and_not_taken() {
        for value in ["Bearer", "Bearer ", "Basic abc", "Bearer\tabc", "abc", ""] {
            assert!(read(&[("Authorization", value)]).unwrap().presented == Presented::Garbage, "{value:?}");
        }
        for id in ["", "a b", "a\u{1b}[31m", &"a".repeat(65)] {
            assert_eq!(read(&[("Request-Id", id)]).unwrap().request_id, "", "{id:?}");
        }
        assert!(read(&[("traceparent", "garbage")]).unwrap().trace.is_none());
    }
}
