//! What audit promises, seen through NATS. Flows that cross services are told in the scenarios of `tests/`.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use async_nats::jetstream;
use aws_lc_rs::digest;
use platform_tests::{Platform, Setup, broker::Broker, people::Person, wait};
use serde_json::value::RawValue;
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
        "actorName": "Ann",
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

/// SHA-256 of fields, each with its length before it, and their number behind them.
fn documented_digest(fields: &[String]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for field in fields.iter().chain([&fields.len().to_string()]) {
        context.update(&(field.len() as u64).to_be_bytes());
        context.update(field.as_bytes());
    }
    context.finish().as_ref().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

/// Fields of the API's answer behind the name of an encoding.
fn fields(encoding: &str, entry: &Value, pointers: &[&str]) -> Vec<String> {
    let text = |pointer: &&str| entry.pointer(pointer).unwrap().as_str().unwrap().to_owned();
    std::iter::once(encoding.to_owned()).chain(pointers.iter().map(text)).collect()
}

/// The hash as the documentation of the chain describes it, made from what the API shows.
fn documented_hash(entry: &Value, details: &str) -> String {
    let mut all = fields(
        "trunkline.audit.entry.v2",
        entry,
        &["/previousHash", "/sequence", "/id", "/time", "/actor/type", "/actor/id", "/action"],
    );
    all.extend(fields("", entry, &["/target/type", "/target/id", "/outcome", "/requestId", "/traceId"]).split_off(1));
    all.push(details.to_owned());
    all.extend(fields("", entry, &["/personalDigest"]).split_off(1));
    documented_digest(&all)
}

fn documented_personal_digest(entry: &Value) -> String {
    let pointers = ["/personalSalt", "/ipAddress", "/userAgent", "/actorName", "/targetName"];
    documented_digest(&fields("trunkline.audit.personal.v1", entry, &pointers))
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
    assert_eq!(entry["personalDigest"], documented_personal_digest(&entry));
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
    wait::until("they alone stay with the consumer", async || {
        let answer = ops.client.request("$JS.API.CONSUMER.INFO.AUDIT.audit", "".into()).await.unwrap();
        let info: Value = serde_json::from_slice(&answer.payload).unwrap();
        (info["num_pending"] == 0 && info["num_ack_pending"] == 3).then_some(())
    })
    .await;
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

#[tokio::test]
async fn entry_is_found_by_its_id_and_each_reading_is_recorded() {
    let platform = services().start().await;
    let ops = platform.user("ops").connect().await;
    let token = admin_token(&platform, &ops).await;
    hand_over(&platform, "identity", "audit.identity.user.created", record(20).to_string()).await;
    let listed = entries_of(&ops, &token, "target-20", 1).await.remove(0);
    let get = async |id: &str| ops.call_as(&token, "svc.audit.v1.get_entry", &json!({ "entryId": id })).await;

    let found = get(listed["id"].as_str().unwrap()).await.json();
    let absent = get("0197f000-0000-7000-8000-999999999999").await;
    let wrong = get("20").await;

    assert_eq!(found, listed);
    absent.problem(404, "entry_not_found");
    assert_eq!(wrong.problem(422, "validation_failed")["errors"][0]["pointer"], "/entryId");
    ops.call_as(&token, "svc.audit.v1.list_checkpoints", &json!({})).await.json();
    ops.call_as(&token, "svc.audit.v1.verify", &json!({})).await.json();
    ops.call_as(&token, "svc.audit.v1.export_entries", &json!({})).await.json();
    let read = entries_of(&ops, &token, listed["id"].as_str().unwrap(), 1).await.remove(0);
    assert_eq!((&read["action"], &read["target"]["type"]), (&json!("audit.entry.read"), &json!("audit_entry")));
    for action in ["audit.entries.listed", "audit.checkpoints.listed", "audit.log.verified", "audit.entries.exported"] {
        let recorded = async || {
            let entries = list(&ops, &token, json!({ "action": action })).await;
            (!entries.is_empty()).then_some(())
        };
        wait::until(action, recorded).await;
    }
}

#[tokio::test]
async fn log_is_signed_after_so_many_entries_and_after_so_long_by_one_of_two() {
    let services = services().instances("audit", 2).set("audit.checkpoint_entries", "5");
    let platform = services.set("audit.checkpoint_interval_ms", "500").start().await;
    let ops = platform.user("ops").connect().await;
    let token = admin_token(&platform, &ops).await;
    for number in 30..50 {
        hand_over(&platform, "identity", "audit.identity.user.created", record(number).to_string()).await;
        // What is stored at once has one signature behind it.
        if number % 5 == 4 {
            entries_of(&ops, &token, &format!("target-{number}"), 1).await;
        }
    }

    let head = wait::until("the end is signed", async || {
        let newest = list(&ops, &token, json!({ "target": "target-49" })).await.pop()?;
        let checkpoints = ops.call_as(&token, "svc.audit.v1.list_checkpoints", &json!({})).await.json();
        let sequence = |value: &Value| value["sequence"].as_str().unwrap().parse::<u64>().unwrap();
        let last = checkpoints["items"].as_array().unwrap().first()?.clone();
        (sequence(&last) >= sequence(&newest)).then_some(last)
    })
    .await;

    assert_eq!(proof::Checkpoint::from_json(head.to_string().as_bytes()).unwrap().verify(&[]), Ok(()));
    let report = ops.call_as(&token, "svc.audit.v1.verify", &json!({})).await.json();
    assert_eq!(
        (&report["valid"], &report["problems"], &report["nextPageToken"]),
        (&json!(true), &json!([]), &json!(""))
    );
    assert!(report["checkpoints"].as_str().unwrap().parse::<u64>().unwrap() >= 4, "{report}");
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    items: Vec<Box<RawValue>>,
    next_page_token: String,
}

#[tokio::test]
async fn export_over_nats_is_paged_ends_at_a_checkpoint_and_verifies_offline() {
    let platform = services().start().await;
    let ops = platform.user("ops").connect().await;
    let token = admin_token(&platform, &ops).await;
    let details = json!({ "text": "x".repeat(200 * 1024) });
    for number in 60..66 {
        let mut body = record(number);
        body["details"] = details.clone();
        body["time"] = format!("2026-03-01T00:00:{number}Z").replace(":6", ":0").into();
        hand_over(&platform, "identity", "audit.identity.user.created", body.to_string()).await;
    }
    entries_of(&ops, &token, "target-65", 1).await;
    let export = async |request: Value| ops.call_as(&token, "svc.audit.v1.export_entries", &request).await;

    let (mut lines, mut pages, mut page_token) = (Vec::new(), 0, String::new());
    loop {
        let (from, to) = ("2026-03-01T00:00:01Z", "2026-03-01T00:01:00Z");
        let answer = export(json!({ "from": from, "to": to, "pageToken": page_token })).await;
        assert!(answer.body.len() < 1024 * 1024, "a page fits a message: {}", answer.body.len());
        // As they came: what is hashed is the text of the details.
        let page: Page = serde_json::from_slice(&answer.body).unwrap();
        lines.extend(page.items.iter().map(|line| line.get().to_owned()));
        pages += 1;
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }

    assert!(pages >= 2, "six entries of 200 KiB are more than one message");
    let report = proof::verify_lines(lines.join("\n").as_bytes(), &[]).unwrap();
    assert_eq!(report.findings, []);
    assert_eq!(report.entries, u64::try_from(lines.len()).unwrap() - 1);
    assert!(lines[0].contains("target-61"), "{}", &lines[0][..200]);
    export(json!({ "from": "2030-01-01T00:00:00Z" })).await.problem(404, "no_entries");
    for (request, pointer) in [
        (json!({ "pageToken": "x" }), "/pageToken"),
        (json!({ "from": "2026-01-31T00:00:00Z", "to": "2026-01-31T00:00:00Z" }), "/to"),
        (json!({ "actor": "ann" }), "/actor"),
    ] {
        let problem = export(request).await.problem(422, "validation_failed");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
}
