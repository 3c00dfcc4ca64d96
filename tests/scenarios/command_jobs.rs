//! `trunkline jobs` and `trunkline nats add-user`, as a person at a terminal has them.

use platform_tests::{command::Up, jobs};
use serde_json::Value;

#[tokio::test]
async fn jobs_are_submitted_watched_given_up_and_put_back_from_the_command_line() {
    let up = Up::start(&[]).await;

    let watched = up.command(&["jobs", "submit", "diagnostics", "echo", r#"{"n":1}"#, "--watch"]).await;
    assert!(watched.contains("SUCCEEDED") && watched.contains(r#"result: {"n":1}"#), "{watched}");
    let fails = [
        "jobs",
        "submit",
        "diagnostics",
        "fail",
        r#"{"attempts":9}"#,
        "--max-attempts",
        "1",
        "--key",
        "bad",
        "--watch",
    ];
    let watched = up.command(&fails).await;
    assert!(watched.contains("DEAD_LETTER"), "{watched}");
    let listed = up.command(&["jobs", "list", "--json"]).await;
    let ids: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(ids.iter().any(|job| job["id"] == "bad"), "{listed}");
    let shown = up.command(&["jobs", "show", "bad"]).await;
    assert!(shown.contains("fails as it was asked to") && shown.contains("DEAD_LETTER"), "{shown}");
    platform_tests::wait::until("the letter is listed", async || {
        up.command(&["jobs", "dead-letters", "list"]).await.contains("EXHAUSTED").then_some(())
    })
    .await;
    up.command(&["jobs", "dead-letters", "replay", "bad"]).await;
    up.command(&["jobs", "watch", "bad"]).await;
    let queues = up.command(&["jobs", "queues", "list"]).await;
    assert!(queues.contains("diagnostics"), "{queues}");

    up.command(&["jobs", "queues", "pause", "diagnostics"]).await;
    up.command(&["jobs", "submit", "diagnostics", "echo", "--key", "held"]).await;
    let told = up.command(&["doctor"]).await;
    assert!(told.contains("the queue diagnostics is paused and 1 jobs wait"), "{told}");
    up.command(&["jobs", "queues", "resume", "diagnostics"]).await;
    up.command(&["jobs", "watch", "held"]).await;
    let put = ["jobs", "queues", "put", "orders", "--rate", "2.5", "--concurrency", "7"];
    let put = up.command(&put).await;
    assert!(put.contains("ratePerSecond") && put.contains("2.5"), "{put}");

    let added = up.command(&["nats", "add-user", "shop", "--role", "producer", "--queue", "orders"]).await;
    assert!(added.contains("_INBOX.shop") && added.contains("nats-server knows it"), "{added}");
    let shop = up.user("shop").connect().await;
    let stored = jobs::publish(&shop, "jobs.orders.new", &[("Nats-Msg-Id", "orders.new:one")], "{}").await.unwrap();
    assert_eq!(stored["stream"], "JOBS");
    up.stop().await;
}
