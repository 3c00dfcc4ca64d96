//! What a service's database role can reach: its own schema's data and nothing else; of the audit log, not even change.

use platform_tests::{Platform, Setup};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

const SERVICES: &[&str] = &["identity", "auth", "authz", "audit", "jobs"];

/// SQLSTATE `insufficient_privilege`.
const REFUSED: &str = "42501";

#[tokio::test]
async fn a_service_cannot_reach_another_schema() {
    let platform = Setup::new().without_services().start().await;
    let tables = tables(&platform).await;
    for service in SERVICES {
        let mut role = platform.role(service).await;
        for (schema, table) in &tables {
            let count = query(&mut role, &format!("SELECT count(*) FROM {schema}.{table}")).await;
            if schema == service {
                assert_eq!(count, Ok(()), "{service} reads its own {table}");
            } else {
                assert_eq!(count, refused(), "{service} cannot read {schema}.{table}");
                let changed = query(&mut role, &format!("DELETE FROM {schema}.{table}")).await;
                assert_eq!(changed, refused(), "{service} cannot change {schema}.{table}");
            }
        }
    }
    assert!(SERVICES.iter().all(|service| tables.iter().any(|(schema, _)| schema == service)), "{tables:?}");
}

#[tokio::test]
async fn a_service_cannot_define_anything_or_become_anybody() {
    let platform = Setup::new().without_services().start().await;
    for service in SERVICES {
        let mut role = platform.role(service).await;
        for statement in [
            format!("CREATE TABLE {service}.evil (id int)"),
            format!("ALTER TABLE {service}.outbox ADD COLUMN evil int"),
            format!("DROP TABLE {service}.outbox"),
            format!("TRUNCATE {service}.schema_migrations"),
            format!("DELETE FROM {service}.schema_migrations"),
            format!("SET ROLE {service}_owner"),
            "CREATE TABLE public.evil (id int)".to_owned(),
            "CREATE SCHEMA evil".to_owned(),
            "CREATE ROLE evil".to_owned(),
            "SET ROLE postgres".to_owned(),
            "COPY pg_authid TO PROGRAM 'true'".to_owned(),
            "SELECT * FROM pg_authid".to_owned(),
        ] {
            let outcome = query(&mut role, &statement).await;
            assert!(
                matches!(&outcome, Err(state) if [REFUSED, "42704"].contains(&state.as_str())),
                "{service} may {statement}: {outcome:?}"
            );
        }
        let own = query(&mut role, &format!("SELECT count(*) FROM {service}.schema_migrations")).await;
        assert_eq!(own, Ok(()), "{service} sees which schema it runs on");
    }
}

#[tokio::test]
async fn an_owner_cannot_reach_another_schema_either() {
    let platform = Setup::new().without_services().start().await;
    for service in SERVICES {
        let mut owner = platform.role(&format!("{service}_owner")).await;
        for other in SERVICES {
            let count = query(&mut owner, &format!("SELECT count(*) FROM {other}.schema_migrations")).await;
            if other == service {
                assert_eq!(count, Ok(()), "{service}_owner reads its own schema");
            } else {
                assert_eq!(count, refused(), "{service}_owner cannot read {other}");
            }
        }
    }
}

#[tokio::test]
async fn the_audit_log_cannot_be_changed_by_the_service_that_writes_it() {
    let platform = Setup::new().start().await;
    platform.admin().await; // Leaves an entry.
    platform.settled().await;
    let mut audit = platform.role("audit").await;

    for statement in [
        "UPDATE audit.entries SET action = 'forged'",
        "DELETE FROM audit.entries",
        "TRUNCATE audit.entries",
        "ALTER TABLE audit.entries DISABLE TRIGGER ALL",
        "DROP TABLE audit.entries",
    ] {
        assert_eq!(query(&mut audit, statement).await, refused(), "{statement}");
    }

    let entries: i64 = sqlx::query_scalar("SELECT count(*) FROM audit.entries").fetch_one(&mut audit).await.unwrap();
    assert!(entries >= 1, "the same role reads the log");
}

#[tokio::test]
async fn not_even_the_owner_changes_the_audit_log_by_accident() {
    let platform = Setup::new().start().await;
    platform.admin().await;
    platform.settled().await;
    let mut owner = platform.role("audit_owner").await;

    for statement in
        ["UPDATE audit.entries SET action = 'forged'", "DELETE FROM audit.entries", "TRUNCATE audit.entries"]
    {
        assert_eq!(query(&mut owner, statement).await, refused(), "{statement}");
    }
}

async fn tables(platform: &Platform) -> Vec<(String, String)> {
    let mut superuser = platform.superuser().await;
    sqlx::query_as("SELECT schemaname::text, tablename::text FROM pg_tables WHERE schemaname = ANY($1) ORDER BY 1, 2")
        .bind(SERVICES)
        .fetch_all(&mut superuser)
        .await
        .unwrap()
}

/// Runs a statement and takes it back; gives the SQLSTATE of a failure.
async fn query(role: &mut PgConnection, statement: &str) -> Result<(), String> {
    let mut transaction = role.begin().await.expect("connected");
    let outcome = sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut *transaction).await;
    transaction.rollback().await.expect("connected");
    match outcome {
        Ok(_) => Ok(()),
        Err(sqlx::Error::Database(error)) => Err(error.code().unwrap_or_default().into_owned()),
        Err(error) => panic!("{statement}: {error}"),
    }
}

fn refused() -> Result<(), String> {
    Err(REFUSED.to_owned())
}
