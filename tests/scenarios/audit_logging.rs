//! Scenario 11: what happened is in the log, once, chained, and nobody can change it.

use std::time::Duration;

use platform_tests::{Platform, Setup, http::Reply, load::Load, people::Person, traces::outline, wait};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn every_change_is_one_entry_with_actor_address_and_request() {
    let platform = Setup::new().start().await;
    let http = platform.http();
    let admin = platform.admin().await;

    let person = Person::new();
    let mut form = person.registration();
    form["roles"] = json!(["user"]);
    let created = admin.post("/api/v1/users", &form).await;

    let user = created.json(201);
    let entry =
        platform.audit_entry(&admin, "identity.user.created", |entry| entry["target"]["id"] == user["id"]).await;
    assert_eq!(entry["target"], json!({ "type": "user", "id": user["id"] }));
    assert_eq!(entry["targetName"], person.email);
    assert_eq!(entry["actor"]["type"], "USER");
    assert_eq!(entry["requestId"], created.header("x-request-id"));
    assert_eq!(entry["ipAddress"], "127.0.0.1");
    assert!(uuid::Uuid::parse_str(entry["id"].as_str().unwrap()).is_ok());
    let refused = http.signed_in(&person.email, &person.password).await.get("/api/v1/audit/entries").await;
    refused.problem(403, "permission_denied");
    let entry = platform.audit_entry(&admin, "auth.session.created", |entry| entry["actor"]["id"] == user["id"]).await;
    assert_eq!(entry["actorName"], person.email);
}

/// What a recorded action passes, in order.
const HOPS: &[(&str, &str)] = &[
    ("gateway", "http.identity.create_user"),
    ("identity", "endpoint.identity.create_user"),
    ("identity", "outbox.message.publish"),
    ("audit", "consumer.audit.handle"),
];

#[tokio::test]
async fn action_is_handed_over_in_its_transaction_and_the_service_goes_on_without_audit() {
    let platform = Setup::new().traces().start().await;
    let admin = platform.admin().await;
    platform.settled().await;

    // Audit is down: the action is done, its record lies in the acting service's outbox and then in the stream.
    platform.process("audit", 1).stop().await.unwrap();
    let person = Person::new();
    let mut form = person.registration();
    form["roles"] = json!(["user"]);
    let created = admin.post("/api/v1/users", &form).await;
    let user = created.json(201);
    let mut database = platform.superuser().await;
    let (record, traceparent): (String, String) = wait::until("the record is stored", async || {
        let query = "SELECT convert_from(payload, 'UTF8'), headers ->> 'traceparent' FROM identity.outbox
                     WHERE subject = 'audit.identity.user.created' AND acked_at IS NOT NULL
                     AND convert_from(payload, 'UTF8')::json -> 'target' ->> 'id' = $1";
        sqlx::query_as(query).bind(user["id"].as_str().unwrap()).fetch_optional(&mut database).await.unwrap()
    })
    .await;
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!((&record["outcome"], &record["requestId"]), (&json!("SUCCESS"), &json!(created.header("x-request-id"))));

    // It comes back and takes what waits, once, in the trace of the request.
    platform.process("audit", 1).start().await.unwrap();
    platform.process("audit", 1).ready(wait::WAIT_MAX).await.unwrap();
    let entry =
        platform.audit_entry(&admin, "identity.user.created", |entry| entry["target"]["id"] == user["id"]).await;
    assert_eq!((&entry["id"], &entry["traceId"]), (&record["id"], &record["traceId"]));
    assert!(traceparent.contains(record["traceId"].as_str().unwrap()));
    let trace = platform.traces().trace_with(|span| span.is(&HOPS[0]), HOPS).await;
    let hop = |hop: &(&str, &str)| trace.iter().find(|span| span.is(hop)).expect("waited for");
    for (below, above) in [(1, 0), (2, 1)] {
        let (below, above) = (hop(&HOPS[below]), hop(&HOPS[above]));
        assert!(below.is_under(above, &trace), "{} is under {}:\n{}", below.name, above.name, outline(&trace));
    }
    platform.check_audit_log().await;
}

#[tokio::test]
async fn the_log_is_dense_chained_and_read_page_by_page() {
    let platform = Setup::new().start().await;
    let http = platform.http();
    let admin = platform.admin().await;
    for _ in 0..7 {
        Person::registered(&http).await;
    }
    platform.settled().await;

    let mut entries: Vec<Value> = Vec::new();
    let mut token = String::new();
    loop {
        let page = admin.get(&format!("/api/v1/audit/entries?pageSize=3&pageToken={token}")).await.json(200);
        let items = page["items"].as_array().unwrap().clone();
        assert!(items.len() <= 3);
        entries.extend(items);
        token = page["nextPageToken"].as_str().unwrap().to_owned();
        if token.is_empty() {
            break;
        }
    }

    assert!(entries.len() >= 8, "seven registrations and a login: {}", entries.len());
    entries.reverse(); // Listed newest first.
    let mut previous = "0".repeat(64);
    for (index, entry) in entries.iter().enumerate() {
        assert_eq!(entry["sequence"], (index + 1).to_string(), "dense from 1");
        assert_eq!(entry["previousHash"], previous);
        entry["hash"].as_str().unwrap().clone_into(&mut previous);
    }
}

#[tokio::test]
async fn entries_are_filtered_by_actor_action_target_outcome_and_time() {
    let platform = Setup::new().start().await;
    let http = platform.http();
    let admin = platform.admin().await;
    let person = Person::registered(&http).await;
    let session = http.login(&person.email, &person.password).await["sessionId"].clone();
    let session = session.as_str().unwrap();
    let entry = platform.audit_entry(&admin, "auth.session.created", |entry| entry["target"]["id"] == session).await;
    let actor = entry["actor"]["id"].as_str().unwrap();
    let time = entry["time"].as_str().unwrap().replace('+', "%2B");

    let list = async |filter: String| {
        let page = admin.get(&format!("/api/v1/audit/entries?{filter}")).await.json(200);
        page["items"].as_array().unwrap().clone()
    };
    let only = |items: &[Value]| items.len() == 1 && items[0]["id"] == entry["id"];

    assert!(only(&list(format!("target={session}")).await));
    assert!(only(&list(format!("actor={actor}&action=auth.session.created")).await));
    assert!(only(&list(format!("actor={actor}&action=auth.*&outcome=SUCCESS")).await));
    assert!(list(format!("target={session}&outcome=DENIED")).await.is_empty());
    assert!(only(&list(format!("target={session}&from={time}")).await));
    assert!(list(format!("target={session}&to={time}")).await.is_empty(), "`to` is exclusive");
}

/// How long audit stays away besides, by `FAULTS_AWAY_S`: a minute when all is shown, nothing by default.
fn away_for() -> Duration {
    let seconds = std::env::var("FAULTS_AWAY_S").ok().map(|seconds| seconds.parse().expect("a number of seconds"));
    Duration::from_secs(seconds.unwrap_or(0))
}

#[tokio::test]
async fn audit_away_under_load_fails_no_request_and_misses_nothing() {
    let platform = Setup::new().start().await;
    let http = platform.http();
    // No more at once than there are hashed at once on the smallest machine: who waits for that may be told to come again.
    let load = Load::start(2, Duration::from_millis(10), move |_, _| {
        let request = http.request(Method::POST, "/api/v1/registrations").json(&Person::new().registration());
        async move {
            let reply = Reply::try_of(request).await.map_err(|error| error.to_string())?;
            if reply.status == 202 { Ok(()) } else { Err(format!("{reply:?}")) }
        }
    });
    load.proceed(20).await;

    let audit = platform.process("audit", 1);
    audit.stop().await.unwrap();
    load.proceed(60).await;
    tokio::time::sleep(away_for()).await;
    audit.start().await.unwrap();
    audit.ready(wait::WAIT_MAX).await.unwrap();
    load.proceed(20).await;
    let (registered, failures) = load.stop().await;

    assert_eq!(failures, [] as [String; 0]);
    platform.check_audit_log().await;
    let mut database = platform.superuser().await;
    let recorded = "SELECT count(*) FROM audit.entries WHERE action = 'identity.user.registered'";
    let recorded: i64 = sqlx::query_scalar(recorded).fetch_one(&mut database).await.unwrap();
    assert_eq!(usize::try_from(recorded).unwrap(), registered);
    let report = platform.admin().await.post("/api/v1/audit/verify", &json!({})).await.json(200);
    assert_eq!(report["valid"], true, "{report}");
}

#[tokio::test]
async fn export_is_streamed_and_one_that_is_cut_off_leaves_nothing_behind() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    fill(&platform, 60).await;

    // More often than there are places for streams at once.
    for _ in 0..40 {
        // A place is free when it is noticed that nobody reads any more.
        let mut answer = wait::until("a place is free", async || {
            let answer = admin.request(Method::GET, "/api/v1/audit/export").send().await.unwrap();
            (answer.status() == 200).then_some(answer)
        })
        .await;
        assert!(answer.chunk().await.unwrap().is_some_and(|chunk| chunk.starts_with(b"{")));
    }

    let whole = wait::until("all places are free again", async || {
        let reply = Reply::try_of(admin.request(Method::GET, "/api/v1/audit/export")).await.unwrap();
        (reply.status == 200).then_some(reply)
    })
    .await;
    assert_eq!(whole.header("content-type"), "application/x-ndjson");
    assert!(whole.body.len() > 60 * 100 * 1024, "it is far larger than a message");
    assert!(whole.body.lines().last().unwrap().starts_with(r#"{"checkpoint":{"#));
    let report = proof::verify_lines(whole.body.as_bytes(), &[]).unwrap();
    assert_eq!(report.findings, []);
    platform.check_calm();
}

#[tokio::test]
async fn export_refuses_what_makes_no_sense_and_who_may_not() {
    let platform = Setup::new().start().await;
    let (http, admin) = (platform.http(), platform.admin().await);
    let person = Person::registered(&http).await;
    platform.settled().await;

    for (query, pointer) in [
        ("from=yesterday", "/from"),
        ("from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "/to"),
        ("pageToken=x", "/pageToken"),
    ] {
        let problem = admin.get(&format!("/api/v1/audit/export?{query}")).await.problem(422, "validation_failed");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
    admin.get("/api/v1/audit/export?actor=ann").await.any_problem();
    admin.get("/api/v1/audit/entries?who=ann").await.any_problem();
    admin.get("/api/v1/audit/entries?pageToken=x").await.problem(422, "validation_failed");
    admin.get("/api/v1/audit/export?from=2100-01-01T00:00:00Z").await.problem(404, "no_entries");
    let person = http.signed_in(&person.email, &person.password).await;
    person.get("/api/v1/audit/export").await.problem(403, "permission_denied");
    person.post("/api/v1/audit/verify", &json!({})).await.problem(403, "permission_denied");
}

/// Puts so many entries of 100 KiB into the log.
async fn fill(platform: &Platform, entries: u32) {
    let broker = platform.user("identity").connect().await;
    let jetstream = async_nats::jetstream::new(broker.client);
    for number in 0..entries {
        let record = json!({
            "id": format!("0197f000-0000-7000-8000-{number:012}"),
            "time": "2026-01-31T23:59:59Z",
            "actor": { "type": "USER", "id": "ann" },
            "outcome": "SUCCESS",
            "details": { "text": "x".repeat(100 * 1024) },
        });
        let stored = jetstream.publish("audit.identity.user.created", record.to_string().into()).await.unwrap();
        stored.await.unwrap();
    }
    platform.settled().await;
}
