//! A change and what it tells leave together or not at all; the pool answers within its bounds and heals by itself.

mod servers;

use std::time::{Duration, Instant};

use kernel::data::{AuditAction, Database};
use kernel::{Clock, Context, Random, settings};
use servers::postgres::{self, Postgres, shared};
use sqlx::{Connection as _, PgConnection};
use subjects::audit::v1::{Outcome, Record};
use subjects::identity::v1::{GET_USER, UserRegistered};

fn context() -> Context {
    Context::for_service("identity", &Clock::system(), &Random::system(), Duration::from_secs(5))
}

/// For a machine that is busy with other tests and opens connections slowly.
fn patient() -> settings::Database {
    settings::Database { acquire_timeout_ms: 10_000, ..settings::Database::default() }
}

async fn open(database: &postgres::Database, settings: &settings::Database) -> Database {
    Database::connect(&database.service_url("identity"), "identity", "1", settings).await.expect("it lets us in")
}

async fn outbox(database: &Database) -> Vec<(String, String, Vec<u8>)> {
    sqlx::query_as("SELECT stream, subject, payload FROM outbox ORDER BY id")
        .fetch_all(database.pool())
        .await
        .expect("it can be read")
}

#[tokio::test]
async fn event_and_its_record_are_written_with_the_change() {
    let server = shared().migrated_database().await;
    let database = open(&server, &patient()).await;

    let mut transaction = database.begin(&context()).await.unwrap();
    transaction.publish(&UserRegistered { user_id: "u-1".into() }).await.unwrap();
    assert!(outbox(&database).await.is_empty());
    transaction.commit().await.unwrap();

    let rows = outbox(&database).await;
    let subjects: Vec<_> = rows.iter().map(|(stream, subject, _)| (stream.as_str(), subject.as_str())).collect();
    assert_eq!(subjects, [("EVENTS", "evt.identity.user.registered"), ("AUDIT", "audit.identity.user.registered")]);
    let record: Record = subjects::json::decode(&rows[1].2).unwrap();
    assert_eq!(record.target.unwrap().id, "u-1");
    assert_eq!(record.outcome, i32::from(Outcome::Success));
}

#[tokio::test]
async fn what_is_not_committed_is_not_told() {
    let server = shared().migrated_database().await;
    let database = open(&server, &patient()).await;

    let mut transaction = database.begin(&context()).await.unwrap();
    transaction.publish(&UserRegistered { user_id: "u-1".into() }).await.unwrap();
    drop(transaction);
    let mut transaction = database.begin(&context()).await.unwrap();
    transaction.publish(&UserRegistered { user_id: "x".repeat(1_000_000) }).await.unwrap_err();
    transaction.commit().await.unwrap();

    assert!(outbox(&database).await.is_empty());
}

#[tokio::test]
async fn refusals_are_recorded_and_foreign_actions_are_not() {
    let server = shared().migrated_database().await;
    let database = open(&server, &patient()).await;

    database.record_denied(&context(), &GET_USER).await.unwrap();
    let mut transaction = database.begin(&context()).await.unwrap();
    let foreign = AuditAction {
        action: "auth.login.failed",
        target_type: "user",
        target_id: "",
        outcome: Outcome::Failure,
        details: String::new(),
    };
    let refused = transaction.record(foreign).await.unwrap_err();

    assert_eq!(refused.status(), 500);
    let rows = outbox(&database).await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].1, "audit.identity.get_user.denied");
    let record: Record = subjects::json::decode(&rows[0].2).unwrap();
    assert_eq!(record.outcome, i32::from(Outcome::Denied));
    assert_eq!(record.details.unwrap().text, r#"{"permission":"identity.users.read"}"#);
}

#[tokio::test]
async fn exhausted_pool_is_503_within_its_bound() {
    let server = shared().migrated_database().await;
    let few = settings::Database { connections_max: 2, acquire_timeout_ms: 3_000, ..settings::Database::default() };
    let database = open(&server, &few).await;
    let _held = (database.begin(&context()).await.unwrap(), database.begin(&context()).await.unwrap());

    let unhurried = Context::for_service("identity", &Clock::system(), &Random::system(), Duration::from_mins(1));
    let began = Instant::now();
    let error = database.begin(&unhurried).await.unwrap_err();

    assert_eq!(error.status(), 503);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}

#[tokio::test]
async fn statement_that_takes_too_long_or_waits_for_a_lock_is_ended() {
    let server = shared().migrated_database().await;
    let strict = settings::Database { statement_timeout_ms: 200, lock_timeout_ms: 100, ..patient() };
    let database = open(&server, &strict).await;
    let mut owner = PgConnection::connect(server.owner_url("identity").expose()).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE identity.outbox").execute(&mut owner).await.unwrap();

    let slow = sqlx::query("SELECT pg_sleep(5)").execute(database.pool()).await.unwrap_err();
    let mut transaction = database.begin(&context()).await.unwrap();
    transaction.publish(&UserRegistered::default()).await.unwrap();
    let locked = transaction.commit().await.unwrap_err();

    assert_eq!(kernel::Error::from(slow).status(), 503);
    assert_eq!(locked.status(), 503);
}

#[tokio::test]
async fn pool_heals_after_the_server_was_killed() {
    let mut server = Postgres::start();
    let made = server.migrated_database().await;
    let database = open(&made, &patient()).await;
    let idle: Vec<_> =
        futures::future::join_all((0..5).map(|_| async { database.begin(&context()).await.unwrap() })).await;
    drop(idle);

    server.kill();
    let down = database.begin(&context()).await.unwrap_err();
    server.resume();
    // It recovers first, which takes longer than a request waits.
    let mut transaction = loop {
        match database.begin(&context()).await {
            Ok(transaction) => break transaction,
            Err(error) => assert_eq!(error.status(), 503),
        }
    };
    transaction.publish(&UserRegistered::default()).await.unwrap();
    transaction.commit().await.unwrap();

    assert_eq!(down.status(), 503);
    assert_eq!(outbox(&database).await.len(), 2);
}

#[tokio::test]
async fn service_without_a_database_is_told_so() {
    let database = Database::absent("gateway").await;

    assert_eq!(database.begin(&context()).await.unwrap_err().status(), 503);
}
