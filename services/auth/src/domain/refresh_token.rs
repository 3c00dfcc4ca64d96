//! Refresh tokens: 256 random bits, of which only the hash is kept, and whose successor follows from them.
//!
//! The successor is an HMAC of the token it replaces. So a client that did not hear the answer can ask again and get the
//! same token, and nobody has to keep a token for that. Whoever has the database has hashes only; whoever has a token
//! cannot compute the next one without the key.

use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::SecretString;
use zeroize::Zeroizing;

/// Bytes of a token (RFC 9700 wants at least 128 bits).
const TOKEN_BYTES: usize = 32;

/// Tells people and leak scanners what they are looking at.
const PREFIX: &str = "tlr_";

/// A refresh token.
pub struct RefreshToken(Zeroizing<[u8; TOKEN_BYTES]>);

/// The SHA-256 of a token: what is kept, and how it is found. No password hash, since there are 256 bits to guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenHash(pub [u8; digest::SHA256_OUTPUT_LEN]);

/// The key from which a token's successor follows.
pub struct SuccessorKey(hmac::Key);

impl SuccessorKey {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }
}

impl RefreshToken {
    /// The first token of a session, from 32 random bytes.
    pub fn new(random: [u8; TOKEN_BYTES]) -> Self {
        Self(Zeroizing::new(random))
    }

    /// Reads a token as a client presents it; `None` for what was never one.
    pub fn parse(given: &str) -> Option<Self> {
        let mut bytes = Zeroizing::new([0; TOKEN_BYTES]);
        let encoded = given.strip_prefix(PREFIX).filter(|encoded| encoded.len() == 43)?;
        let length = URL_SAFE_NO_PAD.decode_slice(encoded, bytes.as_mut_slice()).ok()?;
        (length == TOKEN_BYTES).then_some(Self(bytes))
    }

    /// What is kept of it.
    pub fn hash(&self) -> TokenHash {
        let digest = digest::digest(&digest::SHA256, self.0.as_slice());
        TokenHash(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// The token that replaces this one: always the same.
    pub fn successor(&self, key: &SuccessorKey) -> Self {
        let tag = hmac::sign(&key.0, self.0.as_slice());
        Self(Zeroizing::new(tag.as_ref().try_into().expect("HMAC-SHA-256 has 32 bytes")))
    }

    /// As it is given to the client.
    pub fn reveal(&self) -> SecretString {
        let mut text = String::with_capacity(PREFIX.len() + 43);
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(self.0.as_slice(), &mut text);
        text.into()
    }
}

impl std::fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RefreshToken")
    }
}

impl std::fmt::Debug for SuccessorKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SuccessorKey")
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn successor_is_always_the_same_and_never_the_token() {
        let key = SuccessorKey::new(&[1; 32]);
        let token = RefreshToken::new([7; 32]);

        let successor = token.successor(&key);

        assert_eq!(successor.hash(), RefreshToken::new([7; 32]).successor(&key).hash());
        assert_ne!(successor.hash(), token.hash());
        assert_ne!(successor.hash(), successor.successor(&key).hash());
        assert_ne!(successor.hash(), token.successor(&SuccessorKey::new(&[2; 32])).hash());
    }

    #[test]
    fn token_is_read_back_as_it_was_given() {
        let token = RefreshToken::new(std::array::from_fn(|at| u8::try_from(at).unwrap()));

        let text = token.reveal();

        assert_eq!(text.expose_secret(), "tlr_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8");
        assert_eq!(RefreshToken::parse(text.expose_secret()).unwrap().hash(), token.hash());
    }

    #[test]
    fn what_was_never_a_token_is_none() {
        let long = "tlr_".to_owned() + &"A".repeat(100_000);
        for given in [
            "",
            "tlr_",
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
            "tlk_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
            "tlr_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9", // Bits left over.
            "tlr_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            "tlr_+/ECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
            long.as_str(),
        ] {
            assert!(RefreshToken::parse(given).is_none(), "{given:.60}");
        }
    }
}
