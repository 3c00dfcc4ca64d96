//! Access tokens: what of them counts, checked in every process that is shown one, and remembered for as long as it
//! holds. Issues nothing.
//!
//! Only Ed25519 signatures by a key that auth publishes count. What a header may hold is fixed, so that it can choose
//! neither algorithm nor key source (RFC 8725 §3.1, §3.10).

mod claims;
mod keys;
mod strict;

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use jsonwebtoken::Algorithm;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use quick_cache::sync::Cache;

pub use claims::Claims;
pub(crate) use keys::CallerKeys;
pub use keys::{KeySource, PublicKey};

use self::claims::Expectation;
use self::keys::Keys;
use crate::metrics::{ByKind, Name};
use crate::settings::Tokens as Settings;
use crate::{Clock, Error, Lifecycle, Metrics, Result};

/// Longest token that is looked at, in bytes.
pub const TOKEN_BYTES_MAX: usize = 8 * 1_024;

/// Verifies access tokens. Cheap to clone; clones share keys and cache.
#[derive(Clone)]
pub struct TokenVerifier(Arc<Inner>);

struct Inner {
    expectation: Expectation,
    keys: Keys,
    cache: Cache<[u8; digest::SHA256_OUTPUT_LEN], Remembered>,
    clock: Clock,
    outcomes: Outcomes,
}

#[derive(Clone)]
struct Remembered {
    claims: Arc<Claims>,
    /// The key that verified it; when that is withdrawn the token ends with it.
    key: Arc<PublicKey>,
}

struct Outcomes {
    remembered: Counter,
    verified: Counter,
    refused: Counter,
}

impl TokenVerifier {
    /// Verifies against the keys of `source`, which is asked when a key is needed and then now and again.
    pub fn new(settings: &Settings, source: Arc<dyn KeySource>, clock: Clock, metrics: &Metrics) -> Self {
        let outcomes: Family<ByKind, Counter> = metrics.counters(Name::Tokens);
        let outcome = |kind| outcomes.get_or_create_owned(&ByKind { kind });
        let outcomes =
            Outcomes { remembered: outcome("remembered"), verified: outcome("verified"), refused: outcome("refused") };
        Self(Arc::new(Inner {
            expectation: Expectation { issuer: settings.issuer.clone(), audience: settings.audience.clone() },
            keys: Keys::new(
                source,
                Duration::from_millis(settings.keys_refresh_ms.into()),
                metrics.counters(Name::KeyFetches),
            ),
            cache: Cache::new(settings.cache_max as usize),
            clock,
            outcomes,
        }))
    }

    /// The claims of `token` if it counts: 401 `invalid_token` for anything that is wrong with it, always in the same
    /// words, and 503 where the keys cannot be had.
    pub async fn verify(&self, token: &str) -> Result<Arc<Claims>> {
        let key = digest::digest(&digest::SHA256, token.as_bytes());
        let key: [u8; digest::SHA256_OUTPUT_LEN] = key.as_ref().try_into().expect("SHA-256 has one length");
        if let Some(claims) = self.recall(&key) {
            self.0.outcomes.remembered.inc();
            return Ok(claims);
        }
        // Seldom: apart, so that requests are not moved about with the room that it takes.
        let verified = Box::pin(self.verify_afresh(token)).await;
        match &verified {
            Ok(remembered) => {
                self.0.outcomes.verified.inc();
                self.0.cache.insert(key, remembered.clone());
            }
            Err(_) => {
                self.0.outcomes.refused.inc();
            }
        }
        verified.map(|remembered| remembered.claims)
    }

    /// Fetches the keys now and again until the process stops.
    pub(crate) fn keep_fresh(&self, life: &Lifecycle) {
        let (verifier, stop) = (self.clone(), life.stop_token());
        life.spawn("token keys", async move {
            stop.run_until_cancelled(verifier.0.keys.refresh()).await;
        });
    }

    fn recall(&self, key: &[u8; digest::SHA256_OUTPUT_LEN]) -> Option<Arc<Claims>> {
        let remembered = self.0.cache.get(key)?;
        if remembered.claims.is_current(self.0.clock.unix_seconds()) && self.0.keys.holds(&remembered.key) {
            return Some(remembered.claims);
        }
        self.0.cache.remove(key);
        None
    }

    async fn verify_afresh(&self, token: &str) -> Result<Remembered> {
        let token = strict::Token::parse(token).ok_or_else(invalid_token)?;
        let key = self.0.keys.find(&token.key_id).await?.ok_or_else(invalid_token)?;
        let signed = jsonwebtoken::crypto::verify(token.signature, token.signed, key.decoding(), Algorithm::EdDSA);
        if !signed.unwrap_or(false) {
            return Err(invalid_token());
        }
        let claims = Claims::read(token.payload, &self.0.expectation).ok_or_else(invalid_token)?;
        if !claims.is_current(self.0.clock.unix_seconds()) {
            return Err(invalid_token());
        }
        Ok(Remembered { claims: Arc::new(claims), key })
    }
}

impl std::fmt::Debug for TokenVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenVerifier").field("remembered", &self.0.cache.len()).finish_non_exhaustive()
    }
}

/// One answer for every fault, so that nothing is learnt from it.
pub(crate) fn invalid_token() -> Error {
    Error::unauthenticated("invalid_token", "The access token is missing, malformed, expired or not ours.")
}

#[cfg(test)]
mod tests;
