//! What users sign in with.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::state_from_text;
use super::users::UserRow;
use crate::domain::{Email, PasswordHash, State, User, UserId};

/// What is needed to let somebody sign in, or not.
#[derive(Debug)]
pub(crate) struct SignIn {
    pub user_id: UserId,
    pub state: State,
    pub password_hash: PasswordHash,
    /// Counts the user's passwords and how often they were disabled.
    pub password_version: u32,
    /// In order.
    pub roles: Vec<String>,
}

/// What whoever has this address signs in with; `None` where nobody has it, or has no password.
#[tracing::instrument(name = "storage.credential.find", skip_all)]
pub(crate) async fn find_sign_in(connection: &mut PgConnection, email: &Email) -> Result<Option<SignIn>, sqlx::Error> {
    let row = sqlx::query!(
        r#"
        SELECT users.id, users.state, credentials.password_hash, credentials.version,
               ARRAY(SELECT role FROM identity.user_roles WHERE user_id = users.id ORDER BY role) AS "roles!"
        FROM identity.users JOIN identity.credentials ON credentials.user_id = users.id
        WHERE users.email_normalised = $1
        "#,
        email.normalised(),
    )
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(SignIn {
        user_id: UserId(row.id),
        state: state_from_text(&row.state)?,
        password_hash: PasswordHash::from_storage(row.password_hash),
        password_version: version_from_row(row.version)?,
        roles: row.roles,
    }))
}

/// A user with the hash of their password and its version; `None` for nobody, and for who has none.
#[tracing::instrument(name = "storage.credential.find_of_user", skip_all)]
pub(crate) async fn find_password(
    connection: &mut PgConnection,
    id: UserId,
) -> Result<Option<(User, PasswordHash, u32)>, sqlx::Error> {
    let row = sqlx::query!(
        r#"
        SELECT id, email, display_name, state, email_verified, created_at, users.updated_at, revision,
               password_hash, version
        FROM identity.users JOIN identity.credentials ON user_id = id
        WHERE id = $1
        "#,
        id.0,
    )
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let user = UserRow {
        id: row.id,
        email: row.email,
        display_name: row.display_name,
        state: row.state,
        email_verified: row.email_verified,
        created_at: row.created_at,
        updated_at: row.updated_at,
        revision: row.revision,
    };
    let (hash, version) = (PasswordHash::from_storage(row.password_hash), version_from_row(row.version)?);
    Ok(Some((user.try_into()?, hash, version)))
}

/// Takes one of the few turns to try a user's password (security reference S10: 20 an hour for an account); where none is left,
/// says when there is one. Before the password is looked at, so that of many at once no more are tried; shared by all
/// instances, and known to those that start later.
#[tracing::instrument(name = "storage.credential.take_guess", skip_all)]
pub(crate) async fn take_guess(
    connection: &mut PgConnection,
    user_id: UserId,
    now: DateTime<Utc>,
) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    let taken = sqlx::query!(
        r#"
        UPDATE identity.credentials
        SET guess_until = greatest(coalesce(guess_until, $2), $2) + interval '3 minutes'
        WHERE user_id = $1 AND coalesce(guess_until, $2) <= $2 + interval '12 minutes'
        "#,
        user_id.0,
        now,
    )
    .execute(&mut *connection)
    .await?;
    if taken.rows_affected() > 0 {
        return Ok(None);
    }
    let free_at = sqlx::query_scalar!(
        r#"SELECT guess_until - interval '12 minutes' AS "free_at" FROM identity.credentials WHERE user_id = $1"#,
        user_id.0,
    )
    .fetch_optional(connection)
    .await?;
    // Given back meanwhile, or the user is gone: then it is for the next try.
    Ok(Some(free_at.flatten().unwrap_or(now)))
}

/// Gives all turns back: the password was right.
#[tracing::instrument(name = "storage.credential.forget_guesses", skip_all)]
pub(crate) async fn forget_guesses(connection: &mut PgConnection, user_id: UserId) -> Result<(), sqlx::Error> {
    sqlx::query!("UPDATE identity.credentials SET guess_until = NULL WHERE user_id = $1", user_id.0)
        .execute(connection)
        .await?;
    Ok(())
}

/// Gives a user another password, whatever the one before, and says which version it is. No session is kept, and no turn to try
/// the present password is lost to what was tried of the one before.
#[tracing::instrument(name = "storage.credential.set", skip_all)]
pub(crate) async fn set_password(
    connection: &mut PgConnection,
    user_id: UserId,
    hash: &PasswordHash,
    now: DateTime<Utc>,
) -> Result<u32, sqlx::Error> {
    let version = sqlx::query_scalar!(
        r#"
        INSERT INTO identity.credentials (user_id, password_hash, updated_at) VALUES ($1, $2, $3)
        ON CONFLICT (user_id) DO UPDATE
            SET password_hash = excluded.password_hash, updated_at = excluded.updated_at,
                version = credentials.version + 1, kept_session_id = NULL, guess_until = NULL
        RETURNING version
        "#,
        user_id.0,
        hash.as_str(),
        now,
    )
    .fetch_one(connection)
    .await?;
    version_from_row(version)
}

/// Gives a user another password in the place of that of version `from`, and says which version it is; `None` where that is not the
/// present one any more. The session `kept` goes on.
#[tracing::instrument(name = "storage.credential.change", skip_all)]
pub(crate) async fn change_password(
    connection: &mut PgConnection,
    user_id: UserId,
    from: u32,
    hash: &PasswordHash,
    kept: Uuid,
    now: DateTime<Utc>,
) -> Result<Option<u32>, sqlx::Error> {
    let version = sqlx::query_scalar!(
        r#"
        UPDATE identity.credentials
        SET password_hash = $3, updated_at = $4, version = version + 1, kept_session_id = $5
        WHERE user_id = $1 AND version = $2
        RETURNING version
        "#,
        user_id.0,
        i32::try_from(from).unwrap_or(i32::MAX),
        hash.as_str(),
        now,
        kept,
    )
    .fetch_optional(connection)
    .await?;
    version.map(version_from_row).transpose()
}

/// Lets no session go on that a user has, as another password would, and says which version counts now; 0 for who has no password.
#[tracing::instrument(name = "storage.credential.outdate", skip_all)]
pub(crate) async fn outdate_sessions(connection: &mut PgConnection, user_id: UserId) -> Result<u32, sqlx::Error> {
    let version = sqlx::query_scalar!(
        "UPDATE identity.credentials SET version = version + 1, kept_session_id = NULL WHERE user_id = $1 RETURNING version",
        user_id.0,
    )
    .fetch_optional(connection)
    .await?;
    version.map_or(Ok(0), version_from_row)
}

pub(super) fn version_from_row(version: i32) -> Result<u32, sqlx::Error> {
    u32::try_from(version).map_err(|_| sqlx::Error::Decode("credentials.version is negative".into()))
}

/// Puts `new` in the place of `old`; does nothing where another hash has taken that place meanwhile.
#[tracing::instrument(name = "storage.credential.update", skip_all)]
pub(crate) async fn replace_hash(
    connection: &mut PgConnection,
    user_id: UserId,
    old: &PasswordHash,
    new: &PasswordHash,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE identity.credentials SET password_hash = $3, updated_at = $4 WHERE user_id = $1 AND password_hash = $2",
        user_id.0,
        old.as_str(),
        new.as_str(),
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}
