//! Roles with what they permit and inherit.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::domain::{Description, Fault, Pattern, Policy, Role, RoleName};

/// A role with its times and its revision.
#[derive(Clone, Debug)]
pub(crate) struct StoredRole {
    pub(crate) role: Role,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) updated_at: DateTime<Utc>,
    pub(crate) revision: i64,
}

struct RoleRow {
    name: String,
    description: String,
    built_in: bool,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    revision: i64,
    permissions: Vec<String>,
    inherits: Vec<String>,
}

impl TryFrom<RoleRow> for StoredRole {
    type Error = sqlx::Error;

    fn try_from(row: RoleRow) -> Result<Self, sqlx::Error> {
        let parse = || -> Result<Role, Fault> {
            let permissions = row.permissions.iter().map(|text| Pattern::parse(text));
            let inherits = row.inherits.iter().map(|name| RoleName::parse("/inherits", name));
            Ok(Role {
                name: RoleName::parse("/name", &row.name)?,
                description: Description::parse(&row.description)?,
                permissions: permissions.collect::<Result<_, _>>()?,
                inherits: inherits.collect::<Result<_, _>>()?,
                built_in: row.built_in,
            })
        };
        let role = parse().map_err(|fault| {
            sqlx::Error::Decode(format!("the stored role {:?} is not valid: {fault:?}", row.name).into())
        })?;
        Ok(Self { role, created_at: row.created_at, updated_at: row.updated_at, revision: row.revision })
    }
}

/// All roles, as of one moment.
#[tracing::instrument(name = "storage.policy.load", skip_all)]
pub(crate) async fn load_policy(connection: &mut PgConnection) -> Result<Policy, sqlx::Error> {
    let rows = sqlx::query_as!(
        RoleRow,
        r#"
        SELECT name, description, built_in, created_at, updated_at, revision,
               ARRAY(SELECT permission FROM authz.role_permissions WHERE role = name) AS "permissions!",
               ARRAY(SELECT inherits FROM authz.role_inherits WHERE role = name) AS "inherits!"
        FROM authz.roles
        "#,
    )
    .fetch_all(connection)
    .await?;
    collect(rows)
}

/// These roles and all that they inherit, as of one moment.
#[tracing::instrument(name = "storage.policy.load_part", skip_all)]
pub(crate) async fn load_policy_of(connection: &mut PgConnection, names: &[String]) -> Result<Policy, sqlx::Error> {
    let rows = sqlx::query_as!(
        RoleRow,
        r#"
        WITH RECURSIVE reached (name) AS (
            SELECT unnest($1::text[])
            UNION
            SELECT role_inherits.inherits FROM reached JOIN authz.role_inherits ON role_inherits.role = reached.name
        )
        SELECT name, description, built_in, created_at, updated_at, revision,
               ARRAY(SELECT permission FROM authz.role_permissions WHERE role = name) AS "permissions!",
               ARRAY(SELECT inherits FROM authz.role_inherits WHERE role = name) AS "inherits!"
        FROM authz.roles JOIN reached USING (name)
        "#,
        names,
    )
    .fetch_all(connection)
    .await?;
    collect(rows)
}

/// Lets one transaction at a time change roles, the others wait for its end, and gives all roles.
pub(crate) async fn lock_policy(connection: &mut PgConnection) -> Result<Policy, sqlx::Error> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended('authz.policy', 0))").execute(&mut *connection).await?;
    load_policy(connection).await
}

fn collect(rows: Vec<RoleRow>) -> Result<Policy, sqlx::Error> {
    rows.into_iter().map(|row| StoredRole::try_from(row).map(|stored| stored.role)).collect()
}

/// One role.
#[tracing::instrument(name = "storage.role.find", skip_all)]
pub(crate) async fn find_role(
    connection: &mut PgConnection,
    name: &RoleName,
) -> Result<Option<StoredRole>, sqlx::Error> {
    let row = sqlx::query_as!(
        RoleRow,
        r#"
        SELECT name, description, built_in, created_at, updated_at, revision,
               ARRAY(SELECT permission FROM authz.role_permissions WHERE role = name) AS "permissions!",
               ARRAY(SELECT inherits FROM authz.role_inherits WHERE role = name) AS "inherits!"
        FROM authz.roles WHERE name = $1
        "#,
        name.as_str(),
    )
    .fetch_optional(connection)
    .await?;
    row.map(StoredRole::try_from).transpose()
}

/// Roles in order of name, at most `limit`, behind the one named `after`.
#[tracing::instrument(name = "storage.role.list", skip_all)]
pub(crate) async fn list_roles(
    connection: &mut PgConnection,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<StoredRole>, sqlx::Error> {
    // The database's own order of texts may be another than that of the keys of pages.
    let rows = sqlx::query_as!(
        RoleRow,
        r#"
        SELECT name, description, built_in, created_at, updated_at, revision,
               ARRAY(SELECT permission FROM authz.role_permissions WHERE role = name) AS "permissions!",
               ARRAY(SELECT inherits FROM authz.role_inherits WHERE role = name) AS "inherits!"
        FROM authz.roles
        WHERE $1::text IS NULL OR name > $1 COLLATE "C"
        ORDER BY name COLLATE "C"
        LIMIT $2
        "#,
        after,
        limit,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(StoredRole::try_from).collect()
}

/// Makes a role and gives its revision; the name is known to be free.
#[tracing::instrument(name = "storage.role.insert", skip_all)]
pub(crate) async fn insert_role(
    connection: &mut PgConnection,
    role: &Role,
    now: DateTime<Utc>,
) -> Result<i64, sqlx::Error> {
    let revision = sqlx::query_scalar!(
        "INSERT INTO authz.roles (name, description, built_in, created_at, updated_at) VALUES ($1, $2, $3, $4, $4) \
         RETURNING revision",
        role.name.as_str(),
        role.description.as_str(),
        role.built_in,
        now,
    )
    .fetch_one(&mut *connection)
    .await?;
    write_grants(connection, role).await?;
    Ok(revision)
}

/// Puts a role in the place of the one of its name.
#[tracing::instrument(name = "storage.role.update", skip_all)]
pub(crate) async fn update_role(
    connection: &mut PgConnection,
    role: &Role,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE authz.roles SET description = $2, updated_at = $3, revision = DEFAULT WHERE name = $1",
        role.name.as_str(),
        role.description.as_str(),
        now,
    )
    .execute(&mut *connection)
    .await?;
    write_grants(connection, role).await
}

/// Makes what is stored of a role's permissions and inheritance what it should be.
async fn write_grants(connection: &mut PgConnection, role: &Role) -> Result<(), sqlx::Error> {
    let permissions: Vec<String> = role.permissions.iter().map(|pattern| pattern.as_str().to_owned()).collect();
    let inherits: Vec<String> = role.inherits.iter().map(ToString::to_string).collect();
    sqlx::query!(
        "DELETE FROM authz.role_permissions WHERE role = $1 AND NOT permission = ANY($2)",
        role.name.as_str(),
        &permissions,
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "INSERT INTO authz.role_permissions (role, permission) SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING",
        role.name.as_str(),
        &permissions,
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "DELETE FROM authz.role_inherits WHERE role = $1 AND NOT inherits = ANY($2)",
        role.name.as_str(),
        &inherits,
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "INSERT INTO authz.role_inherits (role, inherits) SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING",
        role.name.as_str(),
        &inherits,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Deletes a role that none inherits, and notes when. Forgets which were deleted before `forgotten_before`.
#[tracing::instrument(name = "storage.role.delete", skip_all)]
pub(crate) async fn delete_role(
    connection: &mut PgConnection,
    name: &RoleName,
    now: DateTime<Utc>,
    forgotten_before: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM authz.roles WHERE name = $1", name.as_str()).execute(&mut *connection).await?;
    sqlx::query!("DELETE FROM authz.deleted_roles WHERE deleted_at < $1", forgotten_before)
        .execute(&mut *connection)
        .await?;
    sqlx::query!(
        "INSERT INTO authz.deleted_roles (name, deleted_at) VALUES ($1, $2) \
         ON CONFLICT (name) DO UPDATE SET deleted_at = excluded.deleted_at",
        name.as_str(),
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// When a role of this name was last deleted, where that is still known.
pub(crate) async fn find_deletion(
    connection: &mut PgConnection,
    name: &RoleName,
) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    sqlx::query_scalar!("SELECT deleted_at FROM authz.deleted_roles WHERE name = $1", name.as_str())
        .fetch_optional(connection)
        .await
}

/// Whether a role names this permission, or one that the pattern covers.
#[tracing::instrument(name = "storage.permission.find", skip_all)]
pub(crate) async fn is_named(connection: &mut PgConnection, pattern: &Pattern) -> Result<bool, sqlx::Error> {
    // A permission without a wildcard has exactly three words, so `%` can stand for no other number of them than the pattern's `*`.
    let like = pattern.as_str().replace('_', r"\_").replace('*', "%");
    sqlx::query_scalar!(
        r#"
        SELECT EXISTS (
            SELECT FROM authz.role_permissions WHERE permission LIKE $1 AND permission NOT LIKE '%*%'
        ) AS "named!"
        "#,
        like,
    )
    .fetch_one(connection)
    .await
}
