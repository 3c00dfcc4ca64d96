//! A single connection beside the pool, for what needs a session of its own: migrations, preparation, the relay's lock.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};
use tokio::time::{Instant, sleep, timeout};

/// The pause before another attempt.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// Connects. A server that is starting, or not yet listening, is waited for at most `within`.
pub(super) async fn connect(options: &PgConnectOptions, within: Duration) -> Result<PgConnection, sqlx::Error> {
    let deadline = Instant::now() + within;
    loop {
        let attempt = timeout(deadline.saturating_duration_since(Instant::now()), PgConnection::connect_with(options));
        match attempt.await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) if !is_starting(&error) || Instant::now() + RETRY_DELAY >= deadline => return Err(error),
            Ok(Err(_)) => sleep(RETRY_DELAY).await,
            Err(_) => return Err(sqlx::Error::PoolTimedOut),
        }
    }
}

/// Refused, or SQLSTATE 57P03 (`cannot_connect_now`).
fn is_starting(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        sqlx::Error::Database(error) => error.code().as_deref() == Some("57P03"),
        _ => false,
    }
}
