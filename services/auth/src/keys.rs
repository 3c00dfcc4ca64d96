//! The key that signs access tokens: opened at start, and made by whichever instance starts first.

use std::path::Path;
use std::time::Duration;

use kernel::{Context, Database, StartError};
use secrecy::SecretString;
use subjects::auth::v1::KeysRotated;
use zeroize::Zeroizing;

use crate::domain::{MasterKey, SealedKey, SealingKey, SigningKey};
use crate::storage;

/// How long the step may take: a few statements, and waiting for other instances that do the same.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

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

/// Opens the key in use, or makes the first one. Any number of instances may do so at once: one makes it.
pub(crate) async fn ensure_signing_key(
    database: &Database,
    cx: &Context,
    sealing: &SealingKey,
) -> Result<SigningKey, StartError> {
    let sealed = storage::find_signing_key(&mut *database.pool().acquire().await?, cx.now()).await?;
    match sealed {
        Some(sealed) => open(&sealed, sealing),
        None => make_first(database, cx, sealing).await,
    }
}

async fn make_first(database: &Database, cx: &Context, sealing: &SealingKey) -> Result<SigningKey, StartError> {
    let mut tx = database.begin(cx).await?;
    storage::lock_signing_keys(&mut tx).await?;
    if let Some(sealed) = storage::find_signing_key(&mut tx, cx.now()).await? {
        return open(&sealed, sealing);
    }
    let seed = Zeroizing::new(cx.random().bytes());
    let (key, sealed) = SigningKey::make(&seed, sealing);
    storage::insert_signing_key(&mut tx, &sealed, key.public_key(), cx.now()).await?;
    tx.publish(&KeysRotated { key_id: key.id().as_str().to_owned() }).await?;
    tx.commit().await?;
    tracing::info!(key.id = key.id().as_str(), "Made the first signing key.");
    Ok(key)
}

fn open(sealed: &SealedKey, sealing: &SealingKey) -> Result<SigningKey, StartError> {
    SigningKey::unseal(sealed, sealing)
        .map_err(|error| StartError::new("the signing key cannot be opened").with_source(error))
}
