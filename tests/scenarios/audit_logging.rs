//! Scenario 11: what happened is in the log, once, chained, and nobody can change it.

use platform_tests::{Setup, people::Person};
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
    assert_eq!(entry["actor"]["type"], "USER");
    assert_eq!(entry["requestId"], created.header("x-request-id"));
    assert_eq!(entry["ipAddress"], "127.0.0.1");
    assert!(uuid::Uuid::parse_str(entry["id"].as_str().unwrap()).is_ok());
    let refused = http.signed_in(&person.email, &person.password).await.get("/api/v1/audit/entries").await;
    refused.problem(403, "permission_denied");
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
