//! Prepares a PostgreSQL server for the platform: the database, two roles per service, and the empty schemas. Done by a
//! superuser, before the first migration, and safe to repeat: it ends in the same state whatever was there.
//!
//! A service's owner makes its tables; the service itself runs as a role that works on rows of its own schema and can do
//! nothing else: not read another schema, not make a table anywhere, not connect to another database of ours. Not done
//! here: tables (see [`migrations`](super::migrations)) and the server's own settings.

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::migrations::CONNECT_WAIT_MAX;
use super::session;
use crate::Random;
use crate::settings::Secret;

/// How long a preparation waits for another of the same server.
const LOCK_WAIT_MS: u32 = 60_000;

/// Key of the advisory lock in the superuser's own database: roles belong to the whole server.
const LOCK_KEY: i64 = 0x7472_756e_6b6c_7076;

/// What to prepare.
#[derive(Debug)]
pub struct Provision {
    /// Name of the database; made where it does not exist.
    pub database: String,
    /// Whether the server is there for the platform alone. Then nobody but superusers may connect to the databases that
    /// PostgreSQL itself makes; on somebody else's server those are left as they are.
    pub server_is_ours: bool,
    /// How many connections a service's role may hold at once, over all its instances; -1 for any number.
    pub connections_max: i32,
    /// One per service.
    pub services: Vec<ServiceRoles>,
}

/// The two roles of a service, `<service>_owner` and `<service>`.
#[derive(Debug)]
pub struct ServiceRoles {
    /// `[a-z][a-z0-9_]*`, at most 50 characters; also the schema.
    pub service: String,
    /// Password of the role that migrates. Printable ASCII.
    pub owner_password: Secret,
    /// Password of the role that the service runs as. Printable ASCII.
    pub password: Secret,
}

/// What stops a preparation.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// The superuser's URL cannot be read.
    #[error("the superuser's database URL is not valid")]
    Url,
    /// A name that cannot be one of a schema and a role.
    #[error("{0:?} cannot be the name of a service's schema")]
    Name(String),
    /// A password that PostgreSQL would normalise (RFC 4013) before it is compared.
    #[error("the password of role {0} must be printable ASCII and not empty")]
    Password(String),
    /// The database could not be reached or refused a step.
    #[error("the database refused to {step}")]
    Database {
        /// What was being done.
        step: &'static str,
        /// What it said.
        source: sqlx::Error,
    },
}

/// Prepares the server behind `superuser_url`. Sets the passwords to those given, also for roles that exist.
pub async fn prepare(superuser_url: &Secret, provision: &Provision) -> Result<(), ProvisionError> {
    check(provision)?;
    let options: PgConnectOptions = superuser_url.expose().parse().map_err(|_| ProvisionError::Url)?;
    let options = options.application_name("provision");

    let mut server = connect(&options).await?;
    run(&mut server, "wait for another preparation", format!("SET lock_timeout = {LOCK_WAIT_MS}")).await?;
    run(&mut server, "wait for another preparation", format!("SELECT pg_advisory_lock({LOCK_KEY})")).await?;
    for roles in &provision.services {
        prepare_roles(&mut server, roles, provision.connections_max).await?;
    }
    prepare_database(&mut server, provision).await?;

    let mut database = connect(&options.database(&provision.database)).await?;
    prepare_schemas(&mut database, provision).await?;
    close(database).await?;
    close(server).await
}

fn check(provision: &Provision) -> Result<(), ProvisionError> {
    for roles in &provision.services {
        let name = roles.service.as_bytes();
        let usable = name.first().is_some_and(u8::is_ascii_lowercase)
            && name.len() <= 50
            && name.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'_');
        if !usable || matches!(roles.service.as_str(), "public" | "postgres") {
            return Err(ProvisionError::Name(roles.service.clone()));
        }
        for password in [&roles.owner_password, &roles.password] {
            let password = password.expose();
            if password.is_empty() || !password.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
                return Err(ProvisionError::Password(roles.service.clone()));
            }
        }
    }
    Ok(())
}

async fn prepare_roles(
    server: &mut PgConnection,
    roles: &ServiceRoles,
    connections_max: i32,
) -> Result<(), ProvisionError> {
    let service = &roles.service;
    let owner = format!("{service}_owner");
    for (role, password) in [(&owner, &roles.owner_password), (service, &roles.password)] {
        let exists = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)").bind(role);
        let exists: bool = exists.fetch_one(&mut *server).await.map_err(|source| refused("list the roles", source))?;
        let verb = if exists { "ALTER" } else { "CREATE" };
        let verifier = scram_verifier(password.expose(), &Random::system().bytes());
        let sql = format!(
            "{verb} ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS \
             CONNECTION LIMIT {connections_max} PASSWORD '{verifier}'"
        );
        run(server, "make the roles", sql).await?;
        run(server, "set the roles' search path", format!("ALTER ROLE {role} SET search_path = {service}")).await?;
    }
    Ok(())
}

async fn prepare_database(server: &mut PgConnection, provision: &Provision) -> Result<(), ProvisionError> {
    let exists =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)").bind(&provision.database);
    let exists: bool = exists.fetch_one(&mut *server).await.map_err(|source| refused("list the databases", source))?;
    let database = quoted(&provision.database);
    if !exists {
        run(server, "make the database", format!("CREATE DATABASE {database} TEMPLATE template0 ENCODING 'UTF8'"))
            .await?;
    }
    // Takes CONNECT and TEMPORARY, which PostgreSQL gives everybody.
    run(server, "close the database", format!("REVOKE ALL ON DATABASE {database} FROM PUBLIC")).await?;
    if provision.server_is_ours {
        run(
            server,
            "close the server's own databases",
            "REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC".to_owned(),
        )
        .await?;
    }
    for ServiceRoles { service, .. } in &provision.services {
        run(
            server,
            "open the database to the roles",
            format!("GRANT CONNECT ON DATABASE {database} TO {service}, {service}_owner"),
        )
        .await?;
    }
    Ok(())
}

async fn prepare_schemas(database: &mut PgConnection, provision: &Provision) -> Result<(), ProvisionError> {
    run(database, "close the schema public", "REVOKE ALL ON SCHEMA public FROM PUBLIC".to_owned()).await?;
    for ServiceRoles { service, .. } in &provision.services {
        run(database, "make a schema", format!("CREATE SCHEMA IF NOT EXISTS {service} AUTHORIZATION {service}_owner"))
            .await?;
    }
    Ok(())
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection, ProvisionError> {
    session::connect(options, CONNECT_WAIT_MAX).await.map_err(|source| refused("let the superuser in", source))
}

async fn close(connection: PgConnection) -> Result<(), ProvisionError> {
    connection.close().await.map_err(|source| refused("end the session", source))
}

async fn run(connection: &mut PgConnection, step: &'static str, sql: String) -> Result<(), ProvisionError> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(|_| ()).map_err(|source| refused(step, source))
}

fn refused(step: &'static str, source: sqlx::Error) -> ProvisionError {
    ProvisionError::Database { step, source }
}

fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// What PostgreSQL stores for a password (RFC 5803), made here so that no statement, and so no server log, holds it.
fn scram_verifier(password: &str, salt: &[u8; 16]) -> String {
    /// PostgreSQL's own number (`SCRAM_SHA_256_DEFAULT_ITERATIONS`); the passwords are random.
    const ITERATIONS: std::num::NonZeroU32 = std::num::NonZeroU32::new(4_096).expect("4,096 is not zero");
    let mut salted = [0; digest::SHA256_OUTPUT_LEN];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, salt, password.as_bytes(), &mut salted);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
    let stored_key = digest::digest(&digest::SHA256, hmac::sign(&key, b"Client Key").as_ref());
    let server_key = hmac::sign(&key, b"Server Key");
    let [salt, stored_key, server_key] =
        [&salt[..], stored_key.as_ref(), server_key.as_ref()].map(|bytes| STANDARD.encode(bytes));
    format!("SCRAM-SHA-256${ITERATIONS}:{salt}${stored_key}:{server_key}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provision(service: &str, password: &str) -> Provision {
        let roles = ServiceRoles {
            service: service.into(),
            owner_password: Secret::new("owner"),
            password: Secret::new(password),
        };
        Provision { database: "trunkline".into(), server_is_ours: false, connections_max: 10, services: vec![roles] }
    }

    #[test]
    fn names_that_could_break_out_of_a_statement_are_refused() {
        for name in ["", "Identity", "identity; drop", "1a", "public", "identity\"", &"a".repeat(51)] {
            assert!(matches!(check(&provision(name, "secret")), Err(ProvisionError::Name(_))), "{name}");
        }
        assert!(check(&provision("identity", "secret")).is_ok());
        assert!(matches!(check(&provision("identity", "pässword")), Err(ProvisionError::Password(_))));
    }

    /// Made by PostgreSQL 15: `SET password_encryption = 'scram-sha-256'; CREATE ROLE r PASSWORD 'pencil'`.
    #[test]
    fn verifier_is_postgresqls_own() {
        // RFC 7677 §3, whose server key and stored key follow from its salt and 4,096 iterations.
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();

        let verifier = scram_verifier("pencil", salt.as_slice().try_into().unwrap());

        assert_eq!(
            verifier,
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
        );
    }
}
