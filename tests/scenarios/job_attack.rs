//! A producer that may submit to one queue can neither add to, remove from nor read another, nor a schedule, nor the stream as a
//! whole: what it is not given, and what the stream refuses to whoever may write into it.

use platform_tests::{Setup, jobs, wire::Wire};
use serde_json::json;

/// What it is not given.
const FOREIGN: &[&str] = &[
    "jobs.other.order",
    "jobs.other.order.high",
    "due.shop.order",
    "due.other.order",
    "schedules.job.shop.order.x",
    "schedules.retry.jobs.other.order.x",
    "schedules.x",
    "joblog.jobs",
    "live.jobs.x",
    "dlq.jobs.shop.order",
    "work.shop.order",
    "work-cancel.x",
    "$JS.API.STREAM.INFO.JOBS",
    "$JS.API.STREAM.PURGE.JOBS",
    "$JS.API.STREAM.DELETE.JOBS",
    "$JS.API.STREAM.UPDATE.JOBS",
    "$JS.API.STREAM.MSG.GET.JOBS",
    "$JS.API.STREAM.MSG.DELETE.JOBS",
    "$JS.API.DIRECT.GET.JOBS",
    "$JS.API.DIRECT.GET.JOBS.jobs.shop.order",
    "$JS.API.CONSUMER.CREATE.JOBS.evil",
    "$JS.API.CONSUMER.MSG.NEXT.JOBS.normal_other",
    "$JS.API.CONSUMER.MSG.NEXT.JOBS.normal_shop",
    "$JS.API.CONSUMER.PAUSE.JOBS.normal_other",
    "$JS.ACK.JOBS.normal_other.1.1.1.1.1",
];

/// What the stream refuses: each would reach beyond the one message.
const CONTROL: &[(&str, &str)] = &[
    ("Nats-Rollup", "all"),
    ("Nats-Rollup", "sub"),
    ("Nats-TTL", "1s"),
    ("Nats-Schedule", "@at 2020-01-01T00:00:00Z"),
    ("Nats-Schedule-Target", "jobs.other.order"),
    ("Nats-Scheduler", "schedules.x"),
    ("Nats-Stream-Source", "SCHEDULES 1 due.> jobs.> due.shop.order"),
    ("Nats-Expected-Stream", "OTHER"),
];

#[tokio::test]
async fn a_producer_limited_to_one_queue_reaches_nothing_else() {
    let platform = Setup::new().own_servers().start().await;
    platform.admit_with(&[("shop", subjects::broker::producer("shop", Some("shop")))]).await;
    let ops = platform.user("ops").connect().await;
    let before = jobs::publish(&ops, "jobs.other.order", &[("Nats-Msg-Id", "other.order:mine")], "{}").await.unwrap();
    assert!(before["error"].is_null(), "{before}");
    let user = platform.user("shop");
    let mut wire: Wire = user.wire().await;
    let shop = user.connect().await;

    for subject in FOREIGN {
        let said = wire.publish(subject, Some("_INBOX.shop.x"), b"{}").await.unwrap();
        assert!(said.iter().any(|line| line.to_lowercase().contains("permissions violation")), "{subject}: {said:?}");
    }
    for subject in ["jobs.>", "jobs.shop.>", "work.>", "live.>", "due.>", "_INBOX.>", "work-cancel.*"] {
        let said = wire.subscribe(subject, None).await.unwrap();
        assert!(said.iter().any(|line| line.to_lowercase().contains("permissions violation")), "{subject}: {said:?}");
    }
    for (name, value) in CONTROL {
        let answer = jobs::publish(&shop, "jobs.shop.order", &[(*name, *value)], "{}").await.unwrap();
        let harmless = *name == "Nats-Schedule-Target" && answer["error"].is_null();
        assert!(harmless || !answer["error"].is_null(), "{name}: {value}: {answer}");
    }

    // Its own queue is open to it, and a job of a forged name is given up as what it is.
    let admin = platform.admin().await;
    let forged = [("Nats-Msg-Id", "other.order:forged"), ("Job-Id", "mine"), ("Job-Attempt", "9")];
    let stored = jobs::publish(&shop, "jobs.shop.order", &forged, "{}").await.unwrap();
    assert!(stored["error"].is_null(), "{stored}");
    let own = jobs::publish(&shop, "jobs.shop.order", &[("Nats-Msg-Id", "shop.order:own")], "{}").await.unwrap();
    assert!(own["error"].is_null(), "{own}");
    platform_tests::wait::until("the forged one is a dead letter", async || {
        let letters = admin.get("/api/v1/dead-letters?queue=shop").await.json(200);
        letters["items"].as_array().unwrap().iter().any(|letter| letter["reason"] == "UNDECODABLE").then_some(())
    })
    .await;
    assert_eq!(jobs::job_in(&admin, "own", "WAITING").await["queue"], "shop");
    let untouched = jobs::job_in(&admin, "mine", "WAITING").await;
    assert_eq!((&untouched["queue"], &untouched["attempt"]), (&json!("other"), &json!(1)));
}

#[tokio::test]
async fn what_a_job_says_of_its_own_place_takes_no_other_out_of_its_queue() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let producer = platform.user("producer").connect().await;
    admin.put("/api/v1/queues/held", &json!({})).await.json(200);
    admin.post("/api/v1/queues/held/pause", &json!({})).await.json(200);
    let victim = [("Nats-Msg-Id", "held.order:victim")];
    let stored = jobs::publish(&producer, "jobs.held.order", &victim, "{}").await.unwrap();
    let place = stored["seq"].as_u64().expect("acknowledged").to_string();

    // Nobody can run it, so it is taken out by its place.
    let forged = [("Nats-Sequence", place.as_str()), ("Nats-Subject", "jobs.held.order")];
    let stored = jobs::publish(&producer, "jobs.caf\u{e9}.order", &forged, "{}").await.unwrap();
    assert!(stored["error"].is_null(), "{stored}");
    platform_tests::wait::until("it is given up", async || {
        let letters = admin.get("/api/v1/dead-letters?queue=unnamed").await.json(200);
        (letters["items"].as_array().unwrap().len() == 1).then_some(())
    })
    .await;

    admin.post("/api/v1/queues/held/resume", &json!({})).await.json(200);
    let untouched = jobs::job_in(&admin, "victim", "WAITING").await;
    assert_eq!(untouched["attempt"], 1, "{untouched}");
}
