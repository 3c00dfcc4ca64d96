//! Ed25519 keys: how one is made, sealed for keeping, named, and put to use.

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

const NONCE_BYTES: usize = 12;
const SEED_BYTES: usize = 32;
const TAG_BYTES: usize = 16;

/// A key's name: its RFC 7638 thumbprint, so that two keys never share one. 43 characters of `[A-Za-z0-9_-]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyId(String);

impl KeyId {
    /// The name of a public key, after RFC 8037 appendix A.3.
    pub fn of(public_key: &[u8; 32]) -> Self {
        let x = URL_SAFE_NO_PAD.encode(public_key);
        let json = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
        Self(URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, json.as_bytes())))
    }

    /// The name as it was kept.
    pub fn from_storage(id: String) -> Self {
        Self(id)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The key under which private keys are kept.
pub struct SealingKey(RandomizedNonceKey);

impl SealingKey {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        Self(RandomizedNonceKey::new(&AES_256_GCM, key).expect("AES-256 takes 32 bytes"))
    }
}

/// A key pair as kept: nonce, encrypted seed, tag.
#[derive(Clone)]
pub struct SealedKey {
    /// Bound to the ciphertext: a seed that is moved to another row does not open.
    pub id: KeyId,
    /// See the type.
    pub sealed_seed: Vec<u8>,
}

/// The seed was not sealed under this key, or has been altered, or belongs to another id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key file is not the one that sealed this signing key, or the row was altered")]
pub struct UnsealError;

/// A key that signs.
pub struct SigningKey {
    id: KeyId,
    pair: Ed25519KeyPair,
}

impl SigningKey {
    /// A key from 32 random bytes, and its sealed form.
    pub fn make(seed: &Zeroizing<[u8; SEED_BYTES]>, sealing: &SealingKey) -> (Self, SealedKey) {
        let key = Self::from_seed(seed.as_slice()).expect("any 32 bytes are an Ed25519 seed");
        let mut sealed_seed = Zeroizing::new(seed.to_vec());
        let nonce = sealing
            .0
            .seal_in_place_append_tag(Aad::from(key.id.as_str()), &mut *sealed_seed)
            .expect("AES-256-GCM seals 32 bytes");
        let sealed_seed = [nonce.as_ref().as_slice(), &sealed_seed].concat();
        let sealed = SealedKey { id: key.id.clone(), sealed_seed };
        (key, sealed)
    }

    /// Opens a kept key.
    pub fn unseal(sealed: &SealedKey, sealing: &SealingKey) -> Result<Self, UnsealError> {
        let (nonce, ciphertext) = sealed.sealed_seed.split_at_checked(NONCE_BYTES).ok_or(UnsealError)?;
        if ciphertext.len() != SEED_BYTES + TAG_BYTES {
            return Err(UnsealError);
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| UnsealError)?;
        let mut seed = Zeroizing::new(ciphertext.to_vec());
        let seed = sealing.0.open_in_place(nonce, Aad::from(sealed.id.as_str()), &mut seed).map_err(|_| UnsealError)?;
        Self::from_seed(seed).filter(|key| key.id == sealed.id).ok_or(UnsealError)
    }

    fn from_seed(seed: &[u8]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).ok()?;
        let public_key = pair.public_key().as_ref().try_into().ok()?;
        Some(Self { id: KeyId::of(&public_key), pair })
    }

    /// The name.
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// The public half.
    pub fn public_key(&self) -> [u8; 32] {
        self.pair.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes")
    }

    /// Signs `message` (RFC 8032 §5.1.6).
    pub fn sign(&self, message: &[u8]) -> impl AsRef<[u8]> + use<> {
        self.pair.sign(message)
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealing(byte: u8) -> SealingKey {
        SealingKey::new(&[byte; 32])
    }

    #[test]
    fn thumbprint_is_that_of_rfc_8037() {
        let public_key = URL_SAFE_NO_PAD.decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();

        let id = KeyId::of(&public_key.try_into().unwrap());

        assert_eq!(id.as_str(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn sealed_key_opens_under_its_own_key_and_id_only() {
        let (key, sealed) = SigningKey::make(&Zeroizing::new([3; 32]), &sealing(1));
        let (_, other) = SigningKey::make(&Zeroizing::new([4; 32]), &sealing(1));
        let moved = SealedKey { id: other.id.clone(), sealed_seed: sealed.sealed_seed.clone() };
        let mut altered = sealed.clone();
        altered.sealed_seed[20] ^= 1;
        let short = SealedKey { id: sealed.id.clone(), sealed_seed: vec![0; 11] };

        assert_eq!(SigningKey::unseal(&sealed, &sealing(1)).unwrap().public_key(), key.public_key());
        assert_eq!(SigningKey::unseal(&sealed, &sealing(2)).unwrap_err(), UnsealError);
        for wrong in [moved, altered, short] {
            assert_eq!(SigningKey::unseal(&wrong, &sealing(1)).unwrap_err(), UnsealError);
        }
    }

    #[test]
    fn seed_is_not_in_what_is_kept() {
        let (_, sealed) = SigningKey::make(&Zeroizing::new([3; 32]), &sealing(1));

        assert_eq!(sealed.sealed_seed.len(), NONCE_BYTES + SEED_BYTES + TAG_BYTES);
        assert!(!sealed.sealed_seed.windows(4).any(|window| window == [3; 4]));
    }
}
