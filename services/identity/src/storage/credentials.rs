//! What users sign in with.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::state_from_text;
use crate::domain::{Email, PasswordHash, State, UserId};

/// What is needed to let somebody sign in, or not.
#[derive(Debug)]
pub(crate) struct SignIn {
    pub user_id: UserId,
    pub state: State,
    pub password_hash: PasswordHash,
    /// In order.
    pub roles: Vec<String>,
}

/// What whoever has this address signs in with; `None` where nobody has it, or has no password.
#[tracing::instrument(name = "storage.credential.find", skip_all)]
pub(crate) async fn find_sign_in(connection: &mut PgConnection, email: &Email) -> Result<Option<SignIn>, sqlx::Error> {
    let row = sqlx::query!(
        r#"
        SELECT users.id, users.state, credentials.password_hash,
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
        roles: row.roles,
    }))
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
