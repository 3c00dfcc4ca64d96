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

    schedules(&up).await;

    let added = up.command(&["nats", "add-user", "shop", "--role", "producer", "--queue", "orders"]).await;
    assert!(added.contains("_INBOX.shop") && added.contains("nats-server knows it"), "{added}");
    let shop = up.user("shop").connect().await;
    let stored = jobs::publish(&shop, "jobs.orders.new", &[("Nats-Msg-Id", "orders.new:one")], "{}").await.unwrap();
    assert_eq!(stored["stream"], "JOBS");
    up.stop().await;
}

async fn schedules(up: &Up) {
    let cron = "30 2 * * *";
    let preview =
        ["jobs", "schedules", "preview", cron, "--time-zone", "Europe/Berlin", "--after", "2026-10-24T12:00:00Z"];
    let preview = up.command(&preview).await;
    assert!(preview.starts_with("Sun 2026-10-25 02:30:00 CEST  2026-10-25T00:30:00Z\n"), "{preview}");
    assert_eq!(preview.lines().count(), 10);

    let create = ["jobs", "schedules", "create", "Nightly report", cron, "diagnostics", "echo", r#"{"n":2}"#];
    let created = up.command(&[&create[..], &["--time-zone", "Europe/Berlin", "--overlap", "skip"]].concat()).await;
    assert!(created.contains("Europe/Berlin") && created.contains("SKIP") && created.contains("due"), "{created}");
    let (_, complaint) = up.failing(&create).await;
    assert!(complaint.contains("name_taken"), "{complaint}");
    let wrong = ["jobs", "schedules", "create", "x", "61 * * * *", "q", "k", "--jitter-ms", "9999999"];
    let (_, complaint) = up.failing(&wrong).await;
    assert!(complaint.contains("/cron") && complaint.contains("/jitterMs"), "{complaint}");

    let name = "Nightly report";
    let update = ["jobs", "schedules", "update", name, "--cron", "0 4 * * *", "--time-zone", "", "--json"];
    let updated: Value = serde_json::from_str(&up.command(&update).await).unwrap();
    assert_eq!((&updated["cron"], &updated["timeZone"]), (&"0 4 * * *".into(), &"UTC".into()));
    let watched = up.command(&["jobs", "schedules", "run-now", name, "--watch"]).await;
    assert!(watched.contains("SUCCEEDED") && watched.contains(r#"{"n":2}"#), "{watched}");
    up.command(&["jobs", "schedules", "pause", name]).await;
    let listed = up.command(&["jobs", "schedules", "list", "--queue", "diagnostics"]).await;
    assert!(listed.contains(name) && listed.contains("paused"), "{listed}");
    let resumed = up.command(&["jobs", "schedules", "resume", updated["id"].as_str().unwrap()]).await;
    assert!(resumed.contains("T04:00:00Z"), "{resumed}");
    up.command(&["jobs", "schedules", "delete", name]).await;
    let (_, complaint) = up.failing(&["jobs", "schedules", "show", name]).await;
    assert!(complaint.contains("no schedule"), "{complaint}");
}
