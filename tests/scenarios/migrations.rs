//! Scenario 12: migrations run in dependency order, each in one transaction with its record; a kill leaves all or
//! nothing; of many starts one migrates; nobody starts on a schema that is not its own.

use platform_tests::{Platform, Setup, wait};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// Key of the advisory lock on which the tests hold a migration.
const HOLD_KEY: i64 = 4242;

#[tokio::test]
async fn migrations_run_in_dependency_order_each_in_a_transaction_with_its_record() {
    let platform = Setup::new().unmigrated().start().await;
    let mut database = platform.superuser().await;
    assert!(records(&mut database, "identity").await.is_empty());

    platform.migrate_all().await.unwrap();

    let mut last = None;
    for service in ["identity", "auth", "authz", "audit", "jobs"] {
        let files = records(&mut database, service).await;
        let own = files.iter().filter(|file| file.module == service).count();
        let kernel = files.iter().filter(|file| file.module == "kernel").count();
        assert!(own >= 1 && kernel >= 1 && own + kernel == files.len(), "{service}: {files:?}");
        for (earlier, later) in files.iter().zip(files.iter().skip(1)) {
            assert!(earlier.applied_at < later.applied_at, "{service}: {earlier:?} before {later:?}");
        }
        assert!(
            files.iter().rposition(|file| file.module == "kernel")
                < files.iter().position(|file| file.module == service)
        );
        assert!(last < Some(files[0].applied_at), "{service} comes after those it relies on");
        last = files.last().map(|file| file.applied_at);
    }
    // The record and what it records were written by one transaction; what a later one adds to a table leaves its first column.
    for (table, module, version) in [
        ("identity.groups", "identity", 2),
        ("auth.sessions", "auth", 1),
        ("auth.signing_keys", "auth", 2),
        ("authz.roles", "authz", 1),
        ("audit.entries", "audit", 2),
        ("jobs.jobs", "jobs", 1),
    ] {
        let schema = table.split('.').next().unwrap();
        let together: bool = sqlx::query_scalar(AssertSqlSafe(format!(
            "SELECT (SELECT xmin::text FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum = 1)
                  = (SELECT xmin::text FROM {schema}.schema_migrations WHERE module = $1 AND version = $2)"
        )))
        .bind(module)
        .bind(i64::from(version))
        .fetch_one(&mut database)
        .await
        .unwrap();
        assert!(together, "{table} is recorded by the transaction that made it");
    }
}

#[tokio::test]
async fn a_migration_that_is_killed_midway_leaves_nothing_of_itself() {
    let mut platform = Setup::new().unmigrated().start().await;
    let mut database = platform.superuser().await;
    let mut held = Hold::after_making(&platform, "auth.sessions").await;
    platform.migrate("identity").await.unwrap();

    // auth migrates itself at its start, and is killed after its first table and before its second.
    let auth = platform.add("auth");
    held.wait_for(1).await;
    let before = records(&mut database, "auth").await;
    auth.kill().await.unwrap();
    held.release().await;

    assert!(before.iter().all(|file| file.module == "kernel"), "the service's first file was under way: {before:?}");
    wait::until("the killed migration is rolled back", async || {
        let query = "SELECT count(*) FROM pg_stat_activity
                     WHERE usename = 'auth_owner' AND datname = current_database()";
        let sessions: i64 = sqlx::query_scalar(query).fetch_one(&mut database).await.unwrap();
        (sessions == 0).then_some(())
    })
    .await;
    assert!(!exists(&mut database, "auth.sessions").await, "the first table went with the transaction");
    assert!(!exists(&mut database, "auth.refresh_tokens").await);
    assert_eq!(records(&mut database, "auth").await.len(), before.len());
    assert!(exists(&mut database, "identity.users").await, "what was committed before stays");

    // The next start finishes it.
    auth.start().await.unwrap();
    auth.ready(wait::WAIT_MAX).await.unwrap();
    assert!(exists(&mut database, "auth.refresh_tokens").await);
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations/auth")).unwrap().count();
    assert_eq!(records(&mut database, "auth").await.iter().filter(|file| file.module == "auth").count(), files);
}

#[tokio::test]
async fn of_five_starts_at_once_one_migrates() {
    let mut platform = Setup::new().unmigrated().start().await;
    let mut database = platform.superuser().await;
    let mut held = Hold::after_making(&platform, "identity.users").await;

    let starts = platform.add_many("identity", 5);
    held.wait_for(5).await; // Four behind the one that migrates, and that one behind us.
    held.release().await;

    for start in &starts {
        let state = start.ready(wait::WAIT_MAX).await.unwrap();
        assert_eq!(state.starts, 1, "nobody fails and tries again");
    }
    let files = records(&mut database, "identity").await;
    let mut names: Vec<_> = files.iter().map(|file| (&file.module, file.version)).collect();
    names.dedup();
    assert_eq!(names.len(), files.len(), "each file once: {files:?}");
}

#[tokio::test]
async fn a_service_refuses_a_schema_that_is_not_its_own() {
    for (what, change) in [
        ("older", "DELETE FROM identity.schema_migrations WHERE module = 'identity'"),
        (
            "newer",
            "INSERT INTO identity.schema_migrations (module, version, name, checksum)
             SELECT 'identity', 9999, 'later', checksum FROM identity.schema_migrations LIMIT 1",
        ),
        ("differs", "UPDATE identity.schema_migrations SET checksum = sha256('other') WHERE module = 'identity'"),
    ] {
        let mut platform = Setup::new().without_services().start().await;
        let mut database = platform.superuser().await;
        sqlx::raw_sql(change).execute(&mut database).await.unwrap();

        let identity = platform.add("identity");

        let refused = identity.ready(wait::WAIT_MAX).await.expect_err("it does not start");
        let text = format!("{refused:#}");
        assert!(text.contains("schema identity"), "{what}: {text}");
        // Put right, the same start succeeds: the refusal was about the schema.
        let undo = "DELETE FROM identity.schema_migrations WHERE version = 9999";
        if what == "newer" {
            sqlx::raw_sql(undo).execute(&mut database).await.unwrap();
            identity.start().await.unwrap();
            identity.ready(wait::WAIT_MAX).await.unwrap();
        }
    }
}

#[derive(Debug, sqlx::FromRow)]
struct Record {
    module: String,
    version: i64,
    applied_at: f64,
}

/// A schema's records in the order in which they were made; none where there is no table of them yet.
async fn records(database: &mut PgConnection, service: &str) -> Vec<Record> {
    if !exists(database, &format!("{service}.schema_migrations")).await {
        return Vec::new();
    }
    let query = format!(
        "SELECT module, version, extract(epoch FROM applied_at)::float8 AS applied_at
         FROM {service}.schema_migrations ORDER BY applied_at, module, version"
    );
    sqlx::query_as(AssertSqlSafe(query)).fetch_all(database).await.unwrap()
}

async fn exists(database: &mut PgConnection, table: &str) -> bool {
    sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(table).fetch_one(database).await.unwrap()
}

/// Holds every transaction that has just made a certain table, on a lock of the test's.
struct Hold {
    holder: PgConnection,
}

impl Hold {
    async fn after_making(platform: &Platform, table: &str) -> Hold {
        let mut holder = platform.superuser().await;
        // The migrator's own bound on waiting for locks is not what is tested here.
        let trigger = format!(
            "CREATE FUNCTION public.hold() RETURNS event_trigger LANGUAGE plpgsql AS $$
             BEGIN
               IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE object_identity = '{table}') THEN
                 PERFORM set_config('lock_timeout', '0', true), set_config('statement_timeout', '0', true);
                 PERFORM pg_advisory_xact_lock_shared({HOLD_KEY});
               END IF;
             END $$;
             CREATE EVENT TRIGGER hold ON ddl_command_end EXECUTE FUNCTION public.hold();
             SELECT pg_advisory_lock({HOLD_KEY});"
        );
        sqlx::raw_sql(AssertSqlSafe(trigger)).execute(&mut holder).await.unwrap();
        Hold { holder }
    }

    /// Waits until `count` sessions wait for advisory locks in this database.
    async fn wait_for(&mut self, count: i64) {
        let query = "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database
                     WHERE locktype = 'advisory' AND NOT granted AND d.datname = current_database()";
        wait::until("sessions wait for their turn", async || {
            let waiting: i64 = sqlx::query_scalar(query).fetch_one(&mut self.holder).await.unwrap();
            (waiting == count).then_some(())
        })
        .await;
    }

    async fn release(mut self) {
        let release = "DROP EVENT TRIGGER hold; SELECT pg_advisory_unlock_all()";
        sqlx::raw_sql(release).execute(&mut self.holder).await.unwrap();
        self.holder.close().await.unwrap();
    }
}
