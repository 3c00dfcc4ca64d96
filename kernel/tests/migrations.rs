//! Schemas are brought to the version of the program, all or nothing, once, whoever asks; roles stay in their schema.

mod servers;

use futures::future::join_all;
use kernel::data::migrations::{self, MigrationError, check, migrate, migrate_all};
use kernel::settings::Secret;
use servers::postgres::shared;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};

async fn connect(url: &Secret) -> PgConnection {
    PgConnection::connect(url.expose()).await.expect("the role may connect")
}

async fn run(connection: &mut PgConnection, sql: &str) -> Result<(), String> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(|_| ()).map_err(|error| error.to_string())
}

/// What may not be done, and the SQLSTATE's words for it.
async fn refused(connection: &mut PgConnection, sql: &str) {
    let error = run(connection, sql).await.expect_err(sql);
    assert!(error.contains("permission denied") || error.contains("must be"), "{sql}: {error}");
}

#[tokio::test]
async fn services_are_migrated_in_dependency_order_and_a_second_time_nothing_is_done() {
    let database = shared().database().await;
    let urls = ["audit", "auth", "authz", "identity", "jobs"].map(|service| (service, database.owner_url(service)));
    let urls = || urls.iter().map(|(service, url)| (*service, url));

    let first = migrate_all(urls()).await.unwrap();
    let second = migrate_all(urls()).await.unwrap();

    let order: Vec<_> = first.iter().map(|migrated| migrated.service.as_str()).collect();
    assert_eq!(order, migrations::SERVICES);
    assert!(first.iter().all(|migrated| migrated.applied.iter().any(|file| file == "kernel/0002_outbox")));
    assert!(second.iter().all(|migrated| migrated.applied.is_empty()));
}

#[tokio::test]
async fn of_five_that_start_together_one_migrates_and_all_go_on() {
    let database = shared().database().await;
    let url = database.owner_url("identity");

    let outcomes = join_all((0..5).map(|_| migrate(&url, "identity"))).await;

    let applied: Vec<_> = outcomes.into_iter().map(|outcome| outcome.unwrap().applied).collect();
    assert_eq!(applied.iter().filter(|files| !files.is_empty()).count(), 1, "{applied:?}");
    let pool = PgPool::connect(database.service_url("identity").expose()).await.unwrap();
    check(&pool, "identity").await.unwrap();
}

#[tokio::test]
async fn preparing_and_migrating_as_the_superuser_leaves_the_tables_with_their_owner() {
    let database = shared().database().await;
    database.prepare().await;
    let superuser = format!("{}?dbname={}", database.superuser_url().expose(), database.name());

    migrate(&Secret::new(superuser), "auth").await.unwrap();

    let mut owner = connect(&database.owner_url("auth")).await;
    let owners: Vec<String> = sqlx::query_scalar("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'auth'")
        .fetch_all(&mut owner)
        .await
        .unwrap();
    assert_eq!(owners, ["auth_owner"]);
}

#[tokio::test]
async fn service_refuses_an_older_a_newer_and_a_changed_schema() {
    let database = shared().database().await;
    let pool = PgPool::connect(database.service_url("identity").expose()).await.unwrap();
    let url = database.owner_url("identity");

    let older = check(&pool, "identity").await.unwrap_err();
    assert!(
        matches!(older, MigrationError::Older { .. }) && older.to_string().contains("trunkline migrate"),
        "{older}"
    );

    migrate(&url, "identity").await.unwrap();
    let mut owner = connect(&url).await;
    let newer = "INSERT INTO identity.schema_migrations (module, version, name, checksum) VALUES ('kernel', 999, 'later', sha256(''))";
    run(&mut owner, newer).await.unwrap();
    assert!(matches!(check(&pool, "identity").await, Err(MigrationError::Newer { .. })));
    assert!(matches!(migrate(&url, "identity").await, Err(MigrationError::Newer { .. })));

    run(&mut owner, "DELETE FROM identity.schema_migrations WHERE version = 999").await.unwrap();
    run(
        &mut owner,
        "UPDATE identity.schema_migrations SET checksum = sha256('') WHERE module = 'kernel' AND version = 2",
    )
    .await
    .unwrap();
    assert!(matches!(check(&pool, "identity").await, Err(MigrationError::Changed { .. })));
}

#[tokio::test]
async fn migration_that_fails_midway_leaves_nothing_of_itself() {
    let database = shared().database().await;
    let url = database.owner_url("identity");
    let mut owner = connect(&url).await;
    // In the way of the second file, which is refused; the first file stays, and the third is not begun.
    run(&mut owner, "CREATE TABLE identity.outbox_unsent ()").await.unwrap();

    let error = migrate(&url, "identity").await.unwrap_err();

    assert!(matches!(&error, MigrationError::Failed { file, .. } if file == "kernel/0002_outbox"), "{error}");
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT tablename::text FROM pg_tables WHERE schemaname = 'identity' ORDER BY 1")
            .fetch_all(&mut owner)
            .await
            .unwrap();
    assert_eq!(tables, ["outbox_unsent", "schema_migrations"]);
    run(&mut owner, "DROP TABLE identity.outbox_unsent").await.unwrap();
    let rest = migrate(&url, "identity").await.unwrap();
    assert_eq!(rest.applied[0], "kernel/0002_outbox");
}

#[tokio::test]
async fn migrator_that_is_killed_midway_leaves_nothing_and_holds_nobody_up() {
    let database = shared().database().await;
    let url = database.owner_url("identity");
    // The session dies inside a migration, as with kill -9: it holds the lock and has made a table.
    let mut migrator = connect(&url).await;
    run(&mut migrator, &format!("SELECT pg_advisory_lock({})", migrations::LOCK_KEY)).await.unwrap();
    run(&mut migrator, "BEGIN; CREATE TABLE identity.half ()").await.unwrap();
    let mut owner = connect(&url).await;
    let dies_while_the_other_waits = async {
        let waits = "SELECT EXISTS (SELECT FROM pg_locks JOIN pg_database d ON d.oid = database \
                     WHERE locktype = 'advisory' AND NOT granted AND d.datname = current_database())";
        while !sqlx::query_scalar::<_, bool>(waits).fetch_one(&mut owner).await.unwrap() {}
        drop(migrator);
    };

    let (outcome, ()) = tokio::join!(migrate(&url, "identity"), dies_while_the_other_waits);

    assert!(!outcome.unwrap().applied.is_empty());
    let half: bool =
        sqlx::query_scalar("SELECT to_regclass('identity.half') IS NULL").fetch_one(&mut owner).await.unwrap();
    assert!(half);
}

#[tokio::test]
async fn service_works_on_its_own_rows_and_on_nothing_else() {
    let database = shared().migrated_database().await;
    let mut auth = connect(&database.service_url("auth")).await;
    let insert = "INSERT INTO outbox (event_id, stream, subject, headers, payload) VALUES (gen_random_uuid(), 'EVENTS', 's', '{}', '')";

    run(&mut auth, insert).await.unwrap();
    run(&mut auth, "UPDATE auth.outbox SET attempted_at = now(); DELETE FROM auth.inbox").await.unwrap();

    for sql in [
        "SELECT * FROM identity.outbox",
        "SELECT * FROM identity.schema_migrations",
        "INSERT INTO identity.inbox VALUES ('a', 'b')",
        "UPDATE auth.schema_migrations SET name = 'x'",
        "DELETE FROM auth.outbox",
        "TRUNCATE auth.outbox",
        "DELETE FROM auth.outbox_rest",
        "DROP TABLE auth.outbox",
        "ALTER TABLE auth.outbox ADD COLUMN x int",
        "CREATE TABLE auth.mine ()",
        "CREATE TABLE public.mine ()",
        "CREATE TEMP TABLE mine ()",
        "CREATE SCHEMA mine",
        "SET ROLE auth_owner",
        "SET ROLE identity",
        "SELECT rolpassword FROM pg_authid",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SELECT pg_read_file('/etc/passwd')",
    ] {
        refused(&mut auth, sql).await;
    }
    for other in ["postgres", "template1"] {
        let url = database.service_url_to("auth", other);
        let error = PgConnection::connect(url.expose()).await.expect_err(other).to_string();
        assert!(error.contains("permission denied for database"), "{error}");
    }
    let mut owner = connect(&database.owner_url("auth")).await;
    refused(&mut owner, "SELECT * FROM identity.outbox").await;
}
