//! What is no job is refused with a field and a reason where it is submitted, else given up with one: never stored half, never
//! looping (reliability.md §4.3).

use platform_tests::{Setup, jobs, wait};
use serde_json::{Value, json};

/// Subject, headers, body, and what its dead letter must name.
type Case = (&'static str, &'static [(&'static str, &'static str)], &'static str, &'static str);

#[tokio::test]
async fn a_submission_that_is_not_valid_is_refused_by_its_field_and_leaves_nothing() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let good = json!({ "queue": "diagnostics", "kind": "echo", "args": {} });
    let large = "x".repeat(256 * 1024);
    let with = |field: &str, value: Value| {
        let mut job = good.clone();
        job[field] = value;
        job
    };
    let cases = [
        ("/queue", with("queue", json!("a.b"))),
        ("/queue", with("queue", json!(""))),
        ("/queue", with("queue", json!("schedules"))),
        ("/kind", with("kind", json!("nothing"))),
        ("/kind", with("kind", json!("*"))),
        ("/args", with("args", json!(large))),
        ("/args/ms", json!({ "queue": "diagnostics", "kind": "sleep", "args": { "ms": -1 } })),
        ("/args/minutes", json!({ "queue": "diagnostics", "kind": "sleep", "args": { "minutes": 1 } })),
        ("/priority", with("priority", json!("URGENT"))),
        ("/maxAttempts", with("maxAttempts", json!(-1))),
        ("/maxAttempts", with("maxAttempts", json!(1_001))),
        ("/timeoutMs", with("timeoutMs", json!(86_400_001))),
        ("/runAt", with("runAt", json!("9999-12-31T23:59:59Z"))),
        ("/runAt", with("runAt", json!("1970-01-01T00:00:00Z"))),
        ("/runAt", with("runAt", json!("tomorrow"))),
        ("/expiresAt", with("expiresAt", json!("2020-01-01T00:00:00Z"))),
        ("/idempotencyKey", with("idempotencyKey", json!("a b"))),
        ("/concurrencyKey", with("concurrencyKey", json!("a b"))),
        ("/concurrencyKey", with("concurrencyKey", json!("k".repeat(129)))),
        ("/dependsOn", with("dependsOn", json!(["x"]))),
    ];

    for (pointer, job) in cases {
        let problem = admin.post("/api/v1/jobs", &job).await.problem(422, "validation_failed");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
        let problem =
            admin.post("/api/v1/jobs/batch", &json!({ "jobs": [good, job] })).await.problem(422, "validation_failed");
        assert_eq!(problem["errors"][0]["pointer"], format!("/jobs/1{pointer}"), "{problem}");
    }

    admin.post("/api/v1/jobs/batch", &json!({ "jobs": [] })).await.problem(422, "validation_failed");
    let listed = admin.get("/api/v1/jobs").await.json(200);
    assert_eq!(listed["items"], json!([]), "nothing was stored");
}

#[tokio::test]
async fn a_published_job_that_cannot_be_read_is_given_up_with_the_reason() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let producer = platform.user("producer").connect().await;
    let cases: [Case; 11] = [
        ("jobs.diagnostics.echo", &[("Job-Max-Attempts", "-1")], "{}", "Job-Max-Attempts"),
        ("jobs.diagnostics.echo", &[("Job-Timeout-Ms", "99999999999999999999")], "{}", "Job-Timeout-Ms"),
        ("jobs.diagnostics.echo", &[("Job-Expires-At", "soon")], "{}", "Job-Expires-At"),
        ("jobs.diagnostics.echo", &[("Nats-Msg-Id", "other.kind:x")], "{}", "Nats-Msg-Id"),
        ("jobs.diagnostics.echo", &[("Nats-Msg-Id", "no prefix")], "{}", "Nats-Msg-Id"),
        ("jobs.diagnostics.echo", &[("Job-Concurrency-Key", "two words")], "{}", "Job-Concurrency-Key"),
        ("jobs.diagnostics.echo", &[("Job-Unique", "maybe")], "{}", "Job-Unique"),
        ("jobs.diagnostics.echo.low", &[], "{", "no JSON"),
        ("jobs.diagnostics.sleep", &[], r#"{"ms":"long"}"#, "/ms"),
        ("jobs.diagnostics.sleep", &[], r#"{"ms":60001}"#, "/ms"),
        ("jobs.caf\u{e9}.order", &[], "{}", "queue and kind"),
    ];

    for (subject, headers, body, _) in cases {
        let stored = jobs::publish(&producer, subject, headers, body).await.unwrap();
        assert!(stored["error"].is_null(), "{subject}: {stored}");
    }

    let letters = wait::until("every one is a dead letter", async || {
        let letters =
            admin.get("/api/v1/dead-letters?reason=UNDECODABLE").await.json(200)["items"].as_array().unwrap().clone();
        (letters.len() == cases.len()).then_some(letters)
    })
    .await;
    for (subject, _, _, named) in cases {
        let said = |letter: &Value| letter["error"].as_str().unwrap().contains(named);
        assert!(letters.iter().any(said), "{subject}, {named}: {letters:?}");
    }
    // One is shown as it came, also where that is no JSON.
    let broken = letters.iter().find(|letter| letter["error"].as_str().unwrap().contains("no JSON")).unwrap();
    let shown = admin.get(&format!("/api/v1/dead-letters/{}", broken["id"].as_str().unwrap())).await.json(200);
    assert_eq!((&shown["args"], &shown["body"]), (&Value::Null, &json!("ew==")));
    let counted = platform.metric("jobs", "trunkline_jobs_dead_lettered_total").await;
    assert_eq!(counted.to_string(), "10", "the unnamed one has no queue");

    // A job that has expired is not run; a subject that means nothing is not acknowledged.
    jobs::publish(&producer, "jobs.diagnostics.echo", &[("Job-Expires-At", "2020-01-01T00:00:00Z")], "{}")
        .await
        .unwrap();
    wait::until("it is given up", async || {
        let letters = admin.get("/api/v1/dead-letters?reason=EXPIRED").await.json(200);
        (letters["items"].as_array().unwrap().len() == 1).then_some(())
    })
    .await;
    assert_eq!(jobs::publish(&producer, "jobs.diagnostics.echo.urgent", &[], "{}").await, None);
    assert_eq!(jobs::publish(&producer, "jobs.diagnostics", &[], "{}").await, None);
}
