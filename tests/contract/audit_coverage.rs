//! Every endpoint that changes something leaves its record, and every event of the contract can be seen in the log. A
//! new changing endpoint or event fails here until it is added to the walk below; the list of exceptions may only
//! shrink.

use std::{collections::BTreeSet, time::Duration};

use platform_tests::{Setup, people::Person};
use serde_json::json;
use subjects::HttpMethod;

/// Endpoints that change something, and the action that the walk below proves for each.
const CHANGES: &[(&str, &str)] = &[
    ("svc.identity.v1.register", "identity.user.registered"),
    ("svc.identity.v1.create_user", "identity.user.created"),
    ("svc.auth.v1.login", "auth.session.created"),
    ("svc.auth.v1.refresh", "auth.session.refreshed"),
    ("svc.auth.v1.logout", "auth.session.revoked"),
];

/// Actions that are no endpoint's success, and that the walk proves too.
const OTHERS: &[&str] = &["auth.login.failed", "auth.session.reuse_detected", "auth.keys.rotated"];

/// Shorter than the platform's own, since the walk has to outwait it.
const RETRY_WINDOW: Duration = Duration::from_millis(300);

#[test]
fn the_walk_covers_every_changing_endpoint_and_every_event() {
    let changing: BTreeSet<&str> = subjects::endpoints()
        .filter(|endpoint| endpoint.http.as_ref().is_some_and(|http| http.method != HttpMethod::Get))
        .map(|endpoint| endpoint.subject)
        .collect();
    let covered: BTreeSet<&str> = CHANGES.iter().map(|(subject, _)| *subject).collect();
    assert_eq!(covered, changing);

    let events: BTreeSet<&str> =
        subjects::SERVICES.iter().flat_map(|service| service.events.iter()).map(|event| event.action()).collect();
    let covered: BTreeSet<&str> = CHANGES.iter().map(|(_, action)| *action).chain(OTHERS.iter().copied()).collect();
    assert_eq!(covered, events);
}

#[tokio::test]
async fn every_changing_endpoint_and_every_event_appears_in_the_log() {
    let window = RETRY_WINDOW.as_millis().to_string();
    let platform = Setup::new().set("auth.refresh_retry_window_ms", &window).start().await;
    let (http, admin) = (platform.http(), platform.admin().await);

    let person = Person::registered(&http).await;
    admin.post("/api/v1/users", &Person::new().registration()).await.json(201);
    http.post("/api/v1/auth/login", &json!({ "email": person.email, "password": "wrong, entirely" }))
        .await
        .problem(401, "invalid_credentials");
    let reused = http.login(&person.email, &person.password).await;
    let refresh = json!({ "refreshToken": reused["refreshToken"] });
    http.post("/api/v1/auth/refresh", &refresh).await.json(200);
    // The one wait for time to pass: services use real clocks.
    tokio::time::sleep(RETRY_WINDOW * 2).await;
    http.post("/api/v1/auth/refresh", &refresh).await.any_problem();
    let tokens = http.login(&person.email, &person.password).await;
    let reply = http.with_token(tokens["accessToken"].as_str().unwrap()).post("/api/v1/auth/logout", &json!({})).await;
    assert_eq!(reply.status, 204);

    for action in CHANGES.iter().map(|(_, action)| *action).chain(OTHERS.iter().copied()) {
        let entry = platform.audit_entry(&admin, action, |_| true).await;
        assert!(!entry["target"]["type"].as_str().unwrap().is_empty(), "{entry}");
        let by_service = entry["actor"]["type"] == "SERVICE";
        assert!(by_service || entry["requestId"].as_str().is_some_and(|id| !id.is_empty()), "{entry}");
    }
}
