//! Which roles users hold, of their own and by groups.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::credentials::version_from_row;
use crate::domain::{ADMIN, GroupId, GroupRoles, HeldRoles, PasswordMark, RoleName, UserId};

/// What a user holds, and whether they may make use of it.
#[derive(Debug)]
pub(crate) struct Holder {
    pub is_disabled: bool,
    pub roles: HeldRoles,
    pub password: PasswordMark,
}

/// What a user holds, whether they may sign in or not; `None` for nobody.
#[tracing::instrument(name = "storage.role.find", skip_all)]
pub(crate) async fn find_holder(connection: &mut PgConnection, user_id: UserId) -> Result<Option<Holder>, sqlx::Error> {
    // One statement, so that it is one moment.
    let rows = sqlx::query!(
        r#"
        SELECT users.state = 'DISABLED' AS "is_disabled!",
               credentials.version AS "password_version?", credentials.kept_session_id AS "kept_session_id?",
               ARRAY(SELECT role FROM identity.user_roles WHERE user_id = users.id ORDER BY role) AS "own!",
               groups.id AS "group_id?", groups.name AS "group_name?",
               ARRAY(SELECT role FROM identity.group_roles WHERE group_id = groups.id ORDER BY role) AS "group_roles!"
        FROM identity.users
        LEFT JOIN identity.credentials ON credentials.user_id = users.id
        LEFT JOIN identity.group_members ON group_members.user_id = users.id
        LEFT JOIN identity.groups ON groups.id = group_members.group_id
        WHERE users.id = $1
        ORDER BY groups.id
        "#,
        user_id.0,
    )
    .fetch_all(connection)
    .await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let (is_disabled, own, kept_session) = (first.is_disabled, first.own.clone(), first.kept_session_id);
    let version = first.password_version.map_or(Ok(0), version_from_row)?;
    let groups = rows.into_iter().filter_map(|row| {
        Some(GroupRoles { id: GroupId(row.group_id?), name: row.group_name?, roles: row.group_roles })
    });
    let roles = HeldRoles { own, groups: groups.collect() };
    Ok(Some(Holder { is_disabled, roles, password: PasswordMark { version, kept_session } }))
}

/// Gives a user a role of their own; false where they have it. The user must be there.
#[tracing::instrument(name = "storage.role.insert", skip_all)]
pub(crate) async fn insert_role(
    connection: &mut PgConnection,
    user_id: UserId,
    role: &RoleName,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "INSERT INTO identity.user_roles (user_id, role, granted_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        user_id.0,
        role.as_str(),
        now,
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Takes a role of a user's own; false where they do not have it.
#[tracing::instrument(name = "storage.role.delete", skip_all)]
pub(crate) async fn delete_role(
    connection: &mut PgConnection,
    user_id: UserId,
    role: &RoleName,
) -> Result<bool, sqlx::Error> {
    let done =
        sqlx::query!("DELETE FROM identity.user_roles WHERE user_id = $1 AND role = $2", user_id.0, role.as_str())
            .execute(connection)
            .await?;
    Ok(done.rows_affected() > 0)
}

/// How many roles of their own a user has.
pub(crate) async fn count_roles(connection: &mut PgConnection, user_id: UserId) -> Result<usize, sqlx::Error> {
    let count =
        sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM identity.user_roles WHERE user_id = $1"#, user_id.0)
            .fetch_one(connection)
            .await?;
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}

/// Whether any user or group holds this role.
pub(crate) async fn is_role_held(connection: &mut PgConnection, role: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"
        SELECT EXISTS (SELECT FROM identity.user_roles WHERE role = $1)
            OR EXISTS (SELECT FROM identity.group_roles WHERE role = $1) AS "held!"
        "#,
        role,
    )
    .fetch_one(connection)
    .await
}

/// Whether any user is an administrator, of their own or by a group, whether or not they may sign in.
pub(crate) async fn has_administrator(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"
        SELECT EXISTS (SELECT FROM identity.user_roles WHERE role = $1)
            OR EXISTS (SELECT FROM identity.group_roles JOIN identity.group_members USING (group_id)
                       WHERE role = $1) AS "has!"
        "#,
        ADMIN,
    )
    .fetch_one(connection)
    .await
}

/// Lets one transaction at a time make the first administrator; the others wait for its end.
pub(crate) async fn lock_bootstrap(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended('identity.bootstrap', 0))").execute(connection).await?;
    Ok(())
}

/// Lets one transaction at a time take something away by which somebody may be an administrator; the others wait for its
/// end. Gives whether there is one now.
pub(crate) async fn lock_administrators(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended('identity.administrators', 0))")
        .execute(&mut *connection)
        .await?;
    has_active_administrator(connection).await
}

/// Whether anybody who may sign in is an administrator, of their own or by a group.
pub(crate) async fn has_active_administrator(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"
        SELECT EXISTS (
            SELECT FROM identity.user_roles JOIN identity.users ON users.id = user_roles.user_id
            WHERE user_roles.role = $1 AND users.state <> 'DISABLED'
        ) OR EXISTS (
            SELECT FROM identity.group_roles
            JOIN identity.group_members ON group_members.group_id = group_roles.group_id
            JOIN identity.users ON users.id = group_members.user_id
            WHERE group_roles.role = $1 AND users.state <> 'DISABLED'
        ) AS "has!"
        "#,
        ADMIN,
    )
    .fetch_one(connection)
    .await
}
