//! The platform's databases: roles and their passwords, schemas, migrations, and copies of a migrated database for tests.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use kernel::data::migrations::{self, Migrated};
use kernel::data::provision::{self, Provision, ServiceRoles};
use kernel::settings::Secret;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::secrets;

/// The database of a platform that has the server for itself.
pub const DATABASE: &str = "trunkline";
/// Connections one service may hold over all its instances: four instances with the default pool of ten each.
const CONNECTIONS_PER_SERVICE_MAX: i32 = 40;

/// A PostgreSQL server and the passwords of our roles on it.
#[derive(Clone)]
pub struct Databases {
    superuser_url: Secret,
    secrets: PathBuf,
    server_is_ours: bool,
    connections_per_service_max: i32,
}

impl Databases {
    /// The server behind `superuser_url`; the roles' passwords are kept, and made when missing, in the folder `secrets`.
    pub fn new(superuser_url: Secret, secrets: &Path, server_is_ours: bool) -> Self {
        Self {
            superuser_url,
            secrets: secrets.to_owned(),
            server_is_ours,
            connections_per_service_max: CONNECTIONS_PER_SERVICE_MAX,
        }
    }

    /// The same without a bound on each service's connections: many platforms share the roles of one server in tests.
    pub fn without_connection_limits(mut self) -> Self {
        self.connections_per_service_max = -1;
        self
    }

    /// The superuser's URL of a database.
    pub fn superuser_url(&self, database: &str) -> Secret {
        rewritten(&self.superuser_url, None, database)
    }

    /// The URL of a role: `<service>` or `<service>_owner`.
    ///
    /// # Errors
    /// When its password cannot be read or made.
    pub fn url(&self, role: &str, database: &str) -> Result<Secret> {
        Ok(rewritten(&self.superuser_url, Some((role, &self.password(role)?)), database))
    }

    /// Prepares roles, database and schemas, and applies every migration that is missing, in order.
    ///
    /// # Errors
    /// When the server refuses a step or a schema is not one of ours.
    pub async fn migrate(&self, database: &str) -> Result<Vec<Migrated>> {
        let mut services = Vec::new();
        for service in migrations::SERVICES {
            services.push(ServiceRoles {
                service: (*service).to_owned(),
                owner_password: self.password(&owner(service))?,
                password: self.password(service)?,
            });
        }
        let provision = Provision {
            database: database.to_owned(),
            server_is_ours: self.server_is_ours,
            connections_max: self.connections_per_service_max,
            services,
        };
        provision::prepare(&self.superuser_url, &provision).await.context("preparing the database")?;
        let mut urls = Vec::new();
        for service in migrations::SERVICES {
            urls.push((*service, self.url(&owner(service), database)?));
        }
        migrations::migrate_all(urls.iter().map(|(service, url)| (*service, url)))
            .await
            .context("migrating the schemas")
    }

    /// Makes `database` as a copy of the migrated `template`, to which nobody is connected. Much quicker than migrating.
    ///
    /// # Errors
    /// When the server refuses, for one because `database` exists.
    pub async fn copy(&self, template: &str, database: &str) -> Result<()> {
        let mut statements = vec![
            format!(r#"CREATE DATABASE "{database}" TEMPLATE "{template}""#),
            format!(r#"REVOKE ALL ON DATABASE "{database}" FROM PUBLIC"#), // Rights on a database are not copied with it.
        ];
        for service in migrations::SERVICES {
            statements.push(format!(r#"GRANT CONNECT ON DATABASE "{database}" TO {service}, {}"#, owner(service)));
        }
        self.run(statements).await.with_context(|| format!("copying database {template} to {database}"))
    }

    /// Drops `database` and disconnects everybody from it; nothing happens where there is none.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn drop(&self, database: &str) -> Result<()> {
        self.run(vec![format!(r#"DROP DATABASE IF EXISTS "{database}" WITH (FORCE)"#)])
            .await
            .with_context(|| format!("dropping database {database}"))
    }

    async fn run(&self, statements: Vec<String>) -> Result<()> {
        let mut connection = PgConnection::connect(self.superuser_url.expose()).await?;
        for statement in statements {
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await?;
        }
        Ok(connection.close().await?)
    }

    fn password(&self, role: &str) -> Result<Secret> {
        secrets::keep(&self.secrets.join(role), secrets::password)
    }
}

fn owner(service: &str) -> String {
    format!("{service}_owner")
}

/// The URL with another database, and with another user where one is given.
fn rewritten(url: &Secret, user: Option<(&str, &Secret)>, database: &str) -> Secret {
    let url = url.expose();
    let (scheme, rest) = url.split_once("://").unwrap_or(("postgres", url));
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let authority = rest.split_once('/').map_or(rest, |(authority, _)| authority);
    let (credentials, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    let credentials = match user {
        Some((role, password)) => format!("{role}:{}@", password.expose()),
        None => credentials.map(|credentials| format!("{credentials}@")).unwrap_or_default(),
    };
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    Secret::new(format!("{scheme}://{credentials}{host}/{database}{query}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_database_of_a_url_are_swapped() {
        let password = Secret::new("secret");
        for (url, superuser, role) in [
            ("postgres://p:w@h:1/postgres", "postgres://p:w@h:1/trunkline", "postgres://auth:secret@h:1/trunkline"),
            ("postgres://p:w%40@h:1", "postgres://p:w%40@h:1/trunkline", "postgres://auth:secret@h:1/trunkline"),
            (
                "postgres://h/a?sslmode=require",
                "postgres://h/trunkline?sslmode=require",
                "postgres://auth:secret@h/trunkline?sslmode=require",
            ),
        ] {
            let url = Secret::new(url);
            assert_eq!(rewritten(&url, None, "trunkline").expose(), superuser);
            assert_eq!(rewritten(&url, Some(("auth", &password)), "trunkline").expose(), role);
        }
    }
}
