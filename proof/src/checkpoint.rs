//! What is signed: that the log had this hash at this sequence at this time.
//!
//! # The encoding
//!
//! The signature is Ed25519 (RFC 8032) over `field(1) ‖ … ‖ field(6)`, fields as in [`entry`](crate::entry):
//!
//! 1. `trunkline.audit.checkpoint.v1`
//! 2. `sequence`: decimal, without leading zeros
//! 3. `hash`: that of the entry with this sequence, 64 lower-case hexadecimal digits
//! 4. `time`: UTC with six digits of a second
//! 5. `keyId`: the RFC 7638 thumbprint of the public key
//! 6. the number of fields before this one: `5`
//!
//! In JSON `signature` and `publicKey` are base64url without padding.

use std::fmt;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use crate::encoding::{Hash, put};
use crate::entry::hashed_time;

const ENCODING: &str = "trunkline.audit.checkpoint.v1";

/// An Ed25519 public key. Its text is base64url without padding, as in a JWK.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// Reads base64url without padding.
    pub fn parse(text: &str) -> Option<Self> {
        URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(Self)
    }

    /// Its name: the RFC 7638 thumbprint (RFC 8037 appendix A.3), 43 characters of `[A-Za-z0-9_-]`.
    pub fn id(&self) -> String {
        let json = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{self}"}}"#);
        URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, json.as_bytes()))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A signed statement about the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Of the last entry that it covers.
    pub sequence: i64,
    /// Of that entry.
    pub hash: Hash,
    /// When it was signed, with six digits of a second.
    pub time: String,
    /// Which key signed it.
    pub key_id: String,
    /// 64 bytes.
    pub signature: Vec<u8>,
    /// The key, for whoever has none; proves nothing by itself.
    pub public_key: PublicKey,
}

/// Why a signature does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureFault {
    /// Somebody else's key.
    #[error("it is signed by a key that is not trusted")]
    NotTrusted,
    /// Its key id is another key's.
    #[error("its key id is not that of its key")]
    KeyId,
    /// Signed was something else, or nothing.
    #[error("its signature is not valid")]
    Signature,
}

impl Checkpoint {
    /// What is to be signed.
    pub fn message(sequence: i64, hash: Hash, time: &str, key_id: &str) -> Vec<u8> {
        let mut message = Vec::with_capacity(256);
        put(&mut message, ENCODING);
        put(&mut message, sequence.to_string());
        put(&mut message, hash.hex());
        put(&mut message, time);
        put(&mut message, key_id);
        put(&mut message, "5");
        message
    }

    /// Checks the signature. Without any `trusted` key the checkpoint's own counts, which shows only that whoever signed
    /// it had some key.
    pub fn verify(&self, trusted: &[PublicKey]) -> Result<(), SignatureFault> {
        if self.key_id != self.public_key.id() {
            return Err(SignatureFault::KeyId);
        }
        if !trusted.is_empty() && !trusted.contains(&self.public_key) {
            return Err(SignatureFault::NotTrusted);
        }
        let message = Self::message(self.sequence, self.hash, &self.time, &self.key_id);
        UnparsedPublicKey::new(&ED25519, self.public_key.0)
            .verify(&message, &self.signature)
            .map_err(|_| SignatureFault::Signature)
    }

    /// Reads the JSON of the API.
    pub fn from_json(json: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Json>(json).ok()?.try_into().ok()
    }
}

/// As the API shows it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Json {
    sequence: String,
    hash: Hash,
    time: String,
    key_id: String,
    signature: String,
    public_key: String,
}

impl TryFrom<Json> for Checkpoint {
    type Error = &'static str;

    fn try_from(json: Json) -> Result<Self, &'static str> {
        Ok(Self {
            sequence: json.sequence.parse().map_err(|_| "its sequence is not a number")?,
            hash: json.hash,
            time: hashed_time(&json.time).ok_or("its time is not one in UTC")?.into_owned(),
            key_id: json.key_id,
            signature: URL_SAFE_NO_PAD.decode(json.signature).map_err(|_| "its signature is not base64url")?,
            public_key: PublicKey::parse(&json.public_key).ok_or("its public key is not one")?,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;

    pub(crate) fn checkpoint(seed: u8, sequence: i64, hash: Hash) -> Checkpoint {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let public_key = PublicKey(pair.public_key().as_ref().try_into().unwrap());
        let (time, key_id) = ("2026-01-31T23:59:59.000000Z".to_owned(), public_key.id());
        let signature = pair.sign(&Checkpoint::message(sequence, hash, &time, &key_id)).as_ref().to_vec();
        Checkpoint { sequence, hash, time, key_id, signature, public_key }
    }

    pub(crate) fn json(checkpoint: &Checkpoint) -> String {
        let Checkpoint { sequence, hash, time, key_id, signature, public_key } = checkpoint;
        let signature = URL_SAFE_NO_PAD.encode(signature);
        format!(
            r#"{{"sequence":"{sequence}","hash":"{hash}","time":"{time}","keyId":"{key_id}","signature":"{signature}","publicKey":"{public_key}"}}"#
        )
    }

    #[test]
    fn thumbprint_is_that_of_rfc_8037() {
        let key = PublicKey::parse("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();

        assert_eq!(key.id(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn only_what_was_signed_by_a_trusted_key_counts() {
        let signed = checkpoint(1, 17, Hash([5; 32]));
        let other = checkpoint(2, 17, Hash([5; 32]));

        assert_eq!(signed.verify(&[signed.public_key]), Ok(()));
        assert_eq!(signed.verify(&[]), Ok(()));
        assert_eq!(signed.verify(&[other.public_key]), Err(SignatureFault::NotTrusted));
        for altered in [
            Checkpoint { sequence: 18, ..signed.clone() },
            Checkpoint { hash: Hash::ZERO, ..signed.clone() },
            Checkpoint { time: "2026-01-31T23:59:58.000000Z".to_owned(), ..signed.clone() },
            Checkpoint { signature: Vec::new(), ..signed.clone() },
        ] {
            assert_eq!(altered.verify(&[signed.public_key]), Err(SignatureFault::Signature));
        }
        let renamed = Checkpoint { key_id: other.key_id.clone(), ..signed.clone() };
        assert_eq!(renamed.verify(&[signed.public_key]), Err(SignatureFault::KeyId));
    }

    #[test]
    fn json_is_read_as_the_api_writes_it() {
        let signed = checkpoint(1, 17, Hash([5; 32]));

        assert_eq!(Checkpoint::from_json(json(&signed).as_bytes()), Some(signed.clone()));
        assert_eq!(Checkpoint::from_json(json(&signed).replace(".000000Z", "Z").as_bytes()), Some(signed));
        assert_eq!(Checkpoint::from_json(b"{}"), None);
    }
}
