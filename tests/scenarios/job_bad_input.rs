//! What is no job is refused with a field and a reason where it is submitted, else given up with one: never stored half, never
//! looping (reliability.md §4.3).

use std::time::Duration;

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
        ("/queue", with("queue", json!("caf\u{e9}"))),
        ("/queue", with("queue", json!("q".repeat(65)))),
        ("/queue", with("queue", json!(7))),
        ("/kind", with("kind", json!("nothing"))),
        ("/kind", with("kind", json!("*"))),
        ("/args", with("args", json!(large))),
        ("/args/ms", json!({ "queue": "diagnostics", "kind": "sleep", "args": { "ms": -1 } })),
        ("/args/ms", json!({ "queue": "diagnostics", "kind": "sleep", "args": { "ms": "long" } })),
        ("/args/minutes", json!({ "queue": "diagnostics", "kind": "sleep", "args": { "minutes": 1 } })),
        ("/priority", with("priority", json!("URGENT"))),
        ("/priority", with("priority", json!(9))),
        ("/priority", with("priority", json!(-1))),
        ("/maxAttempts", with("maxAttempts", json!(-1))),
        ("/maxAttempts", with("maxAttempts", json!(1_001))),
        ("/timeoutMs", with("timeoutMs", json!(86_400_001))),
        ("/timeoutMs", with("timeoutMs", json!(-1))),
        ("/backoffBaseMs", with("backoffBaseMs", json!(-1))),
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
    // What services have declared for certain times may come meanwhile.
    let listed = admin.get("/api/v1/jobs?pageSize=500").await.json(200);
    let stored: Vec<_> = listed["items"].as_array().unwrap().iter().filter(|job| job["queue"] != "auth").collect();
    assert!(stored.is_empty(), "nothing was stored: {stored:?}");
    let ops = platform.user("ops").connect().await;
    for (stream, subjects) in [("JOBS", "jobs.>"), ("SCHEDULES", "schedules.job.>")] {
        let request = json!({ "subjects_filter": subjects }).to_string();
        let answer = ops.client.request(format!("$JS.API.STREAM.INFO.{stream}"), request.into()).await.unwrap();
        let info: Value = serde_json::from_slice(&answer.payload).unwrap();
        let stored = info["state"]["subjects"].as_object().into_iter().flatten();
        let stored: Vec<_> = stored.filter(|(subject, _)| !subject.starts_with("jobs.auth.")).collect();
        assert!(info["error"].is_null() && stored.is_empty(), "{stream}: {info}");
    }
}

#[tokio::test]
async fn a_published_job_that_cannot_be_read_is_given_up_with_the_reason() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let producer = platform.user("producer").connect().await;
    let large: &str = format!("\"{}\"", "x".repeat(256 * 1024)).leak();
    let deep: &str = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000)).leak();
    let cases: [Case; 15] = [
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
        // A schema that is newer than the worker's; and one that is older is read, below.
        ("jobs.diagnostics.sleep", &[], r#"{"ms":5,"unit":"s"}"#, "/unit"),
        ("jobs.diagnostics.echo", &[], large, "262146 bytes"),
        ("jobs.diagnostics.echo.high", &[], deep, "no JSON"),
        ("jobs.diagnostics.echo", &[("Job-Backoff-Base-Ms", "-5")], "{}", "Job-Backoff-Base-Ms"),
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
    let mut bodies = Vec::new();
    for broken in letters.iter().filter(|letter| letter["error"].as_str().unwrap().contains("no JSON")) {
        let shown = admin.get(&format!("/api/v1/dead-letters/{}", broken["id"].as_str().unwrap())).await.json(200);
        assert_eq!(shown["args"], Value::Null);
        bodies.push(shown["body"].as_str().unwrap().to_owned());
    }
    assert!(bodies.len() == 2 && bodies.contains(&"ew==".to_owned()), "{bodies:?}");
    // The unnamed one has no queue; a letter is there before it is counted.
    wait::until("fourteen are counted", async || {
        let counted = platform.metric("jobs", "trunkline_jobs_dead_lettered_total").await;
        (counted.to_string() == "14").then_some(())
    })
    .await;
    // One that is larger than a job may be stays a dead letter.
    let too_large = letters.iter().find(|letter| letter["error"].as_str().unwrap().contains("262146 bytes")).unwrap();
    let replay = format!("/api/v1/dead-letters/{}/replay", too_large["id"].as_str().unwrap());
    admin.post(&replay, &json!({})).await.problem(409, "not_retryable");

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

    // What is too large for a message is refused by the broker; what lacks a field, as an older schema did, has its default; a kind
    // that is not known may be to another version, and waits.
    let too_large = format!("\"{}\"", "x".repeat(320 * 1024));
    let refused = jobs::publish(&producer, "jobs.diagnostics.echo", &[], &too_large).await.unwrap();
    assert!(refused["error"]["err_code"].is_u64(), "{refused}");
    let older = [("Nats-Msg-Id", "diagnostics.sleep:older")];
    jobs::publish(&producer, "jobs.diagnostics.sleep", &older, "{}").await.unwrap();
    jobs::job_in(&admin, "older", "SUCCEEDED").await;
    let unknown = [("Nats-Msg-Id", "diagnostics.unheard:unknown")];
    jobs::publish(&producer, "jobs.diagnostics.unheard", &unknown, "{}").await.unwrap();
    let job = jobs::job_in(&admin, "unknown", "WAITING").await;
    assert_eq!((&job["attempt"], &job["errors"]), (&json!(1), &json!([])));
}

#[tokio::test]
async fn a_header_that_the_database_cannot_keep_does_not_keep_its_job_from_waiting_for_its_key() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let producer = platform.user("producer").connect().await;
    let first = json!({ "queue": "diagnostics", "kind": "sleep", "args": { "ms": 60_000 }, "concurrencyKey": "k" });
    let first = jobs::submit(&admin, &first).await;
    jobs::job_in(&admin, &first, "RUNNING").await;

    let headers = [("Nats-Msg-Id", "diagnostics.echo:odd"), ("Job-Concurrency-Key", "k"), ("Shop", "a\0b")];
    jobs::publish(&producer, "jobs.diagnostics.echo", &headers, r#"{"a":1}"#).await.unwrap();

    jobs::job_in(&admin, "odd", "WAITING").await;
    admin.post(&format!("/api/v1/jobs/{first}/cancel"), &json!({})).await.json(200);
    let job = jobs::job_in(&admin, "odd", "SUCCEEDED").await;
    assert_eq!((&job["attempt"], &job["result"]), (&json!(1), &json!({ "a": 1 })));
}

#[tokio::test]
async fn a_job_with_more_headers_than_a_retry_has_room_for_is_given_up_and_holds_up_no_other() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let mut wire = platform.user("producer").wire().await;

    // Of the last the broker would take no more, the one before is one whose schedule would be stored and then not fire.
    for bytes in [17_000, 65_200, 65_500] {
        let (opening, end) = ("NATS/1.0\r\nShop: ", "\r\n\r\n");
        let block = format!("{opening}{}{end}", "x".repeat(bytes - opening.len() - end.len()));
        let inbox = "_INBOX.producer.x";
        let said =
            wire.publish_raw_headers("jobs.diagnostics.fail", inbox, block.as_bytes(), br#"{"attempts":2}"#).await;
        assert_eq!(said.unwrap(), [""; 0]);
    }
    let much: &str = &"x".repeat(16_000);
    let neighbour = [("Nats-Msg-Id", "diagnostics.fail:neighbour"), ("Shop", much), ("Job-Backoff-Base-Ms", "10")];
    let producer = platform.user("producer").connect().await;
    jobs::publish(&producer, "jobs.diagnostics.fail", &neighbour, r#"{"attempts":2}"#).await.unwrap();

    let letters = wait::until("all are given up", async || {
        let letters = admin.get("/api/v1/dead-letters?reason=UNDECODABLE").await.json(200)["items"].clone();
        (letters.as_array().unwrap().len() == 3).then_some(letters)
    })
    .await;
    for letter in letters.as_array().unwrap() {
        assert!(letter["error"].as_str().unwrap().contains("16384 at most; its headers are left out"), "{letter}");
        let shown = admin.get(&format!("/api/v1/dead-letters/{}", letter["id"].as_str().unwrap())).await.json(200);
        assert_eq!((&shown["args"], &shown["headers"]), (&json!({ "attempts": 2 }), &json!({})));
    }
    let job = jobs::job_in(&admin, "neighbour", "SUCCEEDED").await;
    assert_eq!(job["attempt"], 3, "{job}");
}

#[tokio::test]
async fn a_job_that_no_client_can_read_is_given_up_and_does_not_come_for_ever() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let mut wire = platform.user("producer").wire().await;
    let fine = &b"NATS/1.0\r\nShop: 7\r\n\r\n"[..];
    let cases = [
        (&b"jobs.diagnostics.echo"[..], &b"NATS/1.0\r\nShop: \xff\r\n\r\n"[..]),
        (b"jobs.diagnostics.echo", b"NATS/1.0\r\nMy Shop: 1\r\n\r\n"),
        (b"jobs.diagnostics.echo", b"NATS/1.0\r\nShop: a\rb\r\n\r\n"),
        (b"jobs.diagnostics.echo", b"NATS/1.0\r\n Shop: 7\r\n\r\n"),
        (b"jobs.diagnostics.a\xffb", b""),
        (b"jobs.diagnostics.a\x0bb", fine),
        (b"jobs.diagnostics.a\xc2\xa0b.low", fine),
        // No consumer has these.
        (b"jobs.caf\xc3\xa9.order", b"NATS/1.0\r\nMy Shop: 1\r\n\r\n"),
        (b"jobs.caf\xe9.order", fine),
    ];

    for (subject, block) in cases {
        let (headers, total) = (block.len(), block.len() + 2);
        let mut command = if headers > 0 { b"HPUB ".to_vec() } else { b"PUB ".to_vec() };
        command.extend_from_slice(subject);
        command.extend_from_slice(b" _INBOX.producer.x");
        if headers > 0 {
            command.extend_from_slice(format!(" {headers}").as_bytes());
        }
        command.extend_from_slice(format!(" {total}\r\n").as_bytes());
        command.extend_from_slice(block);
        command.extend_from_slice(b"{}\r\n");
        wire.send(&command).await.unwrap();
        assert_eq!(wire.settle().await.unwrap(), [""; 0]);
    }

    // The service loses its connection over each, and may not answer meanwhile. What it cannot read comes again after 30 s.
    let mut database = platform.superuser().await;
    wait::within(Duration::from_mins(5), "all are given up", async || {
        let letters = "SELECT queue, kind FROM jobs.dead_letters WHERE reason = 'UNDECODABLE'";
        let letters: Vec<(String, String)> = sqlx::query_as(letters).fetch_all(&mut database).await.unwrap();
        let is = |(queue, kind): &(String, String), expected: (&str, &str)| (queue.as_str(), kind.as_str()) == expected;
        let count = |expected| letters.iter().filter(|letter| is(letter, expected)).count();
        let all = [("diagnostics", "echo"), ("diagnostics", "unnamed"), ("unnamed", "order")].map(count);
        (all == [4, 3, 2]).then_some(())
    })
    .await;
    let next = wait::until("the service answers", async || {
        let reply = admin.post("/api/v1/jobs", &json!({ "queue": "diagnostics", "kind": "echo", "args": 7 })).await;
        (reply.status == 202).then(|| reply.json(202)["jobId"].as_str().unwrap().to_owned())
    })
    .await;
    wait::until("it is done", async || {
        let reply = admin.get(&format!("/api/v1/jobs/{next}")).await;
        (reply.status == 200 && reply.json(200)["state"] == "SUCCEEDED").then_some(())
    })
    .await;
}
