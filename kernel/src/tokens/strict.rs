//! The form of a token, before anything in it is believed: three segments of canonical base64url, a header with exactly
//! the members it must have, and no member twice anywhere at the top (RFC 8725 §3.8 f.; RFC 9068 §2.1).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::TOKEN_BYTES_MAX;

/// Longest key id (S20).
const KEY_ID_MAX: usize = 64;

/// A token taken apart. Nothing in it is verified.
pub(super) struct Token<'a> {
    /// Header and payload as they are signed.
    pub(super) signed: &'a [u8],
    pub(super) payload: &'a str,
    pub(super) signature: &'a str,
    pub(super) key_id: String,
}

impl<'a> Token<'a> {
    /// `None` where the form is not the one form.
    pub(super) fn parse(token: &'a str) -> Option<Self> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        if payload.contains('.') || payload.is_empty() || signature.is_empty() {
            return None;
        }
        // The signature's own decoding must be as strict, or one token would have several spellings.
        decode(signature)?;
        let header = object(&decode(header)?)?;
        let [alg, typ, kid] = ["alg", "typ", "kid"].map(|name| header.get(name).and_then(Value::as_str));
        let key_id = kid.filter(|kid| is_key_id(kid))?.to_owned();
        let is_ours = header.len() == 3 && alg == Some("EdDSA") && typ == Some("at+jwt");
        is_ours.then_some(Self { signed: signed.as_bytes(), payload, signature, key_id })
    }
}

/// The bytes of a segment. Padding, foreign characters and loose trailing bits are refused.
pub(super) fn decode(segment: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(segment).ok()
}

/// A JSON object without duplicate members.
pub(super) fn object(bytes: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice(bytes).ok().map(|Object(members)| members)
}

pub(super) fn is_key_id(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=KEY_ID_MAX).contains(&text.len()) && text.bytes().all(fits)
}

struct Object(Map<String, Value>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members).map(Self)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut members = Map::new();
        while let Some((name, value)) = access.next_entry::<String, Value>()? {
            if members.insert(name, value).is_some() {
                return Err(A::Error::custom("a member stands twice"));
            }
        }
        Ok(members)
    }
}
