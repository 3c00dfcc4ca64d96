//! Users: found by id, listed by key, made together with what they sign in with.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{state_from_text, state_to_text};
use crate::domain::{DisplayName, NewUser, PasswordHash, State, User, UserId};

pub(super) struct UserRow {
    pub(super) id: Uuid,
    pub(super) email: String,
    pub(super) display_name: String,
    pub(super) state: String,
    pub(super) email_verified: bool,
    pub(super) created_at: DateTime<Utc>,
    pub(super) updated_at: DateTime<Utc>,
    pub(super) revision: i64,
}

impl TryFrom<UserRow> for User {
    type Error = sqlx::Error;

    fn try_from(row: UserRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: UserId(row.id),
            email: row.email,
            display_name: row.display_name,
            state: state_from_text(&row.state)?,
            email_verified: row.email_verified,
            created_at: row.created_at,
            updated_at: row.updated_at,
            revision: row.revision,
        })
    }
}

/// What came of making a user.
pub(crate) enum Insertion {
    /// The user is made.
    Made(User),
    /// Somebody has the address: nothing was made. The id is unknown when that somebody came at the same moment.
    EmailTaken(Option<UserId>),
}

/// Makes a user with password and roles, unless somebody has the address.
#[tracing::instrument(name = "storage.user.insert", skip_all)]
pub(crate) async fn insert_user(
    connection: &mut PgConnection,
    id: UserId,
    user: &NewUser,
    state: State,
    hash: &PasswordHash,
    now: DateTime<Utc>,
) -> Result<Insertion, sqlx::Error> {
    let roles: Vec<String> = user.roles.iter().map(|role| role.as_str().to_owned()).collect();
    // One statement, so that a free and a taken address take as many round trips, and as many revisions.
    let rows = sqlx::query!(
        r#"
        WITH made AS (
            INSERT INTO identity.users
                (id, email, email_normalised, display_name, state, email_verified, created_at, updated_at)
            VALUES ($1, $2, $3, $4, $5, false, $6, $6)
            ON CONFLICT (email_normalised) DO NOTHING
            RETURNING id, revision
        ), credential AS (
            INSERT INTO identity.credentials (user_id, password_hash, updated_at) SELECT id, $7, $6 FROM made
        ), role AS (
            INSERT INTO identity.user_roles (user_id, role, granted_at)
            SELECT made.id, given.role, $6 FROM made, unnest($8::text[]) AS given (role)
        )
        SELECT id AS "id!", revision AS "revision!", true AS "made!" FROM made
        UNION ALL
        SELECT id, revision, false FROM identity.users WHERE email_normalised = $3
        "#,
        id.0,
        user.email.as_given(),
        user.email.normalised(),
        user.display_name.as_str(),
        state_to_text(state),
        now,
        hash.as_str(),
        &roles,
    )
    .fetch_all(connection)
    .await?;

    Ok(match rows.first() {
        Some(row) if row.made => Insertion::Made(User {
            id,
            email: user.email.as_given().to_owned(),
            display_name: user.display_name.as_str().to_owned(),
            state,
            email_verified: false,
            created_at: now,
            updated_at: now,
            revision: row.revision,
        }),
        other => Insertion::EmailTaken(other.map(|row| UserId(row.id))),
    })
}

/// The user with this id.
#[tracing::instrument(name = "storage.user.find", skip_all)]
pub(crate) async fn find_user(connection: &mut PgConnection, id: UserId) -> Result<Option<User>, sqlx::Error> {
    let row = sqlx::query_as!(
        UserRow,
        r#"
        SELECT id, email, display_name, state, email_verified, created_at, updated_at, revision
        FROM identity.users WHERE id = $1
        "#,
        id.0,
    )
    .fetch_optional(connection)
    .await?;
    row.map(User::try_from).transpose()
}

/// Locks a user against changes by others until the transaction ends, and gives them; `None` where there is none.
pub(crate) async fn lock_user(connection: &mut PgConnection, id: UserId) -> Result<Option<User>, sqlx::Error> {
    let row = sqlx::query_as!(
        UserRow,
        r#"
        SELECT id, email, display_name, state, email_verified, created_at, updated_at, revision
        FROM identity.users WHERE id = $1 FOR NO KEY UPDATE
        "#,
        id.0,
    )
    .fetch_optional(connection)
    .await?;
    row.map(User::try_from).transpose()
}

/// Users by id, newest first, at most `limit`, from the one before `before`. `query` is looked for as it stands, in any
/// case, in address and name; without an index, which a list that is read page by page does not need.
#[tracing::instrument(name = "storage.user.list", skip_all)]
pub(crate) async fn list_users(
    connection: &mut PgConnection,
    query: Option<&str>,
    state: Option<State>,
    before: Option<UserId>,
    limit: i64,
) -> Result<Vec<User>, sqlx::Error> {
    let pattern = query.map(|query| format!("%{}%", escape_like(query)));
    let rows = sqlx::query_as!(
        UserRow,
        r#"
        SELECT id, email, display_name, state, email_verified, created_at, updated_at, revision
        FROM identity.users
        WHERE ($1::text IS NULL OR email ILIKE $1 OR display_name ILIKE $1)
          AND ($2::text IS NULL OR state = $2)
          AND ($3::uuid IS NULL OR id < $3)
        ORDER BY id DESC
        LIMIT $4
        "#,
        pattern,
        state.map(state_to_text),
        before.map(|id| id.0),
        limit,
    )
    .fetch_all(connection)
    .await?;
    collect_users(rows)
}

pub(super) fn collect_users(rows: Vec<UserRow>) -> Result<Vec<User>, sqlx::Error> {
    rows.into_iter().map(User::try_from).collect()
}

/// Changes what is given of a user, and notes that something of theirs was changed now. The user must be there.
#[tracing::instrument(name = "storage.user.update", skip_all)]
pub(crate) async fn update_user(
    connection: &mut PgConnection,
    id: UserId,
    display_name: Option<&DisplayName>,
    now: DateTime<Utc>,
) -> Result<User, sqlx::Error> {
    sqlx::query_as!(
        UserRow,
        r#"
        UPDATE identity.users SET display_name = coalesce($2, display_name), updated_at = $3, revision = DEFAULT
        WHERE id = $1
        RETURNING id, email, display_name, state, email_verified, created_at, updated_at, revision
        "#,
        id.0,
        display_name.map(DisplayName::as_str),
        now,
    )
    .fetch_one(connection)
    .await?
    .try_into()
}

/// Keeps a user from signing in; false where they already may not. The user must be there.
#[tracing::instrument(name = "storage.user.disable", skip_all)]
pub(crate) async fn disable_user(
    connection: &mut PgConnection,
    id: UserId,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "UPDATE identity.users
         SET state_before_disabled = state, state = 'DISABLED', updated_at = $2, revision = DEFAULT
         WHERE id = $1 AND state <> 'DISABLED'",
        id.0,
        now,
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Lets a disabled user sign in again, as what they were before; false where they are not disabled.
#[tracing::instrument(name = "storage.user.enable", skip_all)]
pub(crate) async fn enable_user(
    connection: &mut PgConnection,
    id: UserId,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "UPDATE identity.users
         SET state = coalesce(state_before_disabled, 'ACTIVE'), state_before_disabled = NULL, updated_at = $2,
             revision = DEFAULT
         WHERE id = $1 AND state = 'DISABLED'",
        id.0,
        now,
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Deletes a user with credentials, roles and memberships.
#[tracing::instrument(name = "storage.user.delete", skip_all)]
pub(crate) async fn delete_user(connection: &mut PgConnection, id: UserId) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM identity.users WHERE id = $1", id.0).execute(connection).await?;
    Ok(())
}

/// Takes the meaning from `%`, `_` and the escape character itself.
fn escape_like(text: &str) -> String {
    text.replace('\\', r"\\").replace('%', r"\%").replace('_', r"\_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_characters_stand_for_themselves() {
        assert_eq!(escape_like(r"100%_sure\"), r"100\%\_sure\\");
    }
}
