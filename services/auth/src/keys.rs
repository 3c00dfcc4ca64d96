//! The keys that sign access tokens: which of them signs now, and when another takes its place.
//!
//! ```text
//! made, published ----- propagation ----> signs ---- next one signs ----> published ---- its last token ends ----> withdrawn
//! ```
//!
//! So no verifier meets a token before it can know its key, nor forgets a key before its last token has ended.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use chrono::{DateTime, TimeDelta, Utc};
use kernel::{Context, Database, Error, Result, StartError, Transaction};
use secrecy::SecretString;
use subjects::auth::v1::KeysRotated;
use tokio::sync::Mutex;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::domain::{KeyTimes, MasterKey, SealingKey, SigningKey};
use crate::error::AuthError;
use crate::storage::{self, NewestKey, SealedKeys};

/// How long the step may take: a few statements, and waiting for other instances that do the same.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// How long an instance goes on with the keys that it knows. Far less than an outgoing key stays published for.
const KNOWN_FOR: Duration = Duration::from_secs(5);

/// Keys that may be published at once: less than verifiers read (32).
const PUBLISHED_MAX: i64 = 24;

/// Reads the key that lies outside the database.
pub(crate) fn read_master_key(file: Option<&Path>) -> Result<MasterKey, StartError> {
    let Some(file) = file else {
        return Err(StartError::new("key_file is not set: signing keys are sealed under the key in it"));
    };
    let text = std::fs::read_to_string(file)
        .map(SecretString::from)
        .map_err(|error| StartError::new("key_file cannot be read").with_source(error))?;
    MasterKey::parse(&text).map_err(|error| StartError::new("key_file holds no key").with_source(error))
}

/// The keys of this process, opened.
pub(crate) struct Keyring {
    sealing: SealingKey,
    /// How long a new key is published before it signs.
    propagation: TimeDelta,
    known: ArcSwapOption<Known>,
    /// Held while they are read, so that they are read once for all who wait.
    reading: Mutex<()>,
}

struct Known {
    at: Instant,
    keys: OpenKeys,
}

/// Keys with the time from which on they sign, the latest first.
type OpenKeys = Vec<(DateTime<Utc>, Arc<SigningKey>)>;

impl Known {
    fn signing_at(&self, now: DateTime<Utc>) -> Option<Arc<SigningKey>> {
        if self.at.elapsed() > KNOWN_FOR {
            return None;
        }
        self.keys.iter().find(|(activates_at, _)| *activates_at <= now).map(|(_, key)| Arc::clone(key))
    }
}

impl Keyring {
    pub(crate) fn new(sealing: SealingKey, propagation: TimeDelta) -> Self {
        Self { sealing, propagation, known: ArcSwapOption::empty(), reading: Mutex::new(()) }
    }

    /// The key that signs now.
    pub(crate) async fn signing_key(&self, database: &Database, now: DateTime<Utc>) -> Result<Arc<SigningKey>> {
        let known = || self.known.load().as_ref().and_then(|known| known.signing_at(now));
        if let Some(key) = known() {
            return Ok(key);
        }
        let _reading = self.reading.lock().await;
        if let Some(key) = known() {
            return Ok(key);
        }
        let at = Instant::now();
        let sealed = storage::list_sealed_keys(&mut *database.pool().acquire().await?, now).await?;
        let keys = self.open(sealed).map_err(|error| Error::internal().with_source(error))?;
        self.known.store(Some(Arc::new(Known { at, keys })));
        known().ok_or_else(|| Error::internal().with_source("there is no key that signs"))
    }

    /// Opens the keys in use, or makes the first one. Any number of instances may do so at once: one makes it.
    pub(crate) async fn ensure_key(&self, database: &Database, cx: &Context) -> Result<(), StartError> {
        let at = Instant::now();
        let mut sealed = storage::list_sealed_keys(&mut *database.pool().acquire().await?, cx.now()).await?;
        if sealed.is_empty() {
            let mut tx = database.begin(cx).await?;
            storage::lock_signing_keys(&mut tx).await?;
            if storage::list_sealed_keys(&mut tx, cx.now()).await?.is_empty() {
                let times = KeyTimes::first(cx.now());
                let id = self.make(&mut tx, cx, times).await?;
                tx.commit().await?;
                tracing::info!(key.id = id, "Made the first signing key.");
            }
            sealed = storage::list_sealed_keys(&mut *database.pool().acquire().await?, cx.now()).await?;
        }
        let keys = self.open(sealed)?;
        self.known.store(Some(Arc::new(Known { at, keys })));
        Ok(())
    }

    /// Makes the next key where the newest is to be followed, as `is_due` says of the time at which it came into use; `None`
    /// where it is not. Refused while one waits to sign, and while too many are published.
    pub(crate) async fn rotate(
        &self,
        tx: &mut Transaction,
        cx: &Context,
        is_due: impl Fn(DateTime<Utc>) -> bool,
    ) -> Result<Option<(String, KeyTimes)>> {
        storage::lock_signing_keys(tx).await?;
        let now = cx.now();
        let newest = storage::find_newest_key(tx, now).await?;
        if newest.as_ref().is_some_and(|newest| !is_due(newest.activates_at)) {
            return Ok(None);
        }
        match newest {
            Some(NewestKey { activates_at, .. }) if activates_at > now => {
                return Err(AuthError::RotationPending(activates_at).into());
            }
            Some(NewestKey { published, .. }) if published >= PUBLISHED_MAX => {
                return Err(AuthError::TooManyKeys.into());
            }
            _ => {}
        }
        let times = KeyTimes::next(now, self.propagation);
        storage::retire_keys(tx, times.predecessor_retires_at()).await?;
        let id = self.make(tx, cx, times).await?;
        Ok(Some((id, times)))
    }

    async fn make(&self, tx: &mut Transaction, cx: &Context, times: KeyTimes) -> Result<String> {
        let seed = Zeroizing::new(cx.random().bytes());
        let (key, sealed) = SigningKey::make(&seed, &self.sealing);
        storage::insert_signing_key(tx, &sealed, key.public_key(), times).await?;
        let id = key.id().as_str().to_owned();
        tx.publish(&KeysRotated { key_id: id.clone(), activates_at: Some(times.activates_at.into()) }).await?;
        Ok(id)
    }

    fn open(&self, sealed: SealedKeys) -> Result<OpenKeys, StartError> {
        let open = |(activates_at, sealed)| {
            SigningKey::unseal(&sealed, &self.sealing)
                .map(|key| (activates_at, Arc::new(key)))
                .map_err(|error| StartError::new("a signing key cannot be opened").with_source(error))
        };
        sealed.into_iter().map(open).collect()
    }
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyring").field("propagation", &self.propagation).finish_non_exhaustive()
    }
}
