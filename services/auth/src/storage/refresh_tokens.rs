//! Refresh tokens, by their hashes.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::domain::{KeptToken, Session, SessionId, TokenHash, UserId};

/// Whose a token is; without a lock.
#[tracing::instrument(name = "storage.refresh_token.find", skip_all)]
pub(crate) async fn find_user_of(
    connection: &mut PgConnection,
    hash: TokenHash,
) -> Result<Option<UserId>, sqlx::Error> {
    let user_id = sqlx::query_scalar!(
        r#"
        SELECT sessions.user_id
        FROM auth.refresh_tokens JOIN auth.sessions ON sessions.id = refresh_tokens.session_id
        WHERE refresh_tokens.hash = $1
        "#,
        &hash.0,
    )
    .fetch_optional(connection)
    .await?;
    Ok(user_id.map(UserId))
}

/// The session that a token belongs to, locked until the transaction ends: nobody else changes it or its tokens.
#[tracing::instrument(name = "storage.session.lock", skip_all)]
pub(crate) async fn lock_session_of(
    connection: &mut PgConnection,
    hash: TokenHash,
) -> Result<Option<Session>, sqlx::Error> {
    let row = sqlx::query!(
        r#"
        SELECT id, user_id, authenticated_at, password_version, expires_at, revoked_at
        FROM auth.sessions WHERE id = (SELECT session_id FROM auth.refresh_tokens WHERE hash = $1)
        FOR UPDATE
        "#,
        &hash.0,
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| Session {
        id: SessionId(row.id),
        user_id: UserId(row.user_id),
        authenticated_at: row.authenticated_at,
        password_version: u32::try_from(row.password_version).unwrap_or_default(),
        expires_at: row.expires_at,
        is_revoked: row.revoked_at.is_some(),
    }))
}

/// A token's state. Read it under the lock of its session, in a statement of its own, so that it is the present one.
pub(crate) async fn find_token(
    connection: &mut PgConnection,
    hash: TokenHash,
) -> Result<Option<KeptToken>, sqlx::Error> {
    let row = sqlx::query!("SELECT expires_at, used_at FROM auth.refresh_tokens WHERE hash = $1", &hash.0)
        .fetch_optional(connection)
        .await?;
    Ok(row.map(|row| KeptToken { expires_at: row.expires_at, used_at: row.used_at }))
}

/// Keeps a token that was issued now.
#[tracing::instrument(name = "storage.refresh_token.insert", skip_all)]
pub(crate) async fn insert_token(
    connection: &mut PgConnection,
    hash: TokenHash,
    session_id: SessionId,
    now: DateTime<Utc>,
    expires_at: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO auth.refresh_tokens (hash, session_id, issued_at, expires_at) VALUES ($1, $2, $3, $4)",
        &hash.0,
        session_id.0,
        now,
        expires_at,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Notes that a token was exchanged for its successor.
pub(crate) async fn mark_exchanged(
    connection: &mut PgConnection,
    hash: TokenHash,
    successor: TokenHash,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE auth.refresh_tokens SET used_at = $3, successor_hash = $2 WHERE hash = $1",
        &hash.0,
        &successor.0,
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Deletes tokens that expired before `before`, at most `limit`, and says how many those were. One that a request holds just now
/// is left for the next time.
#[tracing::instrument(name = "storage.refresh_token.prune", skip_all)]
pub(crate) async fn delete_expired_tokens(
    connection: &mut PgConnection,
    before: DateTime<Utc>,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        r#"
        DELETE FROM auth.refresh_tokens WHERE hash IN (
            SELECT hash FROM auth.refresh_tokens WHERE expires_at < $1
            ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED)
        "#,
        before,
        limit,
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}
