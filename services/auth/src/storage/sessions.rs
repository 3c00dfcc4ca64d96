//! Sessions.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::domain::{PasswordMark, RevokedReason, Session, SessionId, UserId};

/// Characters that are kept of what a client claims about itself.
const CLAIM_CHARACTERS_MAX: usize = 512;

/// What a client claims about itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientClaims<'a> {
    pub ip_address: &'a str,
    pub user_agent: &'a str,
}

/// Keeps a new session.
#[tracing::instrument(name = "storage.session.insert", skip_all)]
pub(crate) async fn insert_session(
    connection: &mut PgConnection,
    session: &Session,
    client: ClientClaims<'_>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        INSERT INTO auth.sessions
            (id, user_id, ip_address, user_agent, authenticated_at, created_at, last_used_at, expires_at, password_version)
        VALUES ($1, $2, $3, $4, $5, $5, $5, $6, $7)
        "#,
        session.id.0,
        session.user_id.0,
        keepable(client.ip_address),
        keepable(client.user_agent),
        session.authenticated_at,
        session.expires_at,
        version_to_row(session.password_version),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Notes that a token of the session was exchanged.
pub(crate) async fn touch_session(
    connection: &mut PgConnection,
    id: SessionId,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!("UPDATE auth.sessions SET last_used_at = $2 WHERE id = $1", id.0, now).execute(connection).await?;
    Ok(())
}

/// Ends a session and says whose it was; `None` where there is none, or it has ended before.
#[tracing::instrument(name = "storage.session.revoke", skip_all)]
pub(crate) async fn revoke_session(
    connection: &mut PgConnection,
    id: SessionId,
    reason: RevokedReason,
    now: DateTime<Utc>,
) -> Result<Option<UserId>, sqlx::Error> {
    let user_id = sqlx::query_scalar!(
        r#"
        UPDATE auth.sessions SET revoked_at = $2, revoked_reason = $3 WHERE id = $1 AND revoked_at IS NULL
        RETURNING user_id
        "#,
        id.0,
        now,
        reason_to_row(reason),
    )
    .fetch_optional(connection)
    .await?;
    Ok(user_id.map(UserId))
}

/// Ends the sessions of a user that do not count under their password, at most `limit`, the newest first. Says which.
#[tracing::instrument(name = "storage.session.revoke_of_user", skip_all)]
pub(crate) async fn revoke_sessions_of(
    connection: &mut PgConnection,
    user_id: UserId,
    password: PasswordMark,
    reason: RevokedReason,
    now: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<SessionId>, sqlx::Error> {
    let ended = sqlx::query_scalar!(
        r#"
        WITH ending AS MATERIALIZED (
            SELECT id FROM auth.sessions
            WHERE user_id = $1 AND password_version < $2 AND id IS DISTINCT FROM $3
              AND revoked_at IS NULL AND expires_at > $4
            ORDER BY id DESC LIMIT $5 FOR UPDATE
        )
        UPDATE auth.sessions SET revoked_at = $4, revoked_reason = $6
        FROM ending WHERE sessions.id = ending.id
        RETURNING sessions.id
        "#,
        user_id.0,
        version_to_row(password.version),
        password.kept_session.map(|id| id.0),
        now,
        limit,
        reason_to_row(reason),
    )
    .fetch_all(connection)
    .await?;
    Ok(ended.into_iter().map(SessionId).collect())
}

/// Deletes sessions that ended before `before`, by their time or by somebody, at most `limit` of each, with their tokens, and says
/// how many those were.
#[tracing::instrument(name = "storage.session.prune", skip_all)]
pub(crate) async fn delete_ended_sessions(
    connection: &mut PgConnection,
    before: DateTime<Utc>,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        r#"
        WITH expired AS (
            SELECT id FROM auth.sessions WHERE expires_at < $1 ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED
        ), revoked AS (
            SELECT id FROM auth.sessions WHERE revoked_at < $1 ORDER BY revoked_at LIMIT $2 FOR UPDATE SKIP LOCKED
        )
        DELETE FROM auth.sessions WHERE id IN (SELECT id FROM expired UNION SELECT id FROM revoked)
        "#,
        before,
        limit,
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

fn reason_to_row(reason: RevokedReason) -> &'static str {
    match reason {
        RevokedReason::Logout => "LOGOUT",
        RevokedReason::RefreshTokenReused => "REFRESH_TOKEN_REUSED",
        RevokedReason::UserGone => "USER_GONE",
        RevokedReason::PasswordChanged => "PASSWORD_CHANGED",
    }
}

/// A version counts what somebody did by hand.
pub(super) fn version_to_row(version: u32) -> i32 {
    i32::try_from(version).unwrap_or(i32::MAX)
}

/// PostgreSQL keeps no NUL, and nobody needs a long one.
fn keepable(claim: &str) -> String {
    claim.chars().filter(|character| !character.is_control()).take(CLAIM_CHARACTERS_MAX).collect()
}
