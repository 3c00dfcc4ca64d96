//! Signing keys, sealed.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::domain::{KeyId, SealedKey};

/// The public half of a key.
#[derive(Debug)]
pub(crate) struct PublicKey {
    pub id: KeyId,
    /// 32 bytes.
    pub bytes: Vec<u8>,
}

/// The key that signs at `now`: of those that have come into use and have not retired, the newest.
pub(crate) async fn find_signing_key(
    connection: &mut PgConnection,
    now: DateTime<Utc>,
) -> Result<Option<SealedKey>, sqlx::Error> {
    let row = sqlx::query!(
        r#"
        SELECT id, sealed_seed FROM auth.signing_keys
        WHERE activates_at <= $1 AND (retires_at IS NULL OR retires_at > $1)
        ORDER BY activates_at DESC, id LIMIT 1
        "#,
        now,
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| SealedKey { id: KeyId::from_storage(row.id), sealed_seed: row.sealed_seed }))
}

/// The public halves of all keys whose tokens may count at `now` or later, newest first.
#[tracing::instrument(name = "storage.signing_key.list", skip_all)]
pub(crate) async fn list_public_keys(
    connection: &mut PgConnection,
    now: DateTime<Utc>,
) -> Result<Vec<PublicKey>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"
        SELECT id, public_key FROM auth.signing_keys WHERE retires_at IS NULL OR retires_at > $1
        ORDER BY activates_at DESC, id
        "#,
        now,
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| PublicKey { id: KeyId::from_storage(row.id), bytes: row.public_key }).collect())
}

/// Keeps a key that signs from now on.
pub(crate) async fn insert_signing_key(
    connection: &mut PgConnection,
    sealed: &SealedKey,
    public_key: [u8; 32],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        INSERT INTO auth.signing_keys (id, public_key, sealed_seed, created_at, activates_at)
        VALUES ($1, $2, $3, $4, $4)
        "#,
        sealed.id.as_str(),
        &public_key,
        sealed.sealed_seed,
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Lets one transaction at a time make a key; the others wait for its end.
pub(crate) async fn lock_signing_keys(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended('auth.signing_keys', 0))").execute(connection).await?;
    Ok(())
}
