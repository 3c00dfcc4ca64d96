//! Scenario 3: authz finds what a user may do: from what is kept; else the user's roles from identity, own and by groups,
//! and what they permit from its own database, inherited ones too; then it decides.

use platform_tests::{
    Platform, Setup,
    http::{Http, Reply},
    people::Person,
    traces::{Span, outline},
    wait,
};
use reqwest::Method;
use serde_json::json;

const SERVED: (&str, &str) = ("authz", "endpoint.authz.authorize");
const RESOLVES: (&str, &str) = ("authz", "domain.permission.resolve");
const ASKS: (&str, &str) = ("authz", "call.identity.get_user_roles");
const LOADS: (&str, &str) = ("authz", "storage.policy.load");
const ASKED: (&str, &str) = ("identity", "endpoint.identity.get_user_roles");
const READS: (&str, &str) = ("identity", "storage.role.find");

#[tokio::test]
async fn roles_come_from_identity_and_permissions_from_authz_once() {
    let platform = Setup::new().traces().start().await;
    let admin = platform.admin().await;
    let (id, user) = registered(&platform).await;
    // By a group, whose role inherits what permits.
    let base = json!({ "name": "base", "description": "", "permissions": [], "inherits": [] });
    admin.post("/api/v1/roles", &base).await.json(201);
    let staff =
        json!({ "name": "staff", "description": "", "permissions": ["identity.users.read"], "inherits": ["base"] });
    admin.post("/api/v1/roles", &staff).await.json(201);
    let group = admin.post("/api/v1/groups", &json!({ "name": "People" })).await.json(201);
    let group = format!("/api/v1/groups/{}", group["id"].as_str().expect("an id"));
    put(&admin, &format!("{group}/roles/staff")).await;
    put(&admin, &format!("{group}/members/{id}")).await;
    platform.hears_changes().await;
    // What authz knew of the roles is void by that.
    put(&admin, "/api/v1/roles/base/permissions/audit.entries.read").await;
    let before = resolved(&platform).len();

    // A miss: both are read.
    user.get("/api/v1/audit/entries").await.json(200);
    let miss = resolution(&platform, before, &[ASKS, ASKED, READS, LOADS]).await;
    let hop = |hop: &(&str, &str)| miss.iter().find(|span| span.is(hop)).expect("waited for");
    for (below, above) in [(ASKS, RESOLVES), (ASKED, ASKS), (READS, ASKED), (LOADS, SERVED), (RESOLVES, SERVED)] {
        assert!(hop(&below).is_under(hop(&above), &miss), "{below:?} under {above:?}:\n{}", outline(&miss));
    }

    // Another permission of the same user: another question, decided by what is kept.
    user.get("/api/v1/users").await.json(200);
    let hit = resolution(&platform, before + 1, &[]).await;
    assert!(!hit.iter().any(|span| span.is(&ASKS) || span.is(&LOADS)), "{}", outline(&hit));
    user.get("/api/v1/roles").await.problem(403, "permission_denied");

    // A permission taken from the inherited role: the roles are read again, and of the user nothing.
    let taken = Reply::of(admin.request(Method::DELETE, "/api/v1/roles/base/permissions/audit.entries.read")).await;
    assert!(!taken.json(200)["consistencyToken"].as_str().expect("a token").is_empty());
    let before = resolved(&platform).len();
    user.get("/api/v1/audit/entries").await.problem(403, "permission_denied");
    let again = resolution_in("audit", &platform, before, &[LOADS]).await;
    assert!(!again.iter().any(|span| span.is(&ASKS)), "{}", outline(&again));
    user.get("/api/v1/users").await.json(200);
}

async fn put(http: &Http, path: &str) {
    let reply = Reply::of(http.request(Method::PUT, path)).await;
    assert!((200..300).contains(&reply.status), "{reply:?}");
}

/// Somebody without a role, by id, and signed in.
async fn registered(platform: &Platform) -> (String, Http) {
    let person = Person::registered(&platform.http()).await;
    let user = platform.http().signed_in(&person.email, &person.password).await;
    let me = user.get("/api/v1/users/me").await.json(200);
    (me["id"].as_str().expect("an id").to_owned(), user)
}

/// All resolutions for other services received so far.
fn resolved(platform: &Platform) -> Vec<Span> {
    let spans = platform.traces().spans();
    spans.into_iter().filter(|span| span.is(&SERVED)).collect()
}

/// The trace of the resolution with this number, once it has all `hops`.
async fn resolution(platform: &Platform, number: usize, hops: &[(&str, &str)]) -> Vec<Span> {
    resolution_in("", platform, number, hops).await
}

/// The same of the first behind `number` that was made for a service.
async fn resolution_in(service: &str, platform: &Platform, number: usize, hops: &[(&str, &str)]) -> Vec<Span> {
    wait::until(&format!("resolution {number} with {hops:?}"), async || {
        let spans = platform.traces().spans();
        resolved(platform).into_iter().skip(number).find_map(|first| {
            let trace: Vec<Span> = spans.iter().filter(|span| span.trace_id == first.trace_id).cloned().collect();
            let is_for = service.is_empty() || trace.iter().any(|span| span.service == service);
            (is_for && hops.iter().all(|hop| trace.iter().any(|span| span.is(hop)))).then_some(trace)
        })
    })
    .await
}
