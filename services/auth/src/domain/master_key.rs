//! The key that lies outside the database, and the keys that are derived from it, one for each purpose.

use aws_lc_rs::hkdf;
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::{SealingKey, SuccessorKey};

/// Bytes of the master key and of every key derived from it.
const KEY_BYTES: usize = 32;

/// Separates our derivations from anybody else's with the same key (RFC 5869 §3.1).
const SALT: &[u8] = b"trunkline auth v1";

/// 32 random bytes from a file. Whoever has it and the database can sign tokens.
pub struct MasterKey(hkdf::Prk);

/// Why a file is no master key. Says nothing of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MasterKeyError {
    /// Too short, too long, or something else than hexadecimal digits.
    #[error("a key file holds 64 hexadecimal digits and nothing else; make one with `openssl rand -hex 32`")]
    NotHexadecimal,
    /// A key of 32 equal bytes is a placeholder.
    #[error("the key is a placeholder; make one with `openssl rand -hex 32`")]
    Placeholder,
}

impl MasterKey {
    /// Reads 64 hexadecimal digits; white space around them is ignored.
    pub fn parse(text: &SecretString) -> Result<Self, MasterKeyError> {
        let digits = text.expose_secret().trim().as_bytes();
        if digits.len() != 2 * KEY_BYTES {
            return Err(MasterKeyError::NotHexadecimal);
        }
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
            let (Some(high), Some(low)) = (value(pair[0]), value(pair[1])) else {
                return Err(MasterKeyError::NotHexadecimal);
            };
            *byte = high << 4 | low;
        }
        if key.iter().all(|byte| *byte == key[0]) {
            return Err(MasterKeyError::Placeholder);
        }
        Ok(Self(hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(key.as_slice())))
    }

    /// The key under which private signing keys are kept.
    pub fn sealing_key(&self) -> SealingKey {
        SealingKey::new(&self.derive(b"signing keys"))
    }

    /// The key from which a refresh token's successor follows.
    pub fn successor_key(&self) -> SuccessorKey {
        SuccessorKey::new(&self.derive(b"refresh token successors"))
    }

    fn derive(&self, purpose: &[u8]) -> Zeroizing<[u8; KEY_BYTES]> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        self.0
            .expand(&[purpose], hkdf::HKDF_SHA256)
            .and_then(|material| material.fill(key.as_mut_slice()))
            .expect("HKDF-SHA256 gives 32 bytes");
        key
    }
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_purpose_has_its_own_key() {
        let key =
            MasterKey::parse(&"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1E1F\n".into()).unwrap();

        assert_ne!(key.derive(b"signing keys"), key.derive(b"refresh token successors"));
        assert_eq!(key.derive(b"signing keys"), key.derive(b"signing keys"));
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_repeated() {
        let short = "00".repeat(31);
        for wrong in ["", "secret", short.as_str(), &"0g".repeat(32), &"é".repeat(32), &"00".repeat(33)] {
            let error = MasterKey::parse(&wrong.into()).unwrap_err();
            assert_eq!(error, MasterKeyError::NotHexadecimal, "{wrong}");
        }
        assert_eq!(MasterKey::parse(&"00".repeat(32).into()).unwrap_err(), MasterKeyError::Placeholder);
    }
}
