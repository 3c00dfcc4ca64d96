//! The key that lies outside of the database: what signs checkpoints, and what makes cursors that nobody else can make.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use aws_lc_rs::{hkdf, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use proof::{Checkpoint, PublicKey};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::Chain;
use super::entry::hashed_time;

/// Bytes of the key in the file and of every key derived from it.
const KEY_BYTES: usize = 32;

/// Separates our derivations from anybody else's with the same key (RFC 5869 §3.1).
const SALT: &[u8] = b"trunkline audit v1";

/// Bytes of a cursor's authenticator.
const TAG_BYTES: usize = 16;

/// Characters of a cursor at most.
const CURSOR_MAX: usize = 1_024;

/// Signs checkpoints and seals cursors.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public_key: PublicKey,
    key_id: String,
    cursors: hmac::Key,
}

/// Why a file is no key. Says nothing of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a key file holds 64 hexadecimal digits, not all alike, and nothing else; make one with `openssl rand -hex 32`"
)]
pub struct NotAKey;

impl SigningKey {
    /// Reads 64 hexadecimal digits; white space around them is ignored.
    pub fn parse(text: &SecretString) -> Result<Self, NotAKey> {
        let digits = text.expose_secret().trim().as_bytes();
        if digits.len() != 2 * KEY_BYTES {
            return Err(NotAKey);
        }
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
            let (Some(high), Some(low)) = (value(pair[0]), value(pair[1])) else { return Err(NotAKey) };
            *byte = high << 4 | low;
        }
        if key.iter().all(|byte| *byte == key[0]) {
            return Err(NotAKey);
        }
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(key.as_slice());
        let pair = Ed25519KeyPair::from_seed_unchecked(derive(&secret, b"checkpoints").as_slice())
            .expect("any 32 bytes are an Ed25519 seed");
        let public_key = PublicKey(pair.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes"));
        let cursors = hmac::Key::new(hmac::HMAC_SHA256, derive(&secret, b"cursors").as_slice());
        Ok(Self { pair, public_key, key_id: public_key.id(), cursors })
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// Signs that the log has this head at this time.
    pub fn sign(&self, head: Chain, now: DateTime<Utc>) -> Checkpoint {
        let (time, key_id) = (hashed_time(now), self.key_id.clone());
        let signature =
            self.pair.sign(&Checkpoint::message(head.sequence, head.hash, &time, &key_id)).as_ref().to_vec();
        let Chain { sequence, hash } = head;
        Checkpoint { sequence, hash, time, key_id, signature, public_key: self.public_key }
    }

    /// A cursor of a list for whoever may read it: opaque, and nobody else can make one.
    pub fn seal<T: Serialize>(&self, list: &str, cursor: &T) -> String {
        let content = serde_json::to_vec(cursor).expect("a cursor is plain values");
        let tag = hmac::sign(&self.cursors, &[list.as_bytes(), &[0], &content].concat());
        URL_SAFE_NO_PAD.encode([&tag.as_ref()[..TAG_BYTES], &content].concat())
    }

    /// Opens a cursor of the same list.
    pub fn open<T: DeserializeOwned>(&self, list: &str, cursor: &str) -> Option<T> {
        let bytes = (cursor.len() <= CURSOR_MAX).then(|| URL_SAFE_NO_PAD.decode(cursor).ok())??;
        let (tag, content) = bytes.split_at_checked(TAG_BYTES)?;
        let expected = hmac::sign(&self.cursors, &[list.as_bytes(), &[0], content].concat());
        aws_lc_rs::constant_time::verify_slices_are_equal(tag, &expected.as_ref()[..TAG_BYTES]).ok()?;
        serde_json::from_slice(content).ok()
    }
}

fn derive(secret: &hkdf::Prk, purpose: &[u8]) -> Zeroizing<[u8; KEY_BYTES]> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    secret
        .expand(&[purpose], hkdf::HKDF_SHA256)
        .and_then(|material| material.fill(key.as_mut_slice()))
        .expect("HKDF-SHA256 gives 32 bytes");
    key
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proof::Hash;

    use super::*;

    fn key(digits: &str) -> Result<SigningKey, NotAKey> {
        SigningKey::parse(&SecretString::from(digits.to_owned()))
    }

    #[test]
    fn key_is_64_digits_and_no_placeholder() {
        assert_eq!(key(&"0".repeat(64)).unwrap_err(), NotAKey);
        assert_eq!(key("abc").unwrap_err(), NotAKey);
        assert_eq!(key(&"xy".repeat(32)).unwrap_err(), NotAKey);
        assert!(key(&format!("{}\n", "ab01".repeat(16))).is_ok());
    }

    #[test]
    fn what_it_signs_counts_under_its_public_key() {
        let key = key(&"ab01".repeat(16)).unwrap();
        let now = DateTime::from_timestamp(1_700_000_000, 0).unwrap();

        let checkpoint = key.sign(Chain { sequence: 17, hash: Hash::ZERO }, now);

        assert_eq!(checkpoint.verify(&[key.public_key()]), Ok(()));
        assert!(!format!("{key:?}").contains("ab01"));
    }

    #[test]
    fn cursor_opens_for_its_own_list_only() {
        let (key, other) = (key(&"ab01".repeat(16)).unwrap(), key(&"ab02".repeat(16)).unwrap());

        let cursor = key.seal("export", &(1, 2));

        assert_eq!(key.open::<(i64, i64)>("export", &cursor), Some((1, 2)));
        assert_eq!(key.open::<(i64, i64)>("verify", &cursor), None);
        assert_eq!(other.open::<(i64, i64)>("export", &cursor), None);
        assert_eq!(key.open::<(i64, i64)>("export", &cursor[1..]), None);
        assert_eq!(key.open::<(i64, i64)>("export", ""), None);
    }
}
