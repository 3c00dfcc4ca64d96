//! Scenario 2: the handling service decides by what authz says: from what is kept, else by asking; refused is 403.

use platform_tests::{
    Platform, Setup,
    http::{Http, Reply},
    people::Person,
    traces::{Span, outline},
    wait,
};
use reqwest::Method;

const PATH: &str = "/api/v1/audit/entries";
const SERVED: (&str, &str) = ("audit", "endpoint.audit.list_entries");
const ASKS: (&str, &str) = ("audit", "call.authz.authorize");
const ASKED: (&str, &str) = ("authz", "endpoint.authz.authorize");
const HANDLED: (&str, &str) = ("audit", "storage.entry.list");

/// Where the first request passes, in order: service and part of the span's name.
const MISS: &[(&str, &str)] = &[
    ("gateway", "http.audit.list_entries"),
    SERVED,
    ASKS,
    ASKED,
    ("authz", "domain.permission.resolve"),
    ("identity", "endpoint.identity.get_user_roles"),
    HANDLED,
];

#[tokio::test]
async fn service_asks_authz_once_and_decides_by_the_answer() {
    let platform = Setup::new().traces().start().await;
    let (id, user) = registered(&platform).await;
    let admin = platform.admin().await;
    platform.hears_changes().await;

    // Refused: authz is asked, and the handler does not run.
    let refused = user.get(PATH).await;
    refused.problem(403, "permission_denied");
    let first = platform.traces().of_reply(&refused, &[SERVED, ASKED]).await;
    assert!(has(&first, &ASKS) && !has(&first, &HANDLED), "{first:?}");
    // The refusal is kept too.
    let again = user.get(PATH).await;
    again.problem(403, "permission_denied");
    assert!(!has(&platform.traces().of_reply(&again, &[SERVED]).await, &ASKS), "{again:?}");

    // Allowed, after a change that drops it: asked once more, and the handler goes on.
    let path = format!("/api/v1/users/{id}/roles/auditor");
    let assigned = Reply::of(admin.request(Method::PUT, &path)).await.json(200);
    // Empty where the broker took longer than a change waits; then it is in force when its event has come.
    assert!(assigned["consistencyToken"].is_string(), "{assigned}");
    let allowed = wait::until("it is allowed", async || {
        let reply = user.get(PATH).await;
        (reply.status == 200).then_some(reply)
    })
    .await;
    let third = platform.traces().of_reply(&allowed, MISS).await;
    let hop = |hop: &(&str, &str)| third.iter().find(|span| span.is(hop)).expect("waited for");
    for (below, above) in [(1, 0), (2, 1), (3, 2), (4, 3), (5, 4), (6, 1)] {
        let (below, above) = (hop(&MISS[below]), hop(&MISS[above]));
        assert!(below.is_under(above, &third), "{} is under {}: {}", below.name, above.name, outline(&third));
    }

    // From then on nothing is asked.
    let allowed = user.get(PATH).await;
    allowed.json(200);
    let fourth = platform.traces().of_reply(&allowed, &[SERVED, HANDLED]).await;
    assert!(!has(&fourth, &ASKS), "{}", outline(&fourth));
    assert!(platform.metric("audit", "trunkline_decisions_total{kind=\"remembered\"}").await >= 2.0);

    // The record of the refusal says what was missing.
    let request = refused.header("x-request-id").to_owned();
    let denied = platform.audit_entry(&admin, "audit.list_entries.denied", |entry| entry["requestId"] == request).await;
    assert_eq!((&denied["outcome"], &denied["actor"]["id"]), (&"DENIED".into(), &id.into()));
    assert_eq!(denied["details"]["permission"], "audit.entries.read");
}

/// Somebody without a role, by id, and signed in.
async fn registered(platform: &Platform) -> (String, Http) {
    let person = Person::registered(&platform.http()).await;
    let user = platform.http().signed_in(&person.email, &person.password).await;
    let me = user.get("/api/v1/users/me").await.json(200);
    (me["id"].as_str().expect("an id").to_owned(), user)
}

fn has(trace: &[Span], hop: &(&str, &str)) -> bool {
    trace.iter().any(|span| span.is(hop))
}
