//! What audit promises, seen through NATS. Flows that cross services are told in the scenarios of `tests/`.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use async_nats::jetstream;
use aws_lc_rs::digest;
use platform_tests::{Platform, Setup, broker::Broker, people::Person, wait};
use serde_json::{Value, json};
use trunkline::platform::admin::AdminFile;

const LIST_ENTRIES: &str = "svc.audit.v1.list_entries";

/// The three services, without a gateway.
fn services() -> Setup {
    Setup::new().instances("gateway", 0)
}

async fn admin_token(platform: &Platform, ops: &Broker) -> String {
    let admin = AdminFile::in_folder(platform.folder()).read().unwrap();
    let credentials = json!({ "email": admin.email, "password": admin.password });
    ops.call("svc.auth.v1.login", &credentials).await.json()["accessToken"].as_str().unwrap().to_owned()
}

/// A record as a service hands it over; `number` makes its id.
fn record(number: u32) -> Value {
    json!({
        "id": format!("0197f000-0000-7000-8000-{number:012}"),
        "time": "2026-01-31T23:59:59.123456Z",
        "actor": { "type": "USER", "id": "ann" },
        "target": { "type": "user", "id": format!("target-{number}") },
        "outcome": "SUCCESS",
        "ipAddress": "192.0.2.1",
        "userAgent": "curl/8",
        "requestId": "request-1",
        "traceId": "0af7651916cd43dd8448eb211c80319c",
        "details": { "amount": 1 },
    })
}

/// Hands a record over as `service` does, whatever the body is.
async fn hand_over(platform: &Platform, service: &str, subject: &str, body: impl Into<bytes::Bytes>) {
    let broker = platform.user(service).connect().await;
    // Kept until the acknowledgement has come: the connection ends with it.
    let jetstream = jetstream::new(broker.client);
    let stored = jetstream.publish(subject.to_owned(), body.into()).await.unwrap();
    stored.await.unwrap();
}

async fn list(ops: &Broker, token: &str, request: Value) -> Vec<Value> {
    let page = ops.call_as(token, LIST_ENTRIES, &request).await.json();
    page["items"].as_array().unwrap().clone()
}

async fn entries_of(ops: &Broker, token: &str, target: &str, number: usize) -> Vec<Value> {
    wait::until(&format!("{number} entries about {target}"), async || {
        let entries = list(ops, token, json!({ "target": target })).await;
        (entries.len() >= number).then_some(entries)
    })
    .await
}

/// The hash as the documentation of the chain describes it, made from what the API shows.
fn documented_hash(entry: &Value, details: &str) -> String {
    let text = |pointer: &str| entry.pointer(pointer).unwrap().as_str().unwrap().to_owned();
    let fields = [
        "trunkline.audit.entry.v1".to_owned(),
        text("/previousHash"),
        text("/sequence"),
        text("/id"),
        text("/time"),
        text("/actor/type"),
        text("/actor/id"),
        text("/action"),
        text("/target/type"),
        text("/target/id"),
        text("/outcome"),
        text("/ipAddress"),
        text("/userAgent"),
        text("/requestId"),
        text("/traceId"),
        details.to_owned(),
        "16".to_owned(),
    ];
    let mut context = digest::Context::new(&digest::SHA256);
    for field in fields {
        context.update(&(field.len() as u64).to_be_bytes());
        context.update(field.as_bytes());
    }
    context.finish().as_ref().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

#[tokio::test]
async fn record_is_kept_as_handed_over_with_the_hash_that_is_documented() {
    let platform = services().start().await;
    let ops = platform.user("ops").connect().await;
    let token = admin_token(&platform, &ops).await;

    hand_over(&platform, "identity", "audit.identity.user.created", record(1).to_string()).await;

    let entry = entries_of(&ops, &token, "target-1", 1).await.remove(0);
    for (field, value) in record(1).as_object().unwrap() {
        assert_eq!(entry[field], *value, "{field}");
    }
    assert_eq!(entry["action"], "identity.user.created");
    assert_eq!(entry["hash"], documented_hash(&entry, r#"{"amount":1}"#));
}

#[tokio::test]
async fn who_acted_is_taken_from_the_subject() {
    let platform = services().start().await;
    let ops = platform.user("ops").connect().await;
    let token = admin_token(&platform, &ops).await;
    let mut body = record(2);
    body["action"] = "identity.user.deleted".into();
    body["service"] = "identity".into();

    hand_over(&platform, "auth", "audit.auth.session.created", body.to_string()).await;

    let entry = entries_of(&ops, &token, "target-2", 1).await.remove(0);
    assert_eq!(entry["action"], "auth.session.created");
}

#[tokio::test]
async fn record_that_comes_twice_is_one_entry() {
    let platform = services().instances("audit", 2).start().await;
    let ops = platform.user("ops").connect().await;
    let token = admin_token(&platform, &ops).await;

    for number in [3, 3, 3, 4] {
        hand_over(&platform, "identity", "audit.identity.user.created", record(number).to_string()).await;
    }

    entries_of(&ops, &token, "target-4", 1).await;
    platform.settled().await;
    assert_eq!(list(&ops, &token, json!({ "target": "target-3" })).await.len(), 1);
    platform.check_audit_log().await;
}

#[tokio::test]
async fn what_is_no_record_keeps_no_other_from_the_log_and_is_not_lost() {
    let platform = services().start().await;
    let ops = platform.user("ops").connect().await;
    let token = admin_token(&platform, &ops).await;
    let mut without_time = record(5);
    without_time.as_object_mut().unwrap().remove("time");

    for body in ["not JSON".to_owned(), "{}".to_owned(), without_time.to_string(), record(6).to_string()] {
        hand_over(&platform, "identity", "audit.identity.user.created", body).await;
    }

    entries_of(&ops, &token, "target-6", 1).await;
    let answer = ops.client.request("$JS.API.CONSUMER.INFO.AUDIT.audit", "".into()).await.unwrap();
    let info: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(info["num_ack_pending"], 3, "they stay with the consumer: {info}");
    platform.check_audit_log().await;
}

#[tokio::test]
async fn hostile_text_is_kept_escaped_and_numbers_digit_for_digit() {
    let platform = services().start().await;
    let ops = platform.user("ops").connect().await;
    let token = admin_token(&platform, &ops).await;
    let mut body = record(7);
    body["userAgent"] = "a\0b\r\nINFO forged".into();
    let text = body.to_string().replace(r#"{"amount":1}"#, r#"{"amount":12345678901234567890.10,"nul":"\u0000"}"#);

    hand_over(&platform, "identity", "audit.identity.user.created", text).await;

    entries_of(&ops, &token, "target-7", 1).await;
    let answer = ops.call_as(&token, LIST_ENTRIES, &json!({ "target": "target-7" })).await;
    assert_eq!(answer.json()["items"][0]["userAgent"], r"a\u{0}b\u{d}\u{a}INFO forged");
    let body = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(body.contains(r#""details":{"amount":12345678901234567890.10,"nul":"\u0000"}"#), "{body}");
}

#[tokio::test]
async fn entries_are_listed_newest_first_page_by_page_and_filtered() {
    let platform = services().start().await;
    let ops = platform.user("ops").connect().await;
    let token = admin_token(&platform, &ops).await;
    for number in 10..15 {
        let mut body = record(number);
        body["outcome"] = if number == 10 { "DENIED" } else { "SUCCESS" }.into();
        body["time"] = format!("2026-01-31T00:00:{number}Z").into();
        let subject = if number < 13 { "audit.identity.user.created" } else { "audit.identity.users_imported.done" };
        hand_over(&platform, "identity", subject, body.to_string()).await;
    }
    entries_of(&ops, &token, "target-14", 1).await;
    let targets = |entries: Vec<Value>| -> Vec<String> {
        entries.iter().map(|entry| entry["target"]["id"].as_str().unwrap().replace("target-", "")).collect()
    };
    let listed = async |filter: Value| targets(list(&ops, &token, filter).await);

    let first = ops.call_as(&token, LIST_ENTRIES, &json!({ "actor": "ann", "pageSize": 3 })).await.json();
    let next = json!({ "actor": "ann", "pageSize": 3, "pageToken": first["nextPageToken"] });
    let second = ops.call_as(&token, LIST_ENTRIES, &next).await.json();

    assert_eq!(targets(first["items"].as_array().unwrap().clone()), ["14", "13", "12"]);
    assert_eq!(targets(second["items"].as_array().unwrap().clone()), ["11", "10"]);
    assert_eq!(second["nextPageToken"], "");
    assert_eq!(listed(json!({ "actor": "ann", "outcome": "DENIED" })).await, ["10"]);
    assert_eq!(listed(json!({ "actor": "ann", "action": "identity.user.*" })).await, ["12", "11", "10"]);
    assert_eq!(listed(json!({ "actor": "ann", "action": "identity.users_imported.done" })).await, ["14", "13"]);
    assert_eq!(listed(json!({ "actor": "ann", "action": "identity.user_" })).await, [] as [&str; 0]);
    let day = json!({ "actor": "ann", "from": "2026-01-31T00:00:11Z", "to": "2026-01-31T00:00:13Z" });
    assert_eq!(listed(day).await, ["12", "11"]);
    assert_eq!(listed(json!({ "actor": "ann", "target": "target-11" })).await, ["11"]);
}

#[tokio::test]
async fn list_is_for_whoever_may_read_it_and_refuses_filters_that_make_no_sense() {
    let platform = services().start().await;
    let ops = platform.user("ops").connect().await;
    let token = admin_token(&platform, &ops).await;
    let person = Person::new();
    ops.call("svc.identity.v1.register", &person.registration()).await.json();
    let credentials = json!({ "email": person.email, "password": person.password });
    let tokens = ops.call("svc.auth.v1.login", &credentials).await.json();

    let ordinary = ops.call_as(tokens["accessToken"].as_str().unwrap(), LIST_ENTRIES, &json!({})).await;
    let nobody = ops.call(LIST_ENTRIES, &json!({})).await;

    ordinary.problem(403, "permission_denied");
    assert_eq!(nobody.any_problem()["status"], 401);
    for (request, pointer) in [
        (json!({ "action": "identity*" }), "/action"),
        (json!({ "actor": "\0" }), "/actor"),
        (json!({ "target": "x".repeat(4_097) }), "/target"),
        (json!({ "outcome": "MAYBE" }), "/outcome"),
        (json!({ "from": "yesterday" }), "/from"),
        (json!({ "from": "2026-01-31T00:00:00Z", "to": "2026-01-31T00:00:00Z" }), "/to"),
        (json!({ "pageSize": 501 }), "/pageSize"),
        (json!({ "pageToken": "x" }), "/pageToken"),
    ] {
        let problem = ops.call_as(&token, LIST_ENTRIES, &request).await.problem(422, "validation_failed");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
}
