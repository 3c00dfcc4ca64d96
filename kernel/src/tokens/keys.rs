//! The keys that may sign access tokens, as auth publishes them. Fetched once for everybody who waits, kept when a later
//! fetch fails, and not asked for again at once because of a key id that does not exist.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use jsonwebtoken::DecodingKey;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use subjects::Transport as _;
use subjects::auth::v1::{GET_JWKS, GetJwksRequest, Jwk, Jwks};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{Instant, sleep};

use super::strict;
use crate::metrics::ByKind;
use crate::{Caller, Clock, Context, Error, Random, Result};

/// How long after a successful fetch an unknown key id may cause another (S20).
const UNKNOWN_KEY_PAUSE: Duration = Duration::from_secs(30);

/// How long after a failed fetch another may be tried.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// How long one fetch may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);

/// Keys at most; more are not read.
const KEYS_MAX: usize = 32;

/// Where the keys come from.
pub trait KeySource: Send + Sync + 'static {
    /// All keys that count now.
    fn fetch(&self) -> BoxFuture<'_, Result<Vec<PublicKey>>>;
}

/// An Ed25519 key that may sign access tokens.
#[derive(Clone)]
pub struct PublicKey {
    id: String,
    x: String,
    decoding: DecodingKey,
}

impl PublicKey {
    /// `x` is the 32 bytes of the key in base64url (RFC 8037 §2). `None` for anything else, and for an id that a token
    /// could not name.
    pub fn new(id: &str, x: &str) -> Option<Self> {
        let is_key = strict::decode(x).is_some_and(|bytes| bytes.len() == 32);
        if !is_key || !strict::is_key_id(id) {
            return None;
        }
        let decoding = DecodingKey::from_ed_components(x).ok()?;
        Some(Self { id: id.to_owned(), x: x.to_owned(), decoding })
    }

    pub(super) fn decoding(&self) -> &DecodingKey {
        &self.decoding
    }

    fn is_same(&self, other: &Self) -> bool {
        self.id == other.id && self.x == other.x
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublicKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The keys as they are known here.
pub(super) struct Keys {
    source: Arc<dyn KeySource>,
    known: ArcSwap<Vec<Arc<PublicKey>>>,
    /// Held while fetching, so that one fetch serves all who wait.
    fetching: AsyncMutex<()>,
    last: Mutex<Option<Fetch>>,
    outcomes: Family<ByKind, Counter>,
    /// How old the keys get before they are fetched again, so that a withdrawn one ends.
    refresh_interval: Duration,
}

#[derive(Clone, Copy)]
struct Fetch {
    at: Instant,
    succeeded: bool,
}

impl Fetch {
    /// Whether another may follow.
    fn is_over(&self) -> bool {
        self.at.elapsed() >= if self.succeeded { UNKNOWN_KEY_PAUSE } else { FAILURE_PAUSE }
    }
}

impl Keys {
    pub(super) fn new(
        source: Arc<dyn KeySource>,
        refresh_interval: Duration,
        outcomes: Family<ByKind, Counter>,
    ) -> Self {
        let known = ArcSwap::from_pointee(Vec::new());
        Self { source, known, fetching: AsyncMutex::new(()), last: Mutex::new(None), outcomes, refresh_interval }
    }

    /// The key with this id. `None` where there is none; 503 where that cannot be found out just now.
    pub(super) async fn find(&self, id: &str) -> Result<Option<Arc<PublicKey>>> {
        if let Some(key) = self.known(id) {
            return Ok(Some(key));
        }
        let _fetching = self.fetching.lock().await;
        if let Some(key) = self.known(id) {
            return Ok(Some(key));
        }
        let fetch = match self.last() {
            Some(last) if !last.is_over() => last,
            _ => self.fetch().await,
        };
        match self.known(id) {
            None if !fetch.succeeded => Err(Error::unavailable("The token cannot be verified just now.")),
            key => Ok(key),
        }
    }

    /// Whether a key still counts.
    pub(super) fn holds(&self, key: &Arc<PublicKey>) -> bool {
        self.known.load().iter().any(|known| Arc::ptr_eq(known, key))
    }

    /// Fetches for ever, a little before the keys are due.
    pub(super) async fn refresh(&self) {
        loop {
            sleep(self.refresh_interval).await;
            let _fetching = self.fetching.lock().await;
            self.fetch().await;
        }
    }

    fn known(&self, id: &str) -> Option<Arc<PublicKey>> {
        self.known.load().iter().find(|key| key.id == id).cloned()
    }

    fn last(&self) -> Option<Fetch> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Only under the lock `fetching`.
    async fn fetch(&self) -> Fetch {
        let outcome = tokio::time::timeout(FETCH_TIMEOUT, self.source.fetch()).await;
        let succeeded = match outcome {
            Ok(Ok(keys)) => {
                self.replace(keys);
                true
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "The signing keys could not be fetched; those known are kept.");
                false
            }
            Err(_) => {
                tracing::warn!("The signing keys did not come in time; those known are kept.");
                false
            }
        };
        self.outcomes.get_or_create(&ByKind { kind: if succeeded { "success" } else { "failure" } }).inc();
        let fetch = Fetch { at: Instant::now(), succeeded };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(fetch);
        fetch
    }

    /// Keys that were known already keep their place in memory: tokens that they verified stay remembered.
    fn replace(&self, keys: Vec<PublicKey>) {
        let before = self.known.load();
        let keep =
            |key: PublicKey| before.iter().find(|known| known.is_same(&key)).cloned().unwrap_or_else(|| key.into());
        self.known.store(Arc::new(keys.into_iter().take(KEYS_MAX).map(keep).collect()));
    }
}

/// The keys over NATS.
pub(crate) struct CallerKeys {
    pub(crate) caller: Caller,
    pub(crate) service: &'static str,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
}

impl KeySource for CallerKeys {
    fn fetch(&self) -> BoxFuture<'_, Result<Vec<PublicKey>>> {
        Box::pin(async {
            let cx = Context::for_service(self.service, &self.clock, &self.random, FETCH_TIMEOUT);
            let jwks: Jwks = self.caller.call(&cx, &GET_JWKS, GetJwksRequest {}).await?;
            Ok(jwks.keys.iter().filter_map(public_key).collect())
        })
    }
}

/// `None` for a key of another kind, which is passed over.
fn public_key(jwk: &Jwk) -> Option<PublicKey> {
    let is_ed25519 = jwk.kty == "OKP" && jwk.crv == "Ed25519";
    let is_for_signing = matches!(jwk.alg.as_str(), "" | "EdDSA") && matches!(jwk.r#use.as_str(), "" | "sig");
    if is_ed25519 && is_for_signing { PublicKey::new(&jwk.kid, &jwk.x) } else { None }
}
