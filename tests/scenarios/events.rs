//! Events: what is stored is watched live, as JSON with CloudEvents headers, by the user `ops` and nobody who could
//! forge it.

use futures::{StreamExt, future::ready};
use platform_tests::{Setup, people::Person, tail::Tail, wait};
use serde_json::{Value, json};

#[tokio::test]
async fn ops_watches_events_live_as_json_with_cloudevents_headers() {
    let platform = Setup::new().start().await;
    let ops = platform.user("ops").connect().await;
    let mut live = ops.client.subscribe("live.evt.identity.>").await.unwrap();
    ops.client.flush().await.unwrap();
    // A round trip on the same connection: by its answer the subscription is in force.
    ops.call("svc.auth.v1.get_jwks", &Value::Object(serde_json::Map::new())).await.json();

    let person = Person::registered(&platform.http()).await;

    // The first administrator's creation may come late, since its relay was busy starting.
    let registered =
        async { live.by_ref().skip_while(|event| ready(!event.subject.ends_with(".registered"))).next().await };
    let event = tokio::time::timeout(wait::WAIT_MAX, registered).await.unwrap().expect("an event comes");
    assert_eq!(event.subject.as_str(), "live.evt.identity.user.registered");
    let headers = event.headers.expect("headers");
    let header = |name: &str| headers.get(name).map(ToString::to_string).unwrap_or_default();
    assert_eq!(header("ce-specversion"), "1.0");
    assert_eq!(header("ce-type"), "identity.user.registered");
    assert!(uuid::Uuid::parse_str(&header("ce-id")).is_ok() && !header("ce-source").is_empty());
    assert!(header("ce-time").ends_with('Z'), "{}", header("ce-time"));
    assert_eq!(header("Nats-Stream"), "EVENTS");
    let body: Value = serde_json::from_slice(&event.payload).unwrap();
    let me = platform.http().signed_in(&person.email, &person.password).await.get("/api/v1/users/me").await.json(200);
    assert_eq!(body["userId"], me["id"]);
}

#[tokio::test]
async fn refused_live_tail_is_in_the_audit_log() {
    let platform = Setup::new().start().await;
    let (http, admin) = (platform.http(), platform.admin().await);
    let person = Person::registered(&http).await;
    let user = http.signed_in(&person.email, &person.password).await;
    let me = user.get("/api/v1/users/me").await.json(200);

    let refused = Tail::refused(&user, "evt.identity.%3E", None).await;

    refused.problem(403, "permission_denied");
    let entry = platform.audit_entry(&admin, "authz.tail_events.denied", |_| true).await;
    assert_eq!(entry["actor"], json!({ "type": "USER", "id": me["id"] }));
    assert_eq!((&entry["outcome"], &entry["ipAddress"]), (&json!("DENIED"), &json!("127.0.0.1")));
    assert_eq!(entry["requestId"], refused.header("x-request-id"));
    assert_eq!(entry["details"], json!({ "permission": "events.identity.read" }));
}
