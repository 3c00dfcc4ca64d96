//! Signing keys, sealed.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::domain::{KeyId, KeyTimes, SealedKey};

/// The public half of a key.
#[derive(Debug)]
pub(crate) struct PublicKey {
    pub id: KeyId,
    /// 32 bytes.
    pub bytes: Vec<u8>,
}

/// Keys with the time from which on they sign, the latest first.
pub(crate) type SealedKeys = Vec<(DateTime<Utc>, SealedKey)>;

/// The key that was made last.
#[derive(Debug)]
pub(crate) struct NewestKey {
    pub activates_at: DateTime<Utc>,
    /// Keys that are published, this one included.
    pub published: i64,
}

/// The keys that sign at `now` or later, and those that did and are still published.
#[tracing::instrument(name = "storage.signing_key.open", skip_all)]
pub(crate) async fn list_sealed_keys(
    connection: &mut PgConnection,
    now: DateTime<Utc>,
) -> Result<SealedKeys, sqlx::Error> {
    let rows = sqlx::query!(
        r#"
        SELECT id, sealed_seed, activates_at FROM auth.signing_keys
        WHERE retires_at IS NULL OR retires_at > $1
        ORDER BY activates_at DESC, id
        "#,
        now,
    )
    .fetch_all(connection)
    .await?;
    let sealed = rows
        .into_iter()
        .map(|row| (row.activates_at, SealedKey { id: KeyId::from_storage(row.id), sealed_seed: row.sealed_seed }));
    Ok(sealed.collect())
}

/// The key that was made last, and how many are published at `now`.
pub(crate) async fn find_newest_key(
    connection: &mut PgConnection,
    now: DateTime<Utc>,
) -> Result<Option<NewestKey>, sqlx::Error> {
    sqlx::query_as!(
        NewestKey,
        r#"
        SELECT activates_at, count(*) OVER () AS "published!" FROM auth.signing_keys
        WHERE retires_at IS NULL OR retires_at > $1
        ORDER BY activates_at DESC, id LIMIT 1
        "#,
        now,
    )
    .fetch_optional(connection)
    .await
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

/// Keeps a key.
pub(crate) async fn insert_signing_key(
    connection: &mut PgConnection,
    sealed: &SealedKey,
    public_key: [u8; 32],
    times: KeyTimes,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        INSERT INTO auth.signing_keys (id, public_key, sealed_seed, created_at, activates_at)
        VALUES ($1, $2, $3, $4, $5)
        "#,
        sealed.id.as_str(),
        &public_key,
        sealed.sealed_seed,
        times.created_at,
        times.activates_at,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Has the keys that are in use withdrawn at `retires_at`.
pub(crate) async fn retire_keys(connection: &mut PgConnection, retires_at: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query!("UPDATE auth.signing_keys SET retires_at = $1 WHERE retires_at IS NULL", retires_at)
        .execute(connection)
        .await?;
    Ok(())
}

/// Deletes the keys that were withdrawn before `before`, and says how many those were.
pub(crate) async fn delete_retired_keys(
    connection: &mut PgConnection,
    before: DateTime<Utc>,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!("DELETE FROM auth.signing_keys WHERE retires_at < $1", before).execute(connection).await?;
    Ok(done.rows_affected())
}

/// Lets one transaction at a time make a key; the others wait for its end.
pub(crate) async fn lock_signing_keys(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended('auth.signing_keys', 0))").execute(connection).await?;
    Ok(())
}
