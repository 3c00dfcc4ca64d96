//! Scenario 3: authz finds what a user may do: from what is kept; else the user's roles from identity, own and by groups,
//! and what they permit from its own database, inherited ones too; then it decides.

use platform_tests::{
    Platform, Setup,
    http::{Http, Reply},
    people::Person,
    traces::outline,
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

    // A miss: both are read.
    let read = answered(&user, "/api/v1/audit/entries", 200).await;
    let miss = platform.traces().of_reply(&read, &[SERVED, RESOLVES, ASKS, ASKED, READS, LOADS]).await;
    let hop = |hop: &(&str, &str)| miss.iter().find(|span| span.is(hop)).expect("waited for");
    for (below, above) in [(ASKS, RESOLVES), (ASKED, ASKS), (READS, ASKED), (LOADS, SERVED), (RESOLVES, SERVED)] {
        assert!(hop(&below).is_under(hop(&above), &miss), "{below:?} under {above:?}:\n{}", outline(&miss));
    }

    // Another permission of the same user: another question, decided by what is kept.
    let listed = user.get("/api/v1/users").await;
    listed.json(200);
    let hit = platform.traces().of_reply(&listed, &[SERVED]).await;
    assert!(!hit.iter().any(|span| span.is(&ASKS) || span.is(&LOADS)), "{}", outline(&hit));
    user.get("/api/v1/roles").await.problem(403, "permission_denied");

    // A permission taken from the inherited role: the roles are read again, and of the user nothing.
    let taken = Reply::of(admin.request(Method::DELETE, "/api/v1/roles/base/permissions/audit.entries.read")).await;
    assert!(taken.json(200)["consistencyToken"].is_string());
    let refused = answered(&user, "/api/v1/audit/entries", 403).await;
    refused.problem(403, "permission_denied");
    let again = platform.traces().of_reply(&refused, &[SERVED, LOADS]).await;
    assert!(!again.iter().any(|span| span.is(&ASKS)), "{}", outline(&again));
    user.get("/api/v1/users").await.json(200);
}

/// Asks until the answer has this status: where the broker is slow, a change is in force a moment after its answer.
async fn answered(http: &Http, path: &str, status: u16) -> Reply {
    wait::until(&format!("{path} is {status}"), async || {
        let reply = http.get(path).await;
        (reply.status == status).then_some(reply)
    })
    .await
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
