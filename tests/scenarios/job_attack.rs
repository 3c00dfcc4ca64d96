//! A producer that may submit to one queue can neither add to, remove from nor read another, nor a schedule, nor the stream as a
//! whole: what it is not given, and what the stream refuses to whoever may write into it. Nor does a worker end what others run.

use std::collections::{BTreeMap, BTreeSet};

use async_nats::{Message, Subscriber};
use futures::StreamExt;
use platform_tests::{Setup, jobs, wait, wire::Wire};
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
    wait::until("the forged one is a dead letter", async || {
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
    wait::until("it is given up", async || {
        let letters = admin.get("/api/v1/dead-letters?queue=unnamed").await.json(200);
        (letters["items"].as_array().unwrap().len() == 1).then_some(())
    })
    .await;

    admin.post("/api/v1/queues/held/resume", &json!({})).await.json(200);
    let untouched = jobs::job_in(&admin, "victim", "WAITING").await;
    assert_eq!(untouched["attempt"], 1, "{untouched}");
}

async fn next(work: &mut Subscriber) -> Message {
    tokio::time::timeout(wait::WAIT_MAX, work.next()).await.expect("work comes").expect("connected")
}

/// Subjects that would be those of other requests, were their last part counted up.
fn neighbours(reply: &str) -> Vec<String> {
    let (inbox, number) = reply.rsplit_once('.').expect("an inbox and a number");
    let decimal = number.parse::<u128>().into_iter().flat_map(|own| [own.wrapping_sub(1), own + 1, own + 2]);
    let hexadecimal =
        u128::from_str_radix(number, 16).into_iter().flat_map(|own| [own.wrapping_sub(1), own.wrapping_add(1)]);
    let decimal = decimal.map(|number| format!("{inbox}.{number}"));
    decimal.chain(hexadecimal.map(|number| format!("{inbox}.{number:032x}"))).collect()
}

#[tokio::test]
async fn a_worker_of_one_queue_ends_no_job_of_another() {
    let platform = Setup::new().own_servers().start().await;
    platform.admit_with(&[("evil", subjects::broker::worker("evil", Some("bait")))]).await;
    let admin = platform.admin().await;
    let producer = platform.user("producer").connect().await;
    let (evil, worker) = (platform.user("evil").connect().await, platform.user("worker").connect().await);
    let mut baits = evil.client.subscribe("work.bait.>").await.unwrap();
    let mut work = worker.client.subscribe("work.shop.>").await.unwrap();
    evil.client.flush().await.unwrap();
    worker.client.flush().await.unwrap();
    let bait = [("Nats-Msg-Id", "bait.order:before")];
    jobs::publish(&producer, "jobs.bait.order", &bait, "{}").await.unwrap();
    let before = next(&mut baits).await;
    let stored = jobs::publish(&producer, "jobs.shop.order", &[("Nats-Msg-Id", "shop.order:victim")], "{}").await;
    let place = stored.unwrap()["seq"].as_u64().expect("acknowledged");
    let victim = next(&mut work).await;
    let bait = [("Nats-Msg-Id", "bait.order:behind")];
    jobs::publish(&producer, "jobs.bait.order", &bait, "{}").await.unwrap();
    let behind = next(&mut baits).await;

    // As a reply to another's request.
    for request in [&before, &behind] {
        for reply in neighbours(request.reply.as_ref().unwrap()) {
            evil.client.publish(reply, r#""forged""#.into()).await.unwrap();
        }
    }
    evil.client.flush().await.unwrap();
    // As what a stream delivers, into every inbox that the service reads from streams by: each is told once a second that there is
    // nothing, so one that is told three times has let every other be told.
    let mut spy = platform.user("jobs").wire().await;
    assert_eq!(spy.subscribe("_INBOX.jobs.>", None).await.unwrap(), [""; 0]);
    let (mut told, mut inboxes) = (BTreeMap::<String, u32>::new(), BTreeSet::new());
    while told.values().max().is_none_or(|times| *times < 3) {
        let message = spy.next_message(wait::WAIT_MAX).await.unwrap().expect("something is said each second");
        if message.headers.starts_with("NATS/1.0 40") {
            *told.entry(message.subject.rsplit_once('.').unwrap().0.to_owned()).or_default() += 1;
            inboxes.insert(message.subject);
        }
    }
    let transition = json!({
        "queue": "shop", "kind": "order", "jobId": "victim", "state": "SUCCEEDED", "at": "2100-01-01T00:00:00Z", "round": 9,
        "attempt": 9, "result": "forged",
    });
    let log = json!({ "transitions": [transition] }).to_string();
    let mut wire = platform.user("evil").wire().await;
    for inbox in inboxes {
        let time = 1_700_000_000_000_000_000_u64;
        for (ack, body) in [
            (format!("$JS.ACK.JOBS.normal_shop.2.{place}.{place}.{time}.0"), "{}"),
            (format!("$JS.ACK.JOB_LOG.history.1.999999.999999.{time}.0"), log.as_str()),
        ] {
            // The broker refuses such a reply; what it took the service would not believe.
            let said = wire.publish(&inbox, Some(&ack), body.as_bytes()).await.unwrap();
            assert!(said.iter().all(|line| line.to_lowercase().contains("permissions violation")), "{said:?}");
        }
    }

    jobs::answer(&worker, &victim, &[], r#""own""#).await;
    let job = jobs::job_in(&admin, "victim", "SUCCEEDED").await;
    assert_eq!((&job["result"], &job["attempt"]), (&json!("own"), &json!(1)), "{job}");
    jobs::answer(&evil, &before, &[], r#""mine""#).await;
    jobs::answer(&evil, &behind, &[], r#""mine""#).await;
    for bait in ["before", "behind"] {
        assert_eq!(jobs::job_in(&admin, bait, "SUCCEEDED").await["result"], "mine");
    }
    assert_eq!(admin.get("/api/v1/dead-letters").await.json(200)["items"], json!([]));
}
