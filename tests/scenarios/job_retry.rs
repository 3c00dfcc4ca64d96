//! Scenario 9: Created → Pending → Running → Succeeded, or Failed → RetryScheduled → Pending again when its time has come;
//! after the last attempt → DeadLetter. State by state, with the real times of the backoff.

use async_nats::{Message, Subscriber};
use futures::StreamExt;
use platform_tests::{Platform, Setup, broker::Broker, http::Http, jobs, jobs::Watch, wait};
use serde_json::{Value, json};

fn millis(told: &Value, field: &str) -> i64 {
    let time = told[field].as_str().unwrap_or_else(|| panic!("{field}: {told}"));
    subjects::Timestamp::parse(time).map(|time| time.seconds * 1_000 + i64::from(time.nanos) / 1_000_000).unwrap()
}

/// Waits until a job is in a state and its history has so many errors: what happened last may be stored before what led to it.
async fn with_errors(admin: &Http, id: &str, state: &str, errors: usize) -> Value {
    wait::until(&format!("job {id} is {state} and has {errors} errors"), async || {
        let job = jobs::job_in(admin, id, state).await;
        (job["errors"].as_array().unwrap().len() == errors).then_some(job)
    })
    .await
}

#[tokio::test]
async fn a_job_that_fails_is_tried_again_at_growing_intervals_until_it_succeeds() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let ops = platform.user("ops").connect().await;
    let mut watch = Watch::open(&ops).await;

    let fails = json!({ "queue": "diagnostics", "kind": "fail", "args": { "attempts": 2 }, "backoffBaseMs": 400 });
    let id = jobs::submit(&admin, &fails).await;
    watch.until(&id, "SUCCEEDED").await;

    let states = watch.states(&id);
    let retried = ["RUNNING", "FAILED", "RETRY_SCHEDULED"];
    let mut told: Vec<&Value> =
        watch.seen.iter().filter(|told| told["jobId"] == id && told["state"] != "PENDING").collect();
    // What is put off for next to no time may run before it is heard that it was put off.
    told.sort_by_key(|told| told["attempt"].as_u64());
    let told: Vec<&str> = told.iter().map(|told| told["state"].as_str().unwrap()).collect();
    assert_eq!(told, [&retried[..], &retried, &["RUNNING", "SUCCEEDED"]].concat());
    assert!(states.contains(&"PENDING".to_owned()), "{states:?}");
    let of = |state: &str| -> Vec<&Value> {
        watch.seen.iter().filter(|told| told["jobId"] == id && told["state"] == state).collect()
    };
    let put_off = of("FAILED").into_iter().zip(of("RETRY_SCHEDULED"));
    for (attempt, ((failed, put_off), next)) in put_off.zip(of("RUNNING").into_iter().skip(1)).enumerate() {
        // It is told of when it is stored, which takes its time.
        let pause = millis(put_off, "runAt") - millis(put_off, "at");
        let longest = 400 * 2_i64.pow(u32::try_from(attempt).unwrap());
        assert!(pause <= longest, "attempt {}: {pause} ms of {longest}", attempt + 1);
        assert!(millis(put_off, "runAt") >= millis(failed, "at"), "after it failed: {failed} {put_off}");
        assert!(millis(next, "startedAt") >= millis(put_off, "runAt"), "not before its time: {put_off} {next}");
    }
    let job = with_errors(&admin, &id, "SUCCEEDED", 2).await;
    assert_eq!(
        (&job["attempt"], &job["maxAttempts"], &job["result"]),
        (&json!(3), &json!(10), &json!({ "attempt": 3 }))
    );
    let errors: Vec<_> =
        job["errors"].as_array().unwrap().iter().map(|error| error["attempt"].as_u64().unwrap()).collect();
    assert_eq!(errors, [1, 2]);
    assert_eq!(job["args"], json!({ "attempts": 2 }));
}

#[tokio::test]
async fn after_the_last_attempt_a_job_is_a_dead_letter_and_can_be_put_back() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let fails = json!({ "queue": "diagnostics", "kind": "fail", "args": { "attempts": 5 }, "maxAttempts": 2, "backoffBaseMs": 100 });

    let id = jobs::submit(&admin, &fails).await;

    let job = with_errors(&admin, &id, "DEAD_LETTER", 2).await;
    assert_eq!(job["attempt"], 2);
    let letter = wait::until("the letter is listed", async || {
        let letters = admin.get("/api/v1/dead-letters?queue=diagnostics&reason=EXHAUSTED").await.json(200);
        letters["items"].as_array().unwrap().iter().find(|letter| letter["id"] == id.as_str()).cloned()
    })
    .await;
    assert_eq!((&letter["reason"], &letter["attempt"]), (&json!("EXHAUSTED"), &json!(2)));
    let shown = admin.get(&format!("/api/v1/dead-letters/{id}")).await.json(200);
    assert_eq!((&shown["args"], &shown["headers"]["Job-Max-Attempts"]), (&json!({ "attempts": 5 }), &json!("2")));
    assert_eq!(shown["errors"].as_array().unwrap().len(), 2);
    let entry =
        platform.audit_entry(&admin, "jobs.job.dead_lettered", |entry| entry["target"]["id"] == id.as_str()).await;
    assert_eq!(entry["details"]["reason"], "EXHAUSTED");

    // Put back, it has its attempts anew, and fails again.
    let put_back = admin.post(&format!("/api/v1/dead-letters/{id}/replay"), &json!({})).await.json(200);
    assert_eq!((&put_back["state"], &put_back["attempt"]), (&json!("PENDING"), &json!(0)));
    let job = with_errors(&admin, &id, "DEAD_LETTER", 4).await;
    assert_eq!(job["attempt"], 2);
    wait::until("there is a letter again", async || {
        (admin.get(&format!("/api/v1/dead-letters/{id}")).await.status == 200).then_some(())
    })
    .await;

    // Purging says what it is to purge.
    admin.delete("/api/v1/dead-letters").await.problem(422, "validation_failed");
    assert_eq!(admin.delete("/api/v1/dead-letters?queue=other").await.json(200)["purged"], 0);
    assert!(admin.delete("/api/v1/dead-letters?queue=diagnostics").await.json(200)["purged"].as_u64().unwrap() >= 1);
    admin.get(&format!("/api/v1/dead-letters/{id}")).await.problem(404, "dead_letter_not_found");
    let ops = platform.user("ops").connect().await;
    wait::until("the stream keeps nothing of it", async || {
        let answer = ops.client.request("$JS.API.STREAM.INFO.JOBS_DLQ", "".into()).await.unwrap();
        let info: Value = serde_json::from_slice(&answer.payload).unwrap();
        (info["state"]["messages"] == 0).then_some(())
    })
    .await;
}

/// What a producer says of its job.
const SAID: [(&str, &str); 8] = [
    ("Job-Max-Attempts", "3"),
    ("Job-Timeout-Ms", "34567"),
    ("Job-Backoff-Base-Ms", "86400000"),
    ("Job-Expires-At", "2100-01-01T00:00:00.000000Z"),
    ("Job-Concurrency-Key", "customer/7"),
    ("Job-Unique", "true"),
    ("Shop", "7"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
];

/// Jobs of the queue `kept`, whose worker answers when the test says so.
struct Kept<'a> {
    platform: &'a Platform,
    admin: Http,
    producer: Broker,
    worker: Broker,
    work: Subscriber,
}

impl<'a> Kept<'a> {
    async fn open(platform: &'a Platform) -> Kept<'a> {
        let (admin, producer) = (platform.admin().await, platform.user("producer").connect().await);
        let worker = platform.user("worker").connect().await;
        let work = worker.client.queue_subscribe("work.kept.call", "workers".into()).await.unwrap();
        worker.client.flush().await.unwrap();
        let settings = json!({ "backoffMaxMs": 86_400_000 });
        admin.put("/api/v1/queues/kept", &settings).await.json(200);
        Kept { platform, admin, producer, worker, work }
    }

    /// Publishes one straight into the stream, urgent, with all that a producer can say.
    async fn publish(&self, id: &str) {
        let message_id = format!("kept.call:{id}");
        let headers: Vec<(&str, &str)> = SAID.into_iter().chain([("Nats-Msg-Id", message_id.as_str())]).collect();
        let stored = jobs::publish(&self.producer, "jobs.kept.call.high", &headers, r#"{"price":1.50}"#).await;
        assert_eq!(stored.expect("acknowledged")["stream"], "JOBS");
    }

    async fn next(&mut self) -> Message {
        tokio::time::timeout(wait::WAIT_MAX, self.work.next()).await.expect("work comes").expect("connected")
    }

    async fn cancel(&self, id: &str) {
        self.admin.post(&format!("/api/v1/jobs/{id}/cancel"), &json!({})).await.json(200);
        jobs::job_in(&self.admin, id, "CANCELLED").await;
    }

    /// Runs a job again, and gives it up by its worker's word. What its letter has then is what it was run with.
    async fn run_again(&mut self, id: &str) -> Value {
        self.admin.post(&format!("/api/v1/jobs/{id}/retry"), &json!({})).await.json(200);
        let work = self.next().await;
        let header = |name: &str| work.headers.as_ref().unwrap().get(name).unwrap().to_string();
        assert_eq!((header("Job-Id").as_str(), header("Job-Attempt").as_str()), (id, "1"));
        assert_eq!(header("Job-Timeout-Ms"), "34567");
        let refusal = [("Nats-Service-Error-Code", "400"), ("Nats-Service-Error", "no"), ("Job-Permanent", "true")];
        jobs::answer(&self.worker, &work, &refusal, "").await;
        let letter = wait::until("its letter", async || {
            let letter = self.admin.get(&format!("/api/v1/dead-letters/{id}")).await;
            (letter.status == 200).then(|| letter.json(200))
        })
        .await;
        assert_eq!(letter["maxAttempts"], 3, "{letter}");
        // The letter is stored before the history hears of it, and only what has ended there can be put back once more.
        jobs::job_in(&self.admin, id, "DEAD_LETTER").await;
        let mut database = self.platform.superuser().await;
        let lanes = "SELECT DISTINCT lane FROM jobs.dead_letters WHERE id = $1";
        let lanes: Vec<String> = sqlx::query_scalar(lanes).bind(id).fetch_all(&mut database).await.unwrap();
        assert_eq!(lanes, ["high"], "{id}");
        letter
    }
}

fn check_said(letter: &Value) {
    for (name, value) in SAID {
        assert_eq!(letter["headers"][name], value, "{name}: {letter}");
    }
    assert_eq!(letter["args"], json!({ "price": 1.5 }));
}

#[tokio::test]
async fn a_job_that_was_cancelled_is_put_back_with_its_headers_and_its_priority() {
    let platform = Setup::new().start().await;
    let mut kept = Kept::open(&platform).await;

    // While it ran, while it waited for its key, and while it waited for another attempt.
    for id in ["first", "second"] {
        kept.publish(id).await;
        let running = kept.next().await;
        let waiting = format!("{id}-waits");
        kept.publish(&waiting).await;
        jobs::job_in(&kept.admin, &waiting, "WAITING").await;
        kept.cancel(&waiting).await;
        if id == "first" {
            kept.cancel(id).await;
        } else {
            jobs::answer(&kept.worker, &running, &[("Nats-Service-Error-Code", "503")], "").await;
            jobs::job_in(&kept.admin, id, "RETRY_SCHEDULED").await;
            kept.cancel(id).await;
        }
        for id in [id, &waiting] {
            check_said(&kept.run_again(id).await);
            // And what was given up in the same way.
            check_said(&kept.run_again(id).await);
        }
    }

    // While it waited in its queue, and for its time.
    let submission = json!({
        "queue": "kept", "kind": "call", "args": [1], "priority": "HIGH", "maxAttempts": 3, "timeoutMs": 34567,
        "backoffBaseMs": 77, "concurrencyKey": "customer/7", "expiresAt": "2030-01-01T00:00:00Z",
    });
    kept.admin.post("/api/v1/queues/kept/pause", &json!({})).await.json(200);
    let queued = jobs::submit(&kept.admin, &submission).await;
    kept.cancel(&queued).await;
    kept.admin.post("/api/v1/queues/kept/resume", &json!({})).await.json(200);
    let mut later = submission.clone();
    later["runAt"] = json!("2029-01-01T00:00:00Z");
    let later = jobs::submit(&kept.admin, &later).await;
    kept.cancel(&later).await;
    for id in [queued, later] {
        let headers = kept.run_again(&id).await["headers"].clone();
        for (name, value) in [
            ("Job-Max-Attempts", "3"),
            ("Job-Backoff-Base-Ms", "77"),
            ("Job-Concurrency-Key", "customer/7"),
            ("Job-Expires-At", "2030-01-01T00:00:00.000000Z"),
        ] {
            assert_eq!(headers[name], value, "{headers}");
        }
        assert!(headers["traceparent"].is_string(), "{headers}");
    }
}

#[tokio::test]
async fn a_job_that_expired_is_put_back_without_the_expiry_that_is_past() {
    let platform = Setup::new().start().await;
    let mut kept = Kept::open(&platform).await;
    let headers = [
        ("Nats-Msg-Id", "kept.call:late"),
        ("Job-Expires-At", "2020-01-01T00:00:00Z"),
        ("Job-Max-Attempts", "3"),
        ("Job-Timeout-Ms", "34567"),
    ];

    jobs::publish(&kept.producer, "jobs.kept.call.high", &headers, "{}").await.unwrap();
    jobs::job_in(&kept.admin, "late", "DEAD_LETTER").await;
    wait::until("its letter", async || (kept.admin.get("/api/v1/dead-letters/late").await.status == 200).then_some(()))
        .await;
    let letter = kept.run_again("late").await;

    assert_eq!(letter["reason"], "PERMANENT", "it ran: {letter}");
    assert_eq!(letter["headers"].get("Job-Expires-At"), None, "{letter}");
}

#[tokio::test]
async fn a_letter_that_was_put_back_by_a_process_that_died_before_it_could_note_that_does_not_go_back_twice() {
    let platform = Setup::new().start().await;
    let mut kept = Kept::open(&platform).await;
    let mut database = platform.superuser().await;
    kept.publish("again").await;
    let work = kept.next().await;
    let refusal = [("Nats-Service-Error-Code", "400"), ("Job-Permanent", "true")];
    jobs::answer(&kept.worker, &work, &refusal, "").await;
    let letter = async |status: u16| {
        wait::until("the letter", async || {
            (kept.admin.get("/api/v1/dead-letters/again").await.status == status).then_some(())
        })
        .await;
    };
    letter(200).await;
    jobs::job_in(&kept.admin, "again", "DEAD_LETTER").await;
    let replay = async || kept.admin.post("/api/v1/dead-letters/again/replay", &json!({})).await.json(200);
    let forget = "UPDATE jobs.dead_letters SET replayed_at = NULL WHERE id = 'again'";

    // The job is heard of before somebody tries again.
    assert_eq!(replay().await["state"], "PENDING");
    let work = tokio::time::timeout(wait::WAIT_MAX, kept.work.next()).await.expect("work comes").expect("connected");
    sqlx::query(forget).execute(&mut database).await.unwrap();
    jobs::answer(&kept.worker, &work, &[], "").await;
    jobs::job_in(&kept.admin, "again", "SUCCEEDED").await;
    letter(404).await;

    // Somebody tries again all the same.
    sqlx::query(forget).execute(&mut database).await.unwrap();
    let which = json!({ "queue": "kept" });
    assert_eq!(replay().await["state"], "SUCCEEDED");
    letter(404).await;
    sqlx::query(forget).execute(&mut database).await.unwrap();
    let replayed = kept.admin.post("/api/v1/dead-letters/replay", &which).await.json(200);
    assert_eq!((&replayed["replayed"], &replayed["remaining"]), (&json!(0), &json!(0)));
    let more = tokio::time::timeout(std::time::Duration::from_millis(500), kept.work.next()).await;
    assert!(more.is_err(), "it ran once");
}

#[tokio::test]
async fn a_job_that_nobody_serves_any_more_says_so_when_it_expires() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let producer = platform.user("producer").connect().await;
    let worker = platform.user("worker").connect().await;
    let mut work = worker.client.subscribe("work.shop.served-once").await.unwrap();
    worker.client.flush().await.unwrap();
    let expires = (kernel::Clock::system().now() + chrono::TimeDelta::seconds(45)).to_rfc3339();
    let submit = async |kind: &str| {
        let (subject, id) = (format!("jobs.shop.{kind}"), format!("shop.{kind}:{kind}"));
        let headers =
            [("Nats-Msg-Id", id.as_str()), ("Job-Expires-At", expires.as_str()), ("Job-Backoff-Base-Ms", "1")];
        jobs::publish(&producer, &subject, &headers, "{}").await.unwrap();
    };

    // One that is served once and then not, one that never is, and one that asks for more time than it has.
    submit("served-once").await;
    let request = tokio::time::timeout(wait::WAIT_MAX, work.next()).await.unwrap().unwrap();
    work.unsubscribe().await.unwrap();
    worker.client.flush().await.unwrap();
    jobs::answer(&worker, &request, &[("Nats-Service-Error-Code", "500"), ("Nats-Service-Error", "no")], "").await;
    let mut late = worker.client.subscribe("work.shop.late").await.unwrap();
    worker.client.flush().await.unwrap();
    submit("late").await;
    let request = tokio::time::timeout(wait::WAIT_MAX, late.next()).await.unwrap().unwrap();
    let later = [("Nats-Service-Error-Code", "500"), ("Nats-Service-Error", "no"), ("Job-Retry-After-Ms", "46000")];
    jobs::answer(&worker, &request, &later, "").await;
    submit("never").await;

    for (kind, reason, attempt) in
        [("served-once", "NO_HANDLER", 2), ("late", "EXPIRED", 2), ("never", "NO_HANDLER", 1)]
    {
        let job = jobs::job_in_within(&admin, kind, "DEAD_LETTER", std::time::Duration::from_mins(3)).await;
        let letter = admin.get(&format!("/api/v1/dead-letters/{kind}")).await.json(200);
        assert_eq!((&letter["reason"], &letter["attempt"]), (&json!(reason), &json!(attempt)), "{letter} {job}");
    }
}
