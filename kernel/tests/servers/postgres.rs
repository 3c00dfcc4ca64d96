//! A PostgreSQL server, and databases in it.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use kernel::data::migrations;
use kernel::data::provision::{Provision, ServiceRoles, prepare};
use kernel::settings::Secret;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection as _, FromRow, PgConnection};

use super::programs;

/// A server of its own.
pub struct Postgres {
    port: u16,
    data: PathBuf,
    process: Option<Child>,
}

/// One database of a server, with the roles of every service prepared.
pub struct Database {
    port: u16,
    name: String,
}

/// The server that tests share.
pub fn shared() -> &'static Postgres {
    static SHARED: OnceLock<Postgres> = OnceLock::new();
    SHARED.get_or_init(Postgres::start)
}

impl Postgres {
    /// Starts a new, empty server.
    pub fn start() -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let data = super::folder().join(format!("postgres-{}", STARTED.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir_all(&data).expect("a folder can be made");
        let user = programs().postgres_user;
        chown(&data, user.map(|user| user.uid), user.map(|user| user.gid)).expect("it can be given away");
        let arguments =
            ["--pgdata", path(&data), "--username", "postgres", "--auth", "trust", "--no-sync", "--encoding", "UTF8"];
        let mut initdb = Command::new(programs().postgres.join("initdb"));
        if let Some(user) = user {
            initdb.uid(user.uid).gid(user.gid);
        }
        let made = initdb.args(arguments).stdout(Stdio::null()).status().expect("initdb runs");
        assert!(made.success());
        // Roles are kept apart by passwords, so the tests use them.
        let access = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
        std::fs::write(data.join("pg_hba.conf"), access).expect("the server's folder can be written to");
        let mut server = Self { port: super::free_port(), data, process: None };
        server.resume();
        server
    }

    /// Starts it again after [`Postgres::kill`].
    pub fn resume(&mut self) {
        let settings = [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "fsync=off",
            "max_connections=200",
            "log_min_messages=panic",
        ];
        let mut arguments = vec!["-D".to_owned(), path(&self.data).to_owned(), "-p".to_owned(), self.port.to_string()];
        arguments.extend(settings.iter().flat_map(|setting| ["-c".to_owned(), (*setting).to_owned()]));
        let program = programs().postgres.join("postgres");
        self.process = Some(super::start_server(self.port, &program, &arguments, programs().postgres_user));
    }

    /// Kills the postmaster; its children notice and end.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().expect("it can be killed");
        process.wait().expect("it can be waited for");
    }

    /// A new database with roles and empty schemas.
    pub async fn database(&self) -> Database {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let database = Database { port: self.port, name: format!("test_{}", MADE.fetch_add(1, Ordering::Relaxed)) };
        database.prepare().await;
        database
    }

    /// A new database with every schema migrated.
    pub async fn migrated_database(&self) -> Database {
        let database = self.database().await;
        for service in migrations::SERVICES {
            migrations::migrate(&database.owner_url(service), service).await.expect("the migrations apply");
        }
        database
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
    }
}

impl Database {
    /// Prepares roles and schemas, again.
    pub async fn prepare(&self) {
        let roles = |service: &&str| ServiceRoles {
            service: (*service).to_owned(),
            owner_password: password(&format!("{service}_owner")),
            password: password(service),
        };
        let provision = Provision {
            database: self.name.clone(),
            server_is_ours: true,
            connections_max: -1,
            services: migrations::SERVICES.iter().map(roles).collect(),
        };
        prepare(&self.superuser_url(), &provision).await.expect("the server can be prepared");
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs statements as the role that migrates.
    pub async fn run_as_owner(&self, service: &str, sql: &str) {
        let mut owner = self.connect_as_owner(service).await;
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut owner).await.expect(sql);
    }

    /// Rows as the role that migrates sees them.
    pub async fn rows_as_owner<T>(&self, service: &str, sql: &str) -> Vec<T>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        let mut owner = self.connect_as_owner(service).await;
        sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut owner).await.expect(sql)
    }

    async fn connect_as_owner(&self, service: &str) -> PgConnection {
        let url = self.owner_url(service);
        for _ in 0..1_200 {
            match PgConnection::connect(url.expose()).await {
                Ok(connection) => return connection,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        panic!("the owner is not let in");
    }

    /// As the role that migrates.
    pub fn owner_url(&self, service: &str) -> Secret {
        self.url(&format!("{service}_owner"), &self.name)
    }

    /// As the role that the service runs as.
    pub fn service_url(&self, service: &str) -> Secret {
        self.url(service, &self.name)
    }

    /// As the service, but to another database.
    pub fn service_url_to(&self, service: &str, database: &str) -> Secret {
        self.url(service, database)
    }

    /// As the superuser, to the server's own database.
    pub fn superuser_url(&self) -> Secret {
        Secret::new(format!("postgres://postgres@127.0.0.1:{}/postgres", self.port))
    }

    fn url(&self, role: &str, database: &str) -> Secret {
        Secret::new(format!("postgres://{role}:password_of_{role}@127.0.0.1:{}/{database}", self.port))
    }
}

fn password(role: &str) -> Secret {
    Secret::new(format!("password_of_{role}"))
}

fn path(path: &Path) -> &str {
    path.to_str().expect("paths of tests are readable")
}
