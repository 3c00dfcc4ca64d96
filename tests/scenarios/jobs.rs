//! Jobs from submission to their end: by producers and workers in any language, by people over HTTP.

use std::time::Duration;

use futures::StreamExt;
use platform_tests::{
    Platform, Setup,
    broker::Broker,
    http::{Http, Reply},
    jobs,
    jobs::Watch,
    wait,
};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Connection;

/// Serves kinds of a queue in the background: `answer` says with which headers and body.
fn serve(
    worker: &Broker,
    mut work: async_nats::Subscriber,
    answer: impl Fn(&Value) -> (Vec<(&'static str, &'static str)>, String) + Send + 'static,
) -> tokio::task::JoinHandle<()> {
    let worker = worker.clone();
    #[expect(clippy::disallowed_methods, reason = "a worker of the test's own")]
    tokio::spawn(async move {
        while let Some(message) = work.next().await {
            let arguments = serde_json::from_slice(&message.payload).expect("JSON");
            let (headers, body) = answer(&arguments);
            jobs::answer(&worker, &message, &headers, &body).await;
        }
    })
}

async fn worker(platform: &Platform, subject: &str) -> (Broker, async_nats::Subscriber) {
    let worker = platform.user("worker").connect().await;
    let work = worker.client.queue_subscribe(subject.to_owned(), "workers".into()).await.unwrap();
    worker.client.flush().await.unwrap();
    (worker, work)
}

async fn next(work: &mut async_nats::Subscriber) -> async_nats::Message {
    tokio::time::timeout(wait::WAIT_MAX, work.next()).await.expect("work comes").expect("connected")
}

async fn queue(admin: &Http, name: &str) -> Value {
    let queues = admin.get("/api/v1/queues").await.json(200);
    queues["items"].as_array().unwrap().iter().find(|queue| queue["name"] == name).cloned().unwrap_or_default()
}

#[tokio::test]
async fn a_job_published_by_anybody_is_done_by_a_worker_in_any_language() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let producer = platform.user("producer").connect().await;
    let (worker, mut work) = worker(&platform, "work.shop.>").await;

    let headers = [("Nats-Msg-Id", "shop.order:a-1"), ("Job-Max-Attempts", "3"), ("Shop", "7")];
    let stored = jobs::publish(&producer, "jobs.shop.order", &headers, r#"{"price":1.50}"#).await.unwrap();
    let again = jobs::publish(&producer, "jobs.shop.order", &headers, r#"{"price":1.50}"#).await.unwrap();

    assert_eq!((&stored["stream"], &again["duplicate"]), (&json!("JOBS"), &json!(true)));
    let request = next(&mut work).await;
    assert_eq!((request.subject.as_str(), request.payload.as_ref()), ("work.shop.order", &br#"{"price":1.50}"#[..]));
    let header = |name: &str| request.headers.as_ref().unwrap().get(name).unwrap().to_string();
    assert_eq!(
        (header("Job-Id"), header("Job-Attempt"), header("Job-Timeout-Ms")),
        ("a-1".into(), "1".into(), "60000".into())
    );
    jobs::answer(&worker, &request, &[("Job-Status", "running"), ("Job-Progress", r#"{"percent":50}"#)], "").await;
    let job = wait::until("the job's progress", async || {
        let job = admin.get("/api/v1/jobs/a-1").await;
        (job.status == 200).then(|| job.json(200)).filter(|job| job["progress"]["percent"] == 50)
    })
    .await;
    assert_eq!(job["state"], "RUNNING");
    jobs::answer(&worker, &request, &[("Job-Status", "running"), ("Job-Progress", r#"{"percent":75}"#)], "").await;
    let job = wait::until("what the worker said last", async || {
        let job = admin.get("/api/v1/jobs/a-1").await.json(200);
        (job["progress"]["percent"] == 75).then_some(job)
    })
    .await;
    assert_eq!(job["state"], "RUNNING");
    assert!(job["args"]["price"].is_number() && job["startedAt"].is_string(), "{job}");
    jobs::answer(&worker, &request, &[], r#"{"paid":true}"#).await;
    let job = jobs::job_in(&admin, "a-1", "SUCCEEDED").await;
    assert_eq!(
        (&job["result"], &job["attempt"], &job["maxAttempts"]),
        (&json!({ "paid": true }), &json!(1), &json!(3))
    );
    assert_eq!(job["queue"], "shop");

    let listed = admin.get("/api/v1/jobs?queue=shop&kind=order&state=SUCCEEDED").await.json(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");
    wait::until("its kind is listed", async || {
        let kinds = admin.get("/api/v1/job-kinds").await.json(200);
        let is_it = |kind: &Value| kind["queue"] == "shop" && kind["kind"] == "order";
        kinds["items"].as_array().unwrap().iter().any(is_it).then_some(())
    })
    .await;
    assert_eq!(queue(&admin, "shop").await["pending"], 0);
}

#[tokio::test]
async fn a_worker_says_how_it_failed() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let (broker, work) = worker(&platform, "work.calls.*").await;
    let _serving = serve(&broker, work, |arguments| {
        let failed = ("Nats-Service-Error-Code", "500");
        match arguments["how"].as_str().unwrap() {
            "permanent" => {
                (vec![failed, ("Nats-Service-Error", "no such number"), ("Job-Permanent", "true")], String::new())
            }
            "later" => (vec![failed, ("Nats-Service-Error", "busy"), ("Job-Retry-After-Ms", "60000")], String::new()),
            _ => (vec![], "no JSON".to_owned()),
        }
    });
    let submit = |how: &'static str| json!({ "queue": "calls", "kind": "dial", "args": { "how": how }, "maxAttempts": 2, "backoffBaseMs": 50 });

    let permanent = jobs::submit(&admin, &submit("permanent")).await;
    let later = jobs::submit(&admin, &submit("later")).await;
    let nonsense = jobs::submit(&admin, &submit("nonsense")).await;

    let job = jobs::job_in(&admin, &permanent, "DEAD_LETTER").await;
    assert_eq!((&job["attempt"], &job["errors"][0]["message"]), (&json!(1), &json!("no such number")));
    let letter = wait::until("the letter", async || {
        let letter = admin.get(&format!("/api/v1/dead-letters/{permanent}")).await;
        (letter.status == 200).then(|| letter.json(200))
    })
    .await;
    assert_eq!(letter["reason"], "PERMANENT");
    let job = jobs::job_in(&admin, &later, "RETRY_SCHEDULED").await;
    assert_eq!(job["errors"][0]["message"], "busy");
    // Run by hand it does not wait for its minute.
    admin.post(&format!("/api/v1/jobs/{later}/retry"), &json!({})).await.json(200);
    let job = jobs::job_in(&admin, &later, "DEAD_LETTER").await;
    assert_eq!(job["attempt"], 2);
    let job = jobs::job_in(&admin, &nonsense, "DEAD_LETTER").await;
    assert_eq!(job["errors"][0]["message"], "the worker's answer is no JSON");
}

#[tokio::test]
async fn a_kind_that_nobody_serves_waits_until_somebody_does_and_spends_no_attempt() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;

    let id = jobs::submit(&admin, &json!({ "queue": "future", "kind": "task", "maxAttempts": 1 })).await;
    let job = jobs::job_in(&admin, &id, "WAITING").await;
    assert_eq!((&job["attempt"], &job["errors"]), (&json!(1), &json!([])));
    let (broker, work) = worker(&platform, "work.future.task").await;
    let _serving = serve(&broker, work, |_| (vec![], String::new()));

    let job = jobs::job_in(&admin, &id, "SUCCEEDED").await;
    assert_eq!(job["attempt"], 1);
}

#[tokio::test]
async fn a_job_is_cancelled_while_it_waits_and_while_it_runs() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let ops = platform.user("ops").connect().await;
    let mut watch = Watch::open(&ops).await;
    let empty = json!({});

    let later = json!({ "queue": "diagnostics", "kind": "echo", "runAt": "2030-01-01T00:00:00Z", "args": [1] });
    let waits = jobs::submit(&admin, &later).await;
    let job = admin.post(&format!("/api/v1/jobs/{waits}/cancel"), &empty).await.json(200);
    assert_eq!(job["state"], "CANCELLED");
    admin.post(&format!("/api/v1/jobs/{waits}/cancel"), &empty).await.problem(409, "job_ended");

    let runs =
        jobs::submit(&admin, &json!({ "queue": "diagnostics", "kind": "sleep", "args": { "ms": 60_000 } })).await;
    watch.until(&runs, "RUNNING").await;
    admin.post(&format!("/api/v1/jobs/{runs}/cancel"), &empty).await.json(200);
    watch.until(&runs, "CANCELLED").await;
    jobs::job_in(&admin, &runs, "CANCELLED").await;
    platform.audit_entry(&admin, "jobs.job.cancelled", |entry| entry["target"]["id"] == runs.as_str()).await;

    // What was cancelled can be run after all.
    admin.post(&format!("/api/v1/jobs/{waits}/retry"), &empty).await.json(200);
    let job = jobs::job_in(&admin, &waits, "SUCCEEDED").await;
    assert_eq!(job["result"], json!([1]));
    admin.post(&format!("/api/v1/jobs/{waits}/retry"), &empty).await.problem(409, "not_retryable");
    admin.get("/api/v1/jobs/nothing").await.problem(404, "job_not_found");
}

#[tokio::test]
async fn a_delayed_job_begins_at_its_time_and_not_before() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let ops = platform.user("ops").connect().await;
    let mut watch = Watch::open(&ops).await;

    // Given by the platform's own clock: what the broker's schedules go by.
    let first = jobs::submit(&admin, &json!({ "queue": "diagnostics", "kind": "echo" })).await;
    let now = watch.until(&first, "SUCCEEDED").await["at"].as_str().unwrap().to_owned();
    let mut at = subjects::Timestamp::parse(&now).unwrap();
    at.seconds += 2;
    let due = serde_json::to_value(at).unwrap();
    let id = jobs::submit(&admin, &json!({ "queue": "diagnostics", "kind": "echo", "runAt": due })).await;

    let running = watch.until(&id, "RUNNING").await;
    let started = subjects::Timestamp::parse(running["startedAt"].as_str().unwrap()).unwrap();
    assert!((started.seconds, started.nanos) >= (at.seconds, at.nanos), "{running} not before {due}");
    let job = jobs::job_in(&admin, &id, "SUCCEEDED").await;
    assert!(job["createdAt"].as_str().unwrap() < job["startedAt"].as_str().unwrap(), "{job}");
}

#[tokio::test]
async fn a_held_queue_gives_nothing_and_then_the_urgent_first() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let empty = json!({});
    let declared = admin.put("/api/v1/queues/desk", &json!({ "concurrency": 1, "maxAttempts": 4 })).await.json(200);
    assert_eq!((&declared["concurrency"], &declared["maxAttempts"]), (&json!(1), &json!(4)));
    assert_eq!(admin.post("/api/v1/queues/desk/pause", &empty).await.json(200)["paused"], true);
    let (broker, mut work) = worker(&platform, "work.desk.paper").await;

    for (priority, n) in [("LOW", 1), ("NORMAL", 2), ("HIGH", 3), ("HIGH", 4)] {
        jobs::submit(&admin, &json!({ "queue": "desk", "kind": "paper", "args": n, "priority": priority })).await;
    }
    wait::until("all of them wait", async || (queue(&admin, "desk").await["pending"] == 4).then_some(())).await;
    let held = queue(&admin, "desk").await;
    assert_eq!((&held["paused"], &held["running"]), (&json!(true), &json!(0)));
    assert_eq!(admin.post("/api/v1/queues/desk/resume", &empty).await.json(200)["paused"], false);

    let mut order = Vec::new();
    let is_urgent = |n: &str| ["3", "4"].contains(&n);
    for _ in 0..4 {
        let request = next(&mut work).await;
        order.push(String::from_utf8(request.payload.to_vec()).unwrap());
        // Of each lane one lies ready, and no more: a second urgent one waits behind the first. What comes next is decided then.
        let behind = u64::from(!order.iter().any(|n| is_urgent(n)));
        wait::until("the next of each lane lies ready", async || {
            (queue(&admin, "desk").await["pending"].as_u64()? <= behind).then_some(())
        })
        .await;
        // One at a time: nothing comes before this is answered.
        assert!(tokio::time::timeout(Duration::from_millis(50), work.next()).await.is_err());
        jobs::answer(&broker, &request, &[], "").await;
    }
    // The lanes are asked at once, so the very first may be any; behind it the urgent come first.
    let rest: Vec<_> = order.iter().skip(1).filter(|n| is_urgent(n.as_str())).collect();
    assert_eq!(rest.len(), order.iter().skip(1).take(rest.len()).filter(|n| rest.contains(n)).count(), "{order:?}");
    admin.post("/api/v1/queues/nothing/pause", &empty).await.problem(404, "queue_not_found");
    admin.put("/api/v1/queues/diagnostics", &empty).await.problem(422, "validation_failed");
}

#[tokio::test]
async fn a_failing_dependency_with_long_pauses_does_not_stop_the_other_jobs_of_its_queue() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    admin
        .put(
            "/api/v1/queues/mixed",
            &json!({ "concurrency": 2, "backoffBaseMs": 3_600_000, "backoffMaxMs": 3_600_000 }),
        )
        .await
        .json(200);
    let (broker, work) = worker(&platform, "work.mixed.*").await;
    let _serving = serve(&broker, work, |arguments| {
        let failed = arguments["fails"].as_bool().unwrap().then_some(("Nats-Service-Error-Code", "503"));
        (failed.into_iter().collect(), String::new())
    });

    let batch = |fails: bool| json!({ "jobs": vec![json!({ "queue": "mixed", "kind": "call", "args": { "fails": fails } }); 50] });
    admin.post("/api/v1/jobs/batch", &batch(true)).await.json(202);
    let good = admin.post("/api/v1/jobs/batch", &batch(false)).await.json(202);

    for result in good["results"].as_array().unwrap() {
        jobs::job_in(&admin, result["jobId"].as_str().unwrap(), "SUCCEEDED").await;
    }
    wait::until("the others wait for their time", async || {
        let waiting = admin.get("/api/v1/jobs?queue=mixed&state=RETRY_SCHEDULED&pageSize=100").await.json(200);
        (waiting["items"].as_array().unwrap().len() == 50).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_same_key_is_the_same_job_and_two_queues_may_share_one() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let job = |kind: &str| json!({ "queue": "diagnostics", "kind": kind, "idempotencyKey": "one" });

    let first = admin.post("/api/v1/jobs", &job("echo")).await.json(202);
    let second = admin.post("/api/v1/jobs", &job("echo")).await.json(202);
    admin.post("/api/v1/jobs", &job("sleep")).await.json(202);

    assert_eq!(
        (&first["duplicate"], &second["duplicate"], &second["jobId"]),
        (&json!(false), &json!(true), &json!("one"))
    );
    let ambiguous = admin.get("/api/v1/jobs/one").await.problem(409, "ambiguous_job");
    assert_eq!(ambiguous["errors"].as_array().unwrap().len(), 2);
    assert_eq!(admin.get("/api/v1/jobs/one?kind=sleep").await.json(200)["kind"], "sleep");
}

#[tokio::test]
async fn the_key_of_a_job_may_come_as_a_header_through_every_door() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let ops = platform.user("ops").connect().await;
    let bearer = format!("Bearer {}", platform.admin_token().await);
    let job = json!({ "queue": "diagnostics", "kind": "echo" });
    let post = async |key: &str| {
        Reply::of(admin.request(Method::POST, "/api/v1/jobs").header("Idempotency-Key", key).json(&job)).await
    };
    let request = async |key: &str| {
        let headers = [("Authorization", bearer.as_str()), ("Idempotency-Key", key)];
        ops.send("svc.jobs.v1.submit", &headers, job.to_string().into()).await
    };

    let (first, second, third) = (post("order-7").await, post("order-7").await, request("order-7").await);

    assert_eq!(first.json(202), json!({ "jobId": "order-7", "duplicate": false }));
    assert_eq!(second.json(202), json!({ "jobId": "order-7", "duplicate": true }));
    assert_eq!(third.json(), json!({ "jobId": "order-7", "duplicate": true }));
    let long = "k".repeat(256);
    post(&long).await.problem(400, "invalid_idempotency_key");
    request(&long).await.problem(400, "invalid_idempotency_key");
}

#[tokio::test]
async fn a_stop_gives_unfinished_jobs_back_without_spending_an_attempt() {
    let platform = Setup::new().set("drain_timeout_ms", "3000").start().await;
    let admin = platform.admin().await;
    let ops = platform.user("ops").connect().await;
    let mut watch = Watch::open(&ops).await;
    let sleeps = json!({ "queue": "diagnostics", "kind": "sleep", "args": { "ms": 8_000 }, "maxAttempts": 1 });
    let id = jobs::submit(&admin, &sleeps).await;
    watch.until(&id, "RUNNING").await;

    let jobs_service = platform.process("jobs", 1);
    jobs_service.stop().await.unwrap();
    jobs_service.start().await.unwrap();
    jobs_service.ready(wait::WAIT_MAX).await.unwrap();

    let job = jobs::job_in(&admin, &id, "SUCCEEDED").await;
    assert_eq!((&job["attempt"], &job["errors"]), (&json!(1), &json!([])));
}

#[tokio::test]
async fn what_was_taken_and_had_not_begun_when_its_runner_stopped_keeps_its_only_attempt() {
    let platform = Setup::new().set("drain_timeout_ms", "3000").start().await;
    let admin = platform.admin().await;
    // As many as run at once, and behind them some of another priority, which are taken all the same.
    let sleep = json!({ "queue": "diagnostics", "kind": "sleep", "args": { "ms": 20_000 }, "maxAttempts": 1 });
    let busy: Vec<Value> = (0..100).map(|_| sleep.clone()).collect();
    admin.post("/api/v1/jobs/batch", &json!({ "jobs": busy })).await.json(202);
    wait::until("they run", async || (queue(&admin, "diagnostics").await["running"] == 100).then_some(())).await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let echo = json!({ "queue": "diagnostics", "kind": "echo", "priority": "LOW", "maxAttempts": 1 });
        waiting.push(jobs::submit(&admin, &echo).await);
    }
    wait::until("all are taken", async || {
        let queue = queue(&admin, "diagnostics").await;
        (queue["running"].as_u64()? > 100 && queue["pending"] == 0).then_some(())
    })
    .await;

    let jobs_service = platform.process("jobs", 1);
    jobs_service.stop().await.unwrap();
    jobs_service.start().await.unwrap();
    jobs_service.ready(wait::WAIT_MAX).await.unwrap();

    for id in waiting {
        let job = jobs::job_in(&admin, &id, "SUCCEEDED").await;
        assert_eq!((&job["attempt"], &job["errors"]), (&json!(1), &json!([])), "{job}");
    }
}

#[tokio::test]
async fn a_job_is_held_while_the_ledger_cannot_be_asked_and_spends_no_attempt() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let producer = platform.user("producer").connect().await;
    let mut database = platform.superuser().await;
    let mut tx = database.begin().await.unwrap();
    sqlx::query("LOCK TABLE jobs.job_ids IN ACCESS EXCLUSIVE MODE").execute(&mut *tx).await.unwrap();
    let headers = [("Nats-Msg-Id", "diagnostics.echo:held"), ("Job-Unique", "true"), ("Job-Max-Attempts", "1")];

    jobs::publish(&producer, "jobs.diagnostics.echo", &headers, "{}").await.unwrap();
    wait::until("the ledger was asked in vain", async || {
        platform.logs().contains("The ledger cannot be asked").then_some(())
    })
    .await;
    tx.rollback().await.unwrap();

    let job = jobs::job_in(&admin, "held", "SUCCEEDED").await;
    assert_eq!((&job["attempt"], &job["errors"]), (&json!(1), &json!([])), "{job}");
}

#[tokio::test]
async fn a_job_of_a_new_store_has_nothing_of_the_one_that_had_its_id() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let producer = platform.user("producer").connect().await;
    let (worker, mut work) = worker(&platform, "work.anew.call").await;
    let mut database = platform.superuser().await;
    // What the history has of the former store, whichever place the job gets.
    for statement in [
        "INSERT INTO jobs.jobs (queue, kind, id, state, rank, round, attempt, max_attempts, args, progress, created_at, \
         finished_at, cancel_requested) SELECT 'anew', 'call', 'JOBS-' || place, 'CANCELLED', 9000000, 0, 5, 5, '\"former\"', \
         '1', now() - interval '1 day', now(), true FROM generate_series(1, 500) AS place",
        "INSERT INTO jobs.errors (queue, kind, id, round, attempt, at, message) \
         SELECT queue, kind, id, 0, 1, now(), 'former' FROM jobs.jobs WHERE queue = 'anew'",
    ] {
        sqlx::query(statement).execute(&mut database).await.unwrap();
    }

    let stored = jobs::publish(&producer, "jobs.anew.call", &[], r#""new""#).await.unwrap();
    let id = format!("JOBS-{}", stored["seq"]);
    let request = next(&mut work).await;
    let job = jobs::job_in(&admin, &id, "RUNNING").await;
    assert_eq!((&job["args"], &job["errors"], &job["attempt"]), (&json!("new"), &json!([]), &json!(1)), "{job}");
    assert!(job.get("progress").is_none() && job.get("finishedAt").is_none(), "{job}");
    assert_ne!(job["cancelRequested"], true, "{job}");
    jobs::answer(&worker, &request, &[], "").await;

    jobs::job_in(&admin, &id, "SUCCEEDED").await;
}

#[tokio::test]
async fn there_are_no_more_queues_than_may_be() {
    let platform = Setup::new().set("jobs.queues_max", "2").start().await;
    let admin = platform.admin().await;
    let producer = platform.user("producer").connect().await;
    let call = |queue: &str| json!({ "queue": queue, "kind": "call" });

    admin.put("/api/v1/queues/first", &json!({})).await.json(200);
    jobs::submit(&admin, &call("second")).await;
    jobs::submit(&admin, &call("first")).await;

    admin.post("/api/v1/jobs", &call("third")).await.problem(409, "too_many_queues");
    let batch = json!({ "jobs": [call("first"), call("third")] });
    admin.post("/api/v1/jobs/batch", &batch).await.problem(409, "too_many_queues");
    admin.put("/api/v1/queues/third", &json!({})).await.problem(409, "too_many_queues");
    let schedule = json!({ "name": "n", "cron": "0 0 1 1 *", "queue": "third", "kind": "call" });
    admin.post("/api/v1/schedules", &schedule).await.problem(409, "too_many_queues");
    jobs::publish(&producer, "jobs.third.call", &[], "{}").await.unwrap();
    wait::until("it is told", async || {
        (platform.metric("jobs", "trunkline_jobs_queues_refused").await >= 1.0).then_some(())
    })
    .await;

    assert_eq!(queue(&admin, "third").await, Value::Null);
    let echo = jobs::submit(&admin, &json!({ "queue": "diagnostics", "kind": "echo" })).await;
    jobs::job_in(&admin, &echo, "SUCCEEDED").await;
    admin.put("/api/v1/queues/second", &json!({ "concurrency": 3 })).await.json(200);
}

#[tokio::test]
async fn what_is_old_is_forgotten_however_much_there_is() {
    let platform = Setup::new().start().await;
    let mut database = platform.superuser().await;
    for statement in [
        "INSERT INTO jobs.jobs (queue, kind, id, state, rank, round, attempt, max_attempts, created_at, finished_at) \
         SELECT 'old', 'call', place::text, 'SUCCEEDED', 1, 0, 1, 1, now() - interval '9 days', now() - interval '8 days' \
         FROM generate_series(1, 40000) AS place",
        "INSERT INTO jobs.job_ids (queue, kind, job_id, published_at, sequence, noted_at) \
         SELECT 'old', 'call', place::text, now(), place, now() - interval '31 days' FROM generate_series(1, 12000) AS place",
        "INSERT INTO jobs.job_waiting (queue, key, kind, job_id, created_at, lane, round, attempt, waits, headers, body, dispatched_at) \
         SELECT 'old', 'key', 'call', place::text, now(), 'normal', 0, 1, 1, '[]', '', now() - interval '31 days' \
         FROM generate_series(1, 12000) AS place",
    ] {
        sqlx::query(statement).execute(&mut database).await.unwrap();
    }

    // The ledger is cleared each hour, and at the start.
    platform.process("jobs", 1).kill().await.unwrap();
    platform.process("jobs", 1).start().await.unwrap();

    wait::until("nothing is left", async || {
        let left = "SELECT (SELECT count(*) FROM jobs.jobs WHERE queue = 'old') + (SELECT count(*) FROM jobs.job_ids) \
                    + (SELECT count(*) FROM jobs.job_waiting)";
        let left: i64 = sqlx::query_scalar(left).fetch_one(&mut database).await.unwrap();
        (left == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_job_that_was_taken_out_by_a_process_that_died_before_it_could_note_that_is_cancelled() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let mut database = platform.superuser().await;
    admin.post("/api/v1/queues/diagnostics/pause", &json!({})).await.json(200);
    let echo = json!({ "queue": "diagnostics", "kind": "echo", "args": [1] });
    let queued = jobs::submit(&admin, &echo).await;
    let mut later = echo.clone();
    later["runAt"] = json!("2029-01-01T00:00:00Z");
    let later = jobs::submit(&admin, &later).await;

    // What such a process leaves: no message, and the wish.
    let service = platform.user("jobs").connect().await;
    let sequence = "SELECT sequence FROM jobs.jobs WHERE id = $1";
    let sequence: i64 = sqlx::query_scalar(sequence).bind(&queued).fetch_one(&mut database).await.unwrap();
    let schedule = format!("$JS.API.DIRECT.GET.SCHEDULES.schedules.job.diagnostics.echo.{later}");
    let schedule = service.client.request(schedule, "".into()).await.unwrap().headers.unwrap();
    let scheduled: i64 = schedule.get("Nats-Sequence").unwrap().as_str().parse().unwrap();
    for (stream, sequence) in [("JOBS", sequence), ("SCHEDULES", scheduled)] {
        let api = format!("$JS.API.STREAM.MSG.DELETE.{stream}");
        let answer = service.client.request(api, json!({ "seq": sequence }).to_string().into()).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
        assert_eq!(answer["success"], true, "{answer}");
    }
    let wish = "UPDATE jobs.jobs SET cancel_requested = true, \
                cancel_requested_at = clock_timestamp() - interval '2 minutes' WHERE id = ANY($1)";
    sqlx::query(wish).bind([&queued, &later]).execute(&mut database).await.unwrap();

    for id in [&queued, &later] {
        jobs::job_in(&admin, id, "CANCELLED").await;
    }
    admin.post("/api/v1/queues/diagnostics/resume", &json!({})).await.json(200);
    admin.post(&format!("/api/v1/jobs/{queued}/retry"), &json!({})).await.json(200);
    assert_eq!(jobs::job_in(&admin, &queued, "SUCCEEDED").await["result"], json!([1]));
}
