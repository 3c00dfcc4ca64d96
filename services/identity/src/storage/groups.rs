//! Groups, their members and their roles.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::users::{UserRow, collect_users};
use crate::domain::{Group, GroupDescription, GroupId, GroupName, RoleName, User, UserId};

struct GroupRow {
    id: Uuid,
    name: String,
    description: String,
    roles: Vec<String>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    revision: i64,
}

impl From<GroupRow> for Group {
    fn from(row: GroupRow) -> Self {
        let GroupRow { id, name, description, roles, created_at, updated_at, revision } = row;
        Self { id: GroupId(id), name, description, roles, created_at, updated_at, revision }
    }
}

/// Makes a group and gives its revision; none where another has its name.
#[tracing::instrument(name = "storage.group.insert", skip_all)]
pub(crate) async fn insert_group(
    connection: &mut PgConnection,
    id: GroupId,
    name: &GroupName,
    description: &GroupDescription,
    now: DateTime<Utc>,
) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar!(
        "INSERT INTO identity.groups (id, name, name_normalised, description, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $5) ON CONFLICT (name_normalised) DO NOTHING RETURNING revision",
        id.0,
        name.as_given(),
        name.normalised(),
        description.as_str(),
        now,
    )
    .fetch_optional(connection)
    .await
}

/// The group with this id.
#[tracing::instrument(name = "storage.group.find", skip_all)]
pub(crate) async fn find_group(connection: &mut PgConnection, id: GroupId) -> Result<Option<Group>, sqlx::Error> {
    let row = sqlx::query_as!(
        GroupRow,
        r#"
        SELECT id, name, description, created_at, updated_at, revision,
               ARRAY(SELECT role FROM identity.group_roles WHERE group_id = id ORDER BY role) AS "roles!"
        FROM identity.groups WHERE id = $1
        "#,
        id.0,
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(Group::from))
}

/// Groups by id, newest first, at most `limit`, from the one before `before`.
#[tracing::instrument(name = "storage.group.list", skip_all)]
pub(crate) async fn list_groups(
    connection: &mut PgConnection,
    before: Option<GroupId>,
    limit: i64,
) -> Result<Vec<Group>, sqlx::Error> {
    let rows = sqlx::query_as!(
        GroupRow,
        r#"
        SELECT id, name, description, created_at, updated_at, revision,
               ARRAY(SELECT role FROM identity.group_roles WHERE group_id = id ORDER BY role) AS "roles!"
        FROM identity.groups
        WHERE $1::uuid IS NULL OR id < $1
        ORDER BY id DESC
        LIMIT $2
        "#,
        before.map(|id| id.0),
        limit,
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(Group::from).collect())
}

/// Changes what is given of a group that is there; false where another has the name.
#[tracing::instrument(name = "storage.group.update", skip_all)]
pub(crate) async fn update_group(
    connection: &mut PgConnection,
    id: GroupId,
    name: Option<&GroupName>,
    description: Option<&GroupDescription>,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "UPDATE identity.groups SET name = coalesce($2, name), name_normalised = coalesce($3, name_normalised),
             description = coalesce($4, description), updated_at = $5, revision = DEFAULT
         WHERE id = $1",
        id.0,
        name.map(GroupName::as_given),
        name.map(GroupName::normalised),
        description.map(GroupDescription::as_str),
        now,
    )
    .execute(connection)
    .await;
    match done {
        Ok(_) => Ok(true),
        Err(sqlx::Error::Database(error)) if error.constraint() == Some("groups_name_normalised_key") => Ok(false),
        Err(error) => Err(error),
    }
}

/// Notes that what belongs to a group was edited, and gives the group's new revision. The group must be there.
#[tracing::instrument(name = "storage.group.touch", skip_all)]
pub(crate) async fn touch_group(
    connection: &mut PgConnection,
    id: GroupId,
    now: DateTime<Utc>,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        "UPDATE identity.groups SET updated_at = $2, revision = DEFAULT WHERE id = $1 RETURNING revision",
        id.0,
        now,
    )
    .fetch_one(connection)
    .await
}

/// Deletes a group with its memberships and roles.
#[tracing::instrument(name = "storage.group.delete", skip_all)]
pub(crate) async fn delete_group(connection: &mut PgConnection, id: GroupId) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM identity.groups WHERE id = $1", id.0).execute(connection).await?;
    Ok(())
}

/// Locks a group against being edited or deleted until the transaction ends, and gives it; `None` where there is none.
pub(crate) async fn lock_group(connection: &mut PgConnection, id: GroupId) -> Result<Option<Group>, sqlx::Error> {
    let found = sqlx::query_scalar!("SELECT id FROM identity.groups WHERE id = $1 FOR NO KEY UPDATE", id.0)
        .fetch_optional(&mut *connection)
        .await?;
    match found {
        Some(_) => find_group(connection, id).await,
        None => Ok(None),
    }
}

/// Members by id, newest user first, at most `limit`, from the one before `before`.
#[tracing::instrument(name = "storage.group.list_members", skip_all)]
pub(crate) async fn list_members(
    connection: &mut PgConnection,
    id: GroupId,
    before: Option<UserId>,
    limit: i64,
) -> Result<Vec<User>, sqlx::Error> {
    let rows = sqlx::query_as!(
        UserRow,
        r#"
        SELECT users.id, email, display_name, state, email_verified, created_at, updated_at, revision
        FROM identity.group_members JOIN identity.users ON users.id = group_members.user_id
        WHERE group_members.group_id = $1 AND ($2::uuid IS NULL OR group_members.user_id < $2)
        ORDER BY group_members.user_id DESC
        LIMIT $3
        "#,
        id.0,
        before.map(|id| id.0),
        limit,
    )
    .fetch_all(connection)
    .await?;
    collect_users(rows)
}

/// Adds a member; false where they are one. Group and user must be there.
#[tracing::instrument(name = "storage.group.insert_member", skip_all)]
pub(crate) async fn insert_member(
    connection: &mut PgConnection,
    id: GroupId,
    user_id: UserId,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "INSERT INTO identity.group_members (group_id, user_id, added_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        id.0,
        user_id.0,
        now,
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Takes a member out; false where they are none.
#[tracing::instrument(name = "storage.group.delete_member", skip_all)]
pub(crate) async fn delete_member(
    connection: &mut PgConnection,
    id: GroupId,
    user_id: UserId,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!("DELETE FROM identity.group_members WHERE group_id = $1 AND user_id = $2", id.0, user_id.0)
        .execute(connection)
        .await?;
    Ok(done.rows_affected() > 0)
}

/// How many groups a user is in.
pub(crate) async fn count_groups_of(connection: &mut PgConnection, user_id: UserId) -> Result<usize, sqlx::Error> {
    let count =
        sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM identity.group_members WHERE user_id = $1"#, user_id.0)
            .fetch_one(connection)
            .await?;
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}

/// Gives a group a role; false where it has it. The group must be there.
#[tracing::instrument(name = "storage.group.insert_role", skip_all)]
pub(crate) async fn insert_group_role(
    connection: &mut PgConnection,
    id: GroupId,
    role: &RoleName,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "INSERT INTO identity.group_roles (group_id, role, granted_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        id.0,
        role.as_str(),
        now,
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Takes a role from a group; false where it does not have it.
#[tracing::instrument(name = "storage.group.delete_role", skip_all)]
pub(crate) async fn delete_group_role(
    connection: &mut PgConnection,
    id: GroupId,
    role: &RoleName,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!("DELETE FROM identity.group_roles WHERE group_id = $1 AND role = $2", id.0, role.as_str())
        .execute(connection)
        .await?;
    Ok(done.rows_affected() > 0)
}
