//! The service's connections to PostgreSQL: few, bounded in every wait, and made anew by themselves after a restart of
//! the server.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, PgConnection, PgPool};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tracing::Instrument as _;

use super::migrations::CONNECT_WAIT_MAX;
use super::outbox;
use super::transaction::Transaction;
use crate::authorization::Changes;
use crate::settings::{self, Secret};
use crate::telemetry::{self, Kind};
use crate::{Context, Result, StartError};

/// A connection that has lain idle for longer is asked for a sign of life before it is handed out.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);

/// How long a transaction may lie idle before the server ends it: no handler waits that long between two statements.
const IDLE_IN_TRANSACTION_MAX: Duration = Duration::from_secs(30);

/// How often the server looks whether the client of a running statement is still there, so that a killed process's
/// locks do not outlive it.
const CLIENT_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A service's database. Cheap to clone.
#[derive(Clone)]
pub struct Database(Arc<Inner>);

struct Inner {
    service: &'static str,
    pool: PgPool,
    connections_max: u32,
    options: PgConnectOptions,
    /// Told when rows have been committed to the outbox.
    outbox: Notify,
    /// By which a commit that changes authorisation is seen to have been told; empty where nobody here hears of them.
    changes: OnceLock<Changes>,
}

impl Database {
    /// Connects as the service's runtime role. A server that is just starting is waited for; any other fault is one of
    /// the start.
    pub async fn connect(
        url: &Secret,
        service: &'static str,
        instance: &str,
        settings: &settings::Database,
    ) -> Result<Self, StartError> {
        let options = session_options(url, service, instance, settings)?;
        let pool = PgPoolOptions::new()
            .max_connections(settings.connections_max)
            .acquire_timeout(Duration::from_millis(settings.acquire_timeout_ms.into()))
            // A round trip before each use would cost more than most queries; see `TRUSTED_IDLE` and `begin`.
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    if meta.idle_for > TRUSTED_IDLE {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_lazy_with(options.clone());
        wait_for_server(&pool).await?;
        Ok(Self::from_pool(service, pool, settings.connections_max, options))
    }

    /// Stands where a service has no database: every use is refused with 503.
    pub async fn absent(service: &'static str) -> Self {
        let options = PgConnectOptions::new_without_pgpass();
        let pool = PgPoolOptions::new().connect_lazy_with(options.clone());
        pool.close().await;
        Self::from_pool(service, pool, 1, options)
    }

    fn from_pool(service: &'static str, pool: PgPool, connections_max: u32, options: PgConnectOptions) -> Self {
        Self(Arc::new(Inner {
            service,
            pool,
            connections_max,
            options,
            outbox: Notify::new(),
            changes: OnceLock::new(),
        }))
    }

    /// The service whose schema this is.
    pub fn service(&self) -> &'static str {
        self.0.service
    }

    /// For single statements outside a transaction.
    pub fn pool(&self) -> &PgPool {
        &self.0.pool
    }

    /// Begins a transaction for what `cx` asks. Waits for a free connection at most the configured time (1 s), then 503.
    pub async fn begin(&self, cx: &Context) -> Result<Transaction> {
        let span = telemetry::span(Kind::Client, "db.transaction", None);
        let begun = self.begin_on_sound_connection().instrument(span.clone()).await?;
        Ok(Transaction::new(self.clone(), begun, cx, span))
    }

    /// After a restart of the server every idle connection is dead, and says so only when used. Nothing has been done on
    /// it yet, so the next one is tried, at most as many as there can be.
    async fn begin_on_sound_connection(&self) -> Result<sqlx::Transaction<'static, sqlx::Postgres>, sqlx::Error> {
        for _ in 0..self.0.connections_max {
            match self.0.pool.begin().await {
                Err(error) if is_broken(&error) => tracing::debug!(%error, "Connection lost while it lay idle."),
                outcome => return outcome,
            }
        }
        self.0.pool.begin().await
    }

    /// A session beside the pool, for what must hold one.
    pub(super) async fn session(&self, purpose: &str) -> Result<PgConnection, sqlx::Error> {
        let name = self.0.options.get_application_name().unwrap_or(self.0.service);
        let options = self.0.options.clone().application_name(&format!("{name}/{purpose}"));
        PgConnection::connect_with(&options).await
    }

    /// Sees to it that the outbox has partitions for the next days, before anything is committed to it: a platform that was
    /// stopped for a while has none.
    pub(crate) async fn prepare_outbox(&self) -> Result<(), sqlx::Error> {
        sqlx::query(outbox::KEEP_PARTITIONS).execute(&self.0.pool).await.map(|_| ())
    }

    /// Tells the relay that the outbox has something to send.
    pub(super) fn wake_relay(&self) {
        self.0.outbox.notify_one();
    }

    /// Lets commits that change authorisation wait until that has come by.
    pub(crate) fn tell_of(&self, changes: &Changes) {
        // Set once: a process has one.
        let _first = self.0.changes.set(changes.clone());
    }

    pub(super) fn changes(&self) -> Option<&Changes> {
        self.0.changes.get()
    }

    /// Completes when something has been committed to the outbox since the last call.
    pub(super) async fn outbox_filled(&self) {
        self.0.outbox.notified().await;
    }

    /// Closes all connections, once their users are done with them.
    pub async fn close(&self) {
        self.0.pool.close().await;
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("service", &self.0.service).finish_non_exhaustive()
    }
}

/// How each of a service's sessions is set up, those beside the pool included.
pub(super) fn session_options(
    url: &Secret,
    service: &str,
    instance: &str,
    settings: &settings::Database,
) -> Result<PgConnectOptions, StartError> {
    let options: PgConnectOptions =
        url.expose().parse().map_err(|_| StartError::new("the database URL is not a PostgreSQL URL"))?;
    Ok(options.application_name(&format!("{service}/{instance}")).options([
        ("search_path", service.to_owned()),
        ("statement_timeout", settings.statement_timeout_ms.to_string()),
        ("lock_timeout", settings.lock_timeout_ms.to_string()),
        ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_MAX.as_millis().to_string()),
        ("client_connection_check_interval", CLIENT_CHECK_INTERVAL.as_millis().to_string()),
    ]))
}

async fn wait_for_server(pool: &PgPool) -> Result<(), StartError> {
    let deadline = Instant::now() + CONNECT_WAIT_MAX;
    loop {
        match pool.acquire().await {
            Ok(_) => return Ok(()),
            Err(sqlx::Error::PoolTimedOut) if Instant::now() < deadline => sleep(Duration::from_millis(50)).await,
            Err(error) => return Err(StartError::new("the database does not let us in").with_source(error)),
        }
    }
}

/// Whether the connection, rather than the statement, is at fault: input and output, or SQLSTATE class 57P (the server
/// shuts down or was crashed).
pub(super) fn is_broken(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) => true,
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| code.starts_with("57P") || code.starts_with("08"))
        }
        _ => false,
    }
}
