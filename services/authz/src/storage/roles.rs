//! Roles with what they permit and inherit.

use sqlx::PgConnection;

use crate::domain::{Description, Fault, Pattern, Policy, Role, RoleName};

/// All roles.
#[tracing::instrument(name = "storage.policy.load", skip_all)]
pub(crate) async fn load_policy(connection: &mut PgConnection) -> Result<Policy, sqlx::Error> {
    let rows = sqlx::query!(
        r#"
        SELECT name, description, built_in,
               ARRAY(SELECT permission FROM authz.role_permissions WHERE role = name) AS "permissions!",
               ARRAY(SELECT inherits FROM authz.role_inherits WHERE role = name) AS "inherits!"
        FROM authz.roles
        "#,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let permissions = row.permissions.iter().map(|text| Pattern::parse(text));
            let inherits = row.inherits.iter().map(|name| RoleName::parse("/inherits", name));
            Ok(Role {
                name: RoleName::parse("/name", &row.name)?,
                description: Description::parse(&row.description)?,
                permissions: permissions.collect::<Result<_, _>>()?,
                inherits: inherits.collect::<Result<_, _>>()?,
                built_in: row.built_in,
            })
        })
        .collect::<Result<Policy, Fault>>()
        .map_err(|fault| sqlx::Error::Decode(format!("a stored role is not valid: {fault:?}").into()))
}
