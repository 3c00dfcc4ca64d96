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
    let first = trace(&platform, 0, &[ASKED]).await;
    assert!(has(&first, &ASKS) && !has(&first, &HANDLED), "{first:?}");
    // The refusal is kept too.
    user.get(PATH).await.problem(403, "permission_denied");
    assert!(!has(&trace(&platform, 1, &[]).await, &ASKS));

    // Allowed, after a change that drops it: asked once more, and the handler goes on.
    let path = format!("/api/v1/users/{id}/roles/auditor");
    let assigned = Reply::of(admin.request(Method::PUT, &path)).await.json(200);
    assert!(assigned["consistencyToken"].as_str().is_some_and(|token| !token.is_empty()), "{assigned}");
    user.get(PATH).await.json(200);
    let third = trace(&platform, 2, MISS).await;
    let hop = |hop: &(&str, &str)| third.iter().find(|span| span.is(hop)).expect("waited for");
    for (below, above) in [(1, 0), (2, 1), (3, 2), (4, 3), (5, 4), (6, 1)] {
        let (below, above) = (hop(&MISS[below]), hop(&MISS[above]));
        assert!(below.is_under(above, &third), "{} is under {}: {}", below.name, above.name, outline(&third));
    }

    // From then on nothing is asked.
    user.get(PATH).await.json(200);
    let fourth = trace(&platform, 3, &[HANDLED]).await;
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

/// The trace of the request with this number, in the order in which audit answered them, once it has all `hops`. Of audit it
/// is whole: an endpoint's span ends last.
async fn trace(platform: &Platform, number: usize, hops: &[(&str, &str)]) -> Vec<Span> {
    wait::until(&format!("the trace of request {number} with {hops:?}"), async || {
        let spans = platform.traces().spans();
        let served = spans.iter().filter(|span| span.is(&SERVED)).nth(number)?;
        let trace: Vec<Span> = spans.iter().filter(|span| span.trace_id == served.trace_id).cloned().collect();
        hops.iter().all(|hop| has(&trace, hop)).then_some(trace)
    })
    .await
}

fn has(trace: &[Span], hop: &(&str, &str)) -> bool {
    trace.iter().any(|span| span.is(hop))
}
