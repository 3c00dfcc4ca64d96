//! Which roles users hold.

use sqlx::PgConnection;

use crate::domain::UserId;

/// The roles of a user who may sign in, in order; `None` for nobody and for one who may not.
#[tracing::instrument(name = "storage.role.find", skip_all)]
pub(crate) async fn find_roles(
    connection: &mut PgConnection,
    user_id: UserId,
) -> Result<Option<Vec<String>>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"
        SELECT ARRAY(SELECT role FROM identity.user_roles WHERE user_id = users.id ORDER BY role) AS "roles!"
        FROM identity.users WHERE id = $1 AND state <> 'DISABLED'
        "#,
        user_id.0,
    )
    .fetch_optional(connection)
    .await
}

/// Whether anybody holds this role.
pub(crate) async fn is_role_held(connection: &mut PgConnection, role: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM identity.user_roles WHERE role = $1) AS "held!""#, role)
        .fetch_one(connection)
        .await
}

/// Lets one transaction at a time make the first administrator; the others wait for its end.
pub(crate) async fn lock_bootstrap(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended('identity.bootstrap', 0))").execute(connection).await?;
    Ok(())
}
