//! The servers come up from nothing, take the declared streams, survive kills, and leave nothing behind.

use std::time::Duration;

use serde_json::Value;
use sqlx::Connection as _;
use subjects::broker::PROVISION;
use trunkline::platform::Signal;
use trunkline::platform::folders;
use trunkline::platform::nats::client;
use trunkline::platform::nats::streams::Declaration;
use trunkline::platform::servers::{Options, Servers};

async fn servers(accounts: usize) -> Servers {
    let data = std::env::temp_dir().join(format!("trunkline-test-{}-{accounts}", std::process::id()));
    Servers::start(Options::temporary(data, folders::default_cache().expect("HOME is set"), accounts))
        .await
        .expect("servers start")
}

#[tokio::test]
async fn servers_take_the_declaration_once_and_survive_a_kill() {
    let servers = servers(3).await;
    for account in servers.accounts() {
        let client = client::connect(servers.nats_url(), &account.key_file(PROVISION), PROVISION).await.unwrap();
        let declaration = Declaration::committed().with_bytes_max(64 * 1024 * 1024);

        let first = declaration.apply(&client).await.unwrap();
        let second = declaration.apply(&client).await.unwrap();

        assert_eq!(first.0.len(), declared().0 + declared().1, "each stream and consumer is made: {first:?}");
        assert!(second.0.is_empty(), "nothing is left to do: {second:?}");
    }

    for process in [servers.nats().unwrap(), servers.postgres().unwrap()] {
        let before = process.state();
        process.signal(Signal::KILL).await.unwrap();
        let mut changes = process.changes();
        tokio::time::timeout(
            Duration::from_mins(1),
            changes.wait_for(|state| state.ready && state.starts > before.starts),
        )
        .await
        .expect("ready again")
        .unwrap();
    }
    let mut connection =
        sqlx::PgConnection::connect(servers.databases().superuser_url("postgres").expose()).await.unwrap();
    connection.ping().await.unwrap();
    connection.close().await.unwrap();

    let data = servers.data().to_owned();
    servers.stop().await.unwrap();
    assert!(!data.exists(), "a temporary platform removes its folder");
}

#[tokio::test]
async fn a_second_start_on_the_same_folder_is_refused() {
    let servers = servers(1).await;

    let error = Servers::start(Options::temporary(servers.data().to_owned(), folders::default_cache().unwrap(), 1))
        .await
        .err()
        .unwrap();

    assert!(error.to_string().contains("another trunkline uses the data folder"), "{error:#}");
}

#[tokio::test]
async fn a_declaration_that_would_lose_messages_is_refused() {
    let servers = servers(2).await;
    let client =
        client::connect(servers.nats_url(), &servers.accounts()[0].key_file(PROVISION), PROVISION).await.unwrap();
    Declaration::committed().with_bytes_max(64 * 1024 * 1024).apply(&client).await.unwrap();

    let smaller = Declaration::committed().with_bytes_max(1024 * 1024).apply(&client).await.unwrap_err();
    let larger = Declaration::committed().with_bytes_max(65 * 1024 * 1024).apply(&client).await.unwrap();

    assert!(format!("{smaller:#}").contains("max_bytes would shrink"), "{smaller:#}");
    // `SCHEDULES` has no bound.
    assert_eq!(larger.0.len(), declared().0 - 1, "each stream grows: {larger:?}");
}

/// How many streams and consumers are declared.
fn declared() -> (usize, usize) {
    let declaration: Value = serde_json::from_str(include_str!("../../nats/streams.json")).expect("it is JSON");
    let streams = declaration["streams"].as_array().expect("a list");
    let consumers = |stream: &Value| stream["consumers"].as_array().map_or(0, Vec::len);
    (streams.len(), streams.iter().map(consumers).sum())
}
