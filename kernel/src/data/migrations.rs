//! Brings a service's schema to the version this binary was built for, and refuses to work on any other.
//!
//! Each schema holds the kernel's own tables, which come first, and the service's. Each file runs in one transaction with
//! its record, so that a kill leaves all of it or nothing; one lock per database makes those who start together wait for
//! the one that migrates. Not done here: going back (a schema only moves forwards, see `/migrations`), and statements that
//! cannot run in a transaction. sqlx's own migrator is not used because it takes one folder a schema and waits without
//! bound for its lock.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool, Row as _};

use super::session;
use crate::settings::Secret;

/// Services in dependency order: a service comes after those whose facts it may rely on at its start.
pub const SERVICES: &[&str] = &["identity", "auth", "authz", "audit", "jobs"];

/// How long a server that is just starting is waited for.
pub const CONNECT_WAIT_MAX: Duration = Duration::from_secs(10);

/// How long a start waits for another that migrates the same database.
pub const LOCK_WAIT_MAX: Duration = Duration::from_mins(1);

/// How long a migration waits for a table that is in use. Beyond it the migration fails whole, rather than let every
/// query on the table queue up behind it.
pub const TABLE_WAIT_MAX: Duration = Duration::from_secs(5);

/// Key of the advisory lock under which a database is migrated. PostgreSQL keeps such locks per database.
pub const LOCK_KEY: i64 = 0x7472_756e_6b6c_696e;

/// Placeholder in the kernel's files for the service's name.
const SERVICE_PLACEHOLDER: &str = ":\"service\"";

struct Module {
    name: &'static str,
    migrations: &'static [Migration],
}

/// One file.
#[derive(Debug)]
struct Migration {
    version: i64,
    name: &'static str,
    sql: &'static str,
}

/// Every module's files: the kernel's first, then the services' by name.
static MODULES: &[Module] = include!(concat!(env!("OUT_DIR"), "/migrations.rs"));

/// What stops a migration, or a start.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// No service of that name has a schema.
    #[error("there is no service {0} with a schema")]
    UnknownService(String),
    /// The URL cannot be read.
    #[error("the database URL of {service} is not valid")]
    Url {
        /// Whose URL.
        service: String,
    },
    /// Another process migrated for longer than [`LOCK_WAIT_MAX`].
    #[error("another process has been migrating this database for {} s", LOCK_WAIT_MAX.as_secs())]
    Locked,
    /// A file was refused by the database; nothing of it remains.
    #[error("migration {file} of schema {service} failed and was rolled back")]
    Failed {
        /// Whose schema.
        service: String,
        /// `kernel/0002_outbox`.
        file: String,
        /// What the database said.
        source: sqlx::Error,
    },
    /// The schema lacks migrations that this binary needs.
    #[error("schema {service} is older than this program: it lacks {missing}; run `trunkline migrate`")]
    Older {
        /// Whose schema.
        service: String,
        /// The first file it lacks.
        missing: String,
    },
    /// The schema has migrations that this binary does not know.
    #[error("schema {service} is newer than this program: it has {unknown}; run a newer version of the program")]
    Newer {
        /// Whose schema.
        service: String,
        /// The first file that is not known.
        unknown: String,
    },
    /// A file was changed after it had been applied, or files are missing in between.
    #[error("schema {service} is not what this program's migrations make: {file} differs from what was applied")]
    Changed {
        /// Whose schema.
        service: String,
        /// The file that differs.
        file: String,
    },
    /// The database could not be reached or refused a step.
    #[error("the database refused a step of the migration of {service}")]
    Database {
        /// Whose schema.
        service: String,
        /// What it said.
        source: sqlx::Error,
    },
}

/// What a migration did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// Whose schema.
    pub service: String,
    /// Files applied now, in order, as `module/NNNN_what`; empty where the schema was up to date.
    pub applied: Vec<String>,
}

/// Applies what `service`'s schema lacks. `url` is its owner's, or a superuser's.
///
/// The roles and the empty schema must exist: see [`provision`](super::provision).
pub async fn migrate(url: &Secret, service: &str) -> Result<Migrated, MigrationError> {
    apply(url, service, MODULES).await
}

/// Applies what the schemas of all `services` lack, in dependency order, whatever order they are given in.
///
/// Stops at the first failure; what was applied before it stays.
pub async fn migrate_all<'a>(
    services: impl IntoIterator<Item = (&'a str, &'a Secret)>,
) -> Result<Vec<Migrated>, MigrationError> {
    let mut services: Vec<_> = services.into_iter().collect();
    services.sort_by_key(|(service, _)| SERVICES.iter().position(|name| name == service));
    let mut done = Vec::with_capacity(services.len());
    for (service, url) in services {
        done.push(migrate(url, service).await?);
    }
    Ok(done)
}

/// Refuses a schema that is not exactly the one this binary was built for. Asked by every service at its start.
pub async fn check(pool: &PgPool, service: &str) -> Result<(), MigrationError> {
    let failed = |source| MigrationError::Database { service: service.to_owned(), source };
    let mut connection = pool.acquire().await.map_err(failed)?;
    let applied = read_applied(&mut connection, service).await.map_err(failed)?;
    let pending = compare(service, &applied, wanted(service, MODULES)?)?;
    match pending.first() {
        None => Ok(()),
        Some(missing) => Err(MigrationError::Older { service: service.to_owned(), missing: missing.to_string() }),
    }
}

async fn apply(url: &Secret, service: &str, modules: &'static [Module]) -> Result<Migrated, MigrationError> {
    let wanted = wanted(service, modules)?;
    let failed = |source| MigrationError::Database { service: service.to_owned(), source };
    let options: PgConnectOptions =
        url.expose().parse().map_err(|_| MigrationError::Url { service: service.to_owned() })?;
    let options = options.application_name(&format!("migrate {service}")).options([("search_path", service)]);
    let mut connection = session::connect(&options, CONNECT_WAIT_MAX).await.map_err(failed)?;

    // What a superuser makes must belong to the owner all the same.
    run(&mut connection, format!("SET ROLE {service}_owner")).await.map_err(failed)?;
    lock(&mut connection, service).await?;
    run(&mut connection, format!("SET lock_timeout = {}", TABLE_WAIT_MAX.as_millis())).await.map_err(failed)?;

    let applied = read_applied(&mut connection, service).await.map_err(failed)?;
    let pending = compare(service, &applied, wanted)?;
    let mut done = Vec::with_capacity(pending.len());
    for file in pending {
        apply_file(&mut connection, service, &file).await.map_err(|source| MigrationError::Failed {
            service: service.to_owned(),
            file: file.to_string(),
            source,
        })?;
        tracing::info!(service, migration = %file, "Migration applied.");
        done.push(file.to_string());
    }
    // The lock ends with the session.
    connection.close().await.map_err(failed)?;
    Ok(Migrated { service: service.to_owned(), applied: done })
}

async fn lock(connection: &mut PgConnection, service: &str) -> Result<(), MigrationError> {
    let failed = |source| MigrationError::Database { service: service.to_owned(), source };
    run(connection, format!("SET lock_timeout = {}", LOCK_WAIT_MAX.as_millis())).await.map_err(failed)?;
    match sqlx::query("SELECT pg_advisory_lock($1)").bind(LOCK_KEY).execute(connection).await {
        Ok(_) => Ok(()),
        Err(error) if is_lock_timeout(&error) => Err(MigrationError::Locked),
        Err(error) => Err(failed(error)),
    }
}

/// Runs one file and writes its record, both or neither.
async fn apply_file(connection: &mut PgConnection, service: &str, file: &File) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    sqlx::raw_sql(AssertSqlSafe(file.sql(service))).execute(&mut *transaction).await?;
    sqlx::query(AssertSqlSafe(format!(
        "INSERT INTO {service}.schema_migrations (module, version, name, checksum) VALUES ($1, $2, $3, $4)"
    )))
    .bind(file.module)
    .bind(file.migration.version)
    .bind(file.migration.name)
    .bind(file.checksum())
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

async fn run(connection: &mut PgConnection, sql: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(|_| ())
}

/// SQLSTATE 55P03 (`lock_not_available`), which is what `lock_timeout` ends in.
fn is_lock_timeout(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.code().as_deref() == Some("55P03"))
}

/// A migration and the folder it came from.
#[derive(Clone, Copy, Debug)]
struct File {
    module: &'static str,
    migration: &'static Migration,
}

impl File {
    fn checksum(&self) -> Vec<u8> {
        digest(&SHA256, self.migration.sql.as_bytes()).as_ref().to_vec()
    }

    fn sql(&self, service: &str) -> String {
        if self.module == "kernel" {
            self.migration.sql.replace(SERVICE_PLACEHOLDER, service)
        } else {
            self.migration.sql.to_owned()
        }
    }
}

impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:04}_{}", self.module, self.migration.version, self.migration.name)
    }
}

/// A row of `schema_migrations`.
#[derive(Clone, Debug)]
struct Applied {
    module: String,
    version: i64,
    name: String,
    checksum: Vec<u8>,
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:04}_{}", self.module, self.version, self.name)
    }
}

/// The files that make `service`'s schema, in the order in which they are applied.
fn wanted(service: &str, modules: &'static [Module]) -> Result<Vec<File>, MigrationError> {
    if !SERVICES.contains(&service) {
        return Err(MigrationError::UnknownService(service.to_owned()));
    }
    let mut files = Vec::new();
    for name in ["kernel", service] {
        for module in modules.iter().filter(|module| module.name == name) {
            files.extend(module.migrations.iter().map(|migration| File { module: module.name, migration }));
        }
    }
    Ok(files)
}

/// In order of version; empty where the schema has never been migrated.
async fn read_applied(connection: &mut PgConnection, service: &str) -> Result<Vec<Applied>, sqlx::Error> {
    // Asked of the catalogue, since before the first migration the service may not even look into the schema.
    let exists = "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = $1 AND tablename = 'schema_migrations')";
    let exists: bool = sqlx::query_scalar(exists).bind(service).fetch_one(&mut *connection).await?;
    if !exists {
        return Ok(Vec::new());
    }
    let applied =
        format!("SELECT module, version, name, checksum FROM {service}.schema_migrations ORDER BY module, version");
    let rows = sqlx::query(AssertSqlSafe(applied)).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(Applied {
                module: row.try_get("module")?,
                version: row.try_get("version")?,
                name: row.try_get("name")?,
                checksum: row.try_get("checksum")?,
            })
        })
        .collect()
}

/// What is still to be applied. What was applied must be the beginning of what is wanted, module by module.
fn compare(service: &str, applied: &[Applied], wanted: Vec<File>) -> Result<Vec<File>, MigrationError> {
    for row in applied {
        let known = wanted.iter().find(|file| file.module == row.module && file.migration.version == row.version);
        match known {
            None => {
                return Err(MigrationError::Newer { service: service.to_owned(), unknown: row.to_string() });
            }
            Some(file) if file.checksum() != row.checksum || file.migration.name != row.name => {
                return Err(MigrationError::Changed { service: service.to_owned(), file: file.to_string() });
            }
            Some(_) => {}
        }
    }
    let highest = |module: &str| applied.iter().filter(|row| row.module == module).map(|row| row.version).max();
    let (gaps, pending): (Vec<_>, Vec<_>) = wanted
        .into_iter()
        .filter(|file| !applied.iter().any(|row| row.module == file.module && row.version == file.migration.version))
        .partition(|file| highest(file.module).is_some_and(|highest| file.migration.version < highest));
    match gaps.first() {
        None => Ok(pending),
        Some(file) => Err(MigrationError::Changed { service: service.to_owned(), file: file.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static TWO: &[Module] = &[
        Module { name: "kernel", migrations: &[Migration { version: 1, name: "tables", sql: "a" }] },
        Module {
            name: "auth",
            migrations: &[
                Migration { version: 1, name: "keys", sql: "b" },
                Migration { version: 2, name: "sessions", sql: "c" },
            ],
        },
    ];

    fn applied(count: usize) -> Vec<Applied> {
        let files = wanted("auth", TWO).unwrap();
        let row = |file: &File| Applied {
            module: file.module.to_owned(),
            version: file.migration.version,
            name: file.migration.name.to_owned(),
            checksum: file.checksum(),
        };
        files.iter().take(count).map(row).collect()
    }

    #[test]
    fn every_folder_of_migrations_has_its_place_in_the_order() {
        for module in MODULES {
            assert!(module.name == "kernel" || SERVICES.contains(&module.name), "{} has no place", module.name);
        }
    }

    #[test]
    fn only_what_is_missing_is_applied_and_the_kernels_files_come_first() {
        let pending = |count| compare("auth", &applied(count), wanted("auth", TWO).unwrap()).unwrap();

        let names: Vec<_> = pending(0).iter().map(File::to_string).collect();
        assert_eq!(names, ["kernel/0001_tables", "auth/0001_keys", "auth/0002_sessions"]);
        assert_eq!(pending(2).len(), 1);
        assert!(pending(3).is_empty());
    }

    #[test]
    fn newer_changed_and_incomplete_schemas_are_refused() {
        let compare = |rows: &[Applied]| compare("auth", rows, wanted("auth", TWO).unwrap());

        let mut newer = applied(3);
        newer.push(Applied { module: "auth".into(), version: 3, name: "mfa".into(), checksum: vec![0; 32] });
        assert!(matches!(compare(&newer), Err(MigrationError::Newer { unknown, .. }) if unknown == "auth/0003_mfa"));

        let mut changed = applied(3);
        changed[1].checksum[0] ^= 1;
        assert!(matches!(compare(&changed), Err(MigrationError::Changed { file, .. }) if file == "auth/0001_keys"));

        let mut gap = applied(3);
        gap.remove(1);
        assert!(matches!(compare(&gap), Err(MigrationError::Changed { file, .. }) if file == "auth/0001_keys"));
    }

    #[test]
    fn name_of_the_service_is_put_into_the_kernels_files_only() {
        let files = wanted("identity", MODULES).unwrap();
        let outbox = files.iter().find(|file| file.migration.name == "outbox").unwrap();

        assert!(outbox.sql("identity").contains("CREATE TABLE identity.outbox"));
        assert!(!outbox.sql("identity").contains(":\""));
    }
}
