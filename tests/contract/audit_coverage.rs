//! Every endpoint that changes something leaves its record, every reading of the log too, every refusal, and every event of
//! the contract can be seen in the log. A new endpoint or event fails here until it is added to the walk below; the list
//! of exceptions may only shrink.

use std::collections::BTreeSet;

use platform_tests::{
    Setup,
    http::{Http, Reply},
    jobs,
    people::Person,
    tail::Tail,
    wait,
};
use reqwest::Method;
use serde_json::{Value, json};
use subjects::{Access, Endpoint, HttpMethod};

/// Endpoints that change something, and the action that the walk below proves for each.
const CHANGES: &[(&str, &str)] = &[
    ("svc.identity.v1.register", "identity.user.registered"),
    ("svc.identity.v1.create_user", "identity.user.created"),
    ("svc.identity.v1.update_user", "identity.user.updated"),
    ("svc.identity.v1.change_password", "identity.user.password_changed"),
    ("svc.identity.v1.disable_user", "identity.user.disabled"),
    ("svc.identity.v1.enable_user", "identity.user.enabled"),
    ("svc.identity.v1.delete_user", "identity.user.deleted"),
    ("svc.identity.v1.assign_role", "identity.user.role_assigned"),
    ("svc.identity.v1.remove_role", "identity.user.role_removed"),
    ("svc.identity.v1.create_group", "identity.group.created"),
    ("svc.identity.v1.update_group", "identity.group.updated"),
    ("svc.identity.v1.delete_group", "identity.group.deleted"),
    ("svc.identity.v1.add_group_member", "identity.group.member_added"),
    ("svc.identity.v1.remove_group_member", "identity.group.member_removed"),
    ("svc.identity.v1.assign_group_role", "identity.group.role_assigned"),
    ("svc.identity.v1.remove_group_role", "identity.group.role_removed"),
    ("svc.authz.v1.create_role", "authz.role.created"),
    ("svc.authz.v1.update_role", "authz.role.updated"),
    ("svc.authz.v1.delete_role", "authz.role.deleted"),
    ("svc.authz.v1.grant_permission", "authz.role.permission_granted"),
    ("svc.authz.v1.revoke_permission", "authz.role.permission_revoked"),
    ("svc.authz.v1.record_denial", "authz.tail_events.denied"),
    ("svc.auth.v1.login", "auth.session.created"),
    ("svc.auth.v1.refresh", "auth.session.refreshed"),
    ("svc.auth.v1.logout", "auth.session.revoked"),
    ("svc.auth.v1.rotate_signing_keys", "auth.keys.rotated"),
    ("svc.audit.v1.verify", "audit.log.verified"),
    ("svc.jobs.v1.submit", "jobs.job.submitted"),
    ("svc.jobs.v1.submit_batch", "jobs.jobs.submitted"),
    ("svc.jobs.v1.cancel_job", "jobs.job.cancel_requested"),
    ("svc.jobs.v1.retry_job", "jobs.job.retried"),
    ("svc.jobs.v1.replay_dead_letter", "jobs.dead_letter.replayed"),
    ("svc.jobs.v1.replay_dead_letters", "jobs.dead_letters.replayed"),
    ("svc.jobs.v1.purge_dead_letters", "jobs.dead_letters.purged"),
    ("svc.jobs.v1.put_queue", "jobs.queue.put"),
    ("svc.jobs.v1.pause_queue", "jobs.queue.paused"),
    ("svc.jobs.v1.resume_queue", "jobs.queue.resumed"),
    ("svc.jobs.v1.create_schedule", "jobs.schedule.created"),
    ("svc.jobs.v1.update_schedule", "jobs.schedule.updated"),
    ("svc.jobs.v1.pause_schedule", "jobs.schedule.paused"),
    ("svc.jobs.v1.resume_schedule", "jobs.schedule.resumed"),
    ("svc.jobs.v1.run_now", "jobs.schedule.run"),
    ("svc.jobs.v1.delete_schedule", "jobs.schedule.deleted"),
];

/// Endpoints that only answer a question, which is too long for a path.
const QUESTIONS: &[&str] =
    &["svc.authz.v1.check", "svc.authz.v1.check_batch", "svc.authz.v1.explain", "svc.jobs.v1.preview_schedule"];

/// Changing endpoints that leave no record. Must stay empty.
const UNRECORDED: &[&str] = &[];

/// Endpoints that read the log, and the action of each reading.
const READINGS: &[(&str, &str)] = &[
    ("svc.audit.v1.list_entries", "audit.entries.listed"),
    ("svc.audit.v1.get_entry", "audit.entry.read"),
    ("svc.audit.v1.list_checkpoints", "audit.checkpoints.listed"),
    ("svc.audit.v1.export_entries", "audit.entries.exported"),
];

/// Actions that are no endpoint's success, and that the walk proves too.
const OTHERS: &[&str] =
    &["auth.login.failed", "auth.session.reuse_detected", "jobs.job.cancelled", "jobs.job.dead_lettered"];

/// Whether the contract says, or leaves open, that an endpoint changes something.
fn is_changing(endpoint: &Endpoint) -> bool {
    let asks = QUESTIONS.contains(&endpoint.subject);
    !endpoint.idempotent || !asks && endpoint.http.as_ref().is_some_and(|http| http.method != HttpMethod::Get)
}

fn names<'a>(list: &[(&'a str, &'a str)]) -> BTreeSet<&'a str> {
    list.iter().map(|(subject, _)| *subject).collect()
}

#[test]
fn the_walk_covers_every_changing_endpoint_every_reading_and_every_event() {
    let changing: BTreeSet<&str> =
        subjects::endpoints().filter(|endpoint| is_changing(endpoint)).map(|endpoint| endpoint.subject).collect();
    let unrecorded: Vec<_> = changing.difference(&names(CHANGES)).copied().collect();
    assert_eq!(unrecorded, UNRECORDED, "changing endpoints that record nothing");
    assert_eq!(names(CHANGES), changing);

    let reading: BTreeSet<&str> = subjects::endpoints()
        .filter(|endpoint| endpoint.service == "audit" && !is_changing(endpoint))
        .map(|endpoint| endpoint.subject)
        .collect();
    assert_eq!(names(READINGS), reading);

    let events: BTreeSet<&str> =
        subjects::SERVICES.iter().flat_map(|service| service.events.iter()).map(|event| event.action()).collect();
    let covered: BTreeSet<&str> = CHANGES.iter().map(|(_, action)| *action).chain(OTHERS.iter().copied()).collect();
    let uncovered: Vec<_> = events.difference(&covered).collect();
    assert_eq!(uncovered, [] as [&&str; 0], "events that are not seen in the log");
}

#[tokio::test]
async fn every_refusal_of_a_permission_is_recorded() {
    let platform = Setup::new().instances("gateway", 0).start().await;
    let ops = platform.user("ops").connect().await;
    let person = Person::new();
    ops.call("svc.identity.v1.register", &person.registration()).await.json();
    let credentials = json!({ "email": person.email, "password": person.password });
    let tokens = ops.call("svc.auth.v1.login", &credentials).await.json();
    let guarded: Vec<&Endpoint> =
        subjects::endpoints().filter(|endpoint| matches!(endpoint.access, Access::Permission(_))).collect();

    for endpoint in &guarded {
        let token = tokens["accessToken"].as_str().unwrap();
        ops.call_as(token, endpoint.subject, &json!({})).await.problem(403, "permission_denied");
    }

    platform.settled().await;
    let mut database = platform.superuser().await;
    let recorded: Vec<String> =
        sqlx::query_scalar("SELECT action FROM audit.entries WHERE outcome = 'DENIED' AND actor_type = 'USER'")
            .fetch_all(&mut database)
            .await
            .unwrap();
    let unrecorded: Vec<String> = guarded
        .iter()
        .map(|endpoint| format!("{}.{}.denied", endpoint.service, endpoint.name))
        .filter(|action| !recorded.contains(action))
        .collect();
    assert_eq!(unrecorded, [] as [String; 0], "refusals that record nothing");
}

#[tokio::test]
async fn every_changing_endpoint_and_every_event_appears_in_the_log() {
    let platform = Setup::new().start().await;
    let (http, admin) = (platform.http(), platform.admin().await);

    let person = Person::registered(&http).await;
    admin.post("/api/v1/users", &Person::new().registration()).await.json(201);
    http.post("/api/v1/auth/login", &json!({ "email": person.email, "password": "wrong, entirely" }))
        .await
        .problem(401, "invalid_credentials");
    let reused = http.login(&person.email, &person.password).await;
    let refresh = json!({ "refreshToken": reused["refreshToken"] });
    http.post("/api/v1/auth/refresh", &refresh).await.json(200);
    platform.outwait_refresh_retries().await;
    http.post("/api/v1/auth/refresh", &refresh).await.any_problem();
    let tokens = http.login(&person.email, &person.password).await;
    let user = http.with_token(tokens["accessToken"].as_str().unwrap());
    Tail::refused(&user, "evt.%3E", None).await.problem(403, "permission_denied");
    let change = json!({ "currentPassword": person.password, "newPassword": Person::new().password });
    assert_eq!(user.post("/api/v1/users/me/password", &change).await.status, 204);
    let reply = user.post("/api/v1/auth/logout", &json!({})).await;
    assert_eq!(reply.status, 204);
    admin.post("/api/v1/auth/keys/rotate", &json!({})).await.json(200);
    change_who_may_what(&admin).await;
    admin.post("/api/v1/audit/verify", &json!({})).await.json(200);
    let entry = platform.audit_entry(&admin, "identity.user.registered", |_| true).await;
    admin.get(&format!("/api/v1/audit/entries/{}", entry["id"].as_str().unwrap())).await.json(200);
    admin.get("/api/v1/audit/checkpoints").await.json(200);
    assert_eq!(admin.get("/api/v1/audit/export").await.status, 200);

    walk_jobs(&admin).await;

    let actions = CHANGES.iter().chain(READINGS).map(|(_, action)| *action);
    for action in actions.chain(OTHERS.iter().copied()) {
        let any = action != "auth.keys.rotated";
        // The first key is made by the service.
        let entry = platform.audit_entry(&admin, action, |entry| any || entry["actor"]["type"] == "USER").await;
        assert!(!entry["target"]["type"].as_str().unwrap().is_empty(), "{entry}");
        let by_service = entry["actor"]["type"] == "SERVICE";
        assert!(by_service || entry["requestId"].as_str().is_some_and(|id| !id.is_empty()), "{entry}");
    }
}

/// Every change of users' states, of groups and of roles, each once.
async fn change_who_may_what(admin: &Http) {
    let send = async |method: Method, path: &str, body: Value| {
        let request = admin.request(method.clone(), &format!("/api/v1/{path}"));
        let request = if method == Method::DELETE { request } else { request.json(&body) };
        let reply = Reply::of(request).await;
        assert!(reply.status < 300, "{path}: {reply:?}");
        serde_json::from_str::<Value>(&reply.body).unwrap()
    };
    let user = send(Method::POST, "users", Person::new().registration()).await;
    let user = user["id"].as_str().unwrap();
    let group = send(Method::POST, "groups", json!({ "name": "Walkers" })).await;
    let group = group["id"].as_str().unwrap();
    for (method, path, body) in [
        (Method::POST, "roles".to_owned(), json!({ "name": "walker" })),
        (Method::PATCH, "roles/walker".to_owned(), json!({ "description": "Walks" })),
        (Method::PUT, "roles/walker/permissions/audit.%2A.read".to_owned(), json!({})),
        (Method::DELETE, "roles/walker/permissions/audit.*.read".to_owned(), json!({})),
        (Method::PUT, format!("users/{user}/roles/walker"), json!({})),
        (Method::DELETE, format!("users/{user}/roles/walker"), json!({})),
        (Method::PATCH, format!("groups/{group}"), json!({ "description": "Who walk" })),
        (Method::PUT, format!("groups/{group}/members/{user}"), json!({})),
        (Method::PUT, format!("groups/{group}/roles/walker"), json!({})),
        (Method::DELETE, format!("groups/{group}/roles/walker"), json!({})),
        (Method::DELETE, format!("groups/{group}/members/{user}"), json!({})),
        (Method::DELETE, format!("groups/{group}"), json!({})),
        (Method::PATCH, format!("users/{user}"), json!({ "displayName": "Walker" })),
        (Method::POST, format!("users/{user}/disable"), json!({})),
        (Method::POST, format!("users/{user}/enable"), json!({})),
        (Method::DELETE, format!("users/{user}"), json!({})),
        (Method::DELETE, "roles/walker".to_owned(), json!({})),
    ] {
        send(method, &path, body).await;
    }
}

/// Everything that changes a job, a dead letter, a queue or a schedule.
async fn walk_jobs(admin: &Http) {
    let empty = json!({});
    let ahead = json!({ "queue": "walk", "kind": "step", "runAt": "2030-01-01T00:00:00Z" });
    let job = admin.post("/api/v1/jobs", &ahead).await.json(202)["jobId"].as_str().unwrap().to_owned();
    admin.post("/api/v1/jobs/batch", &json!({ "jobs": [ahead] })).await.json(202);
    admin.post(&format!("/api/v1/jobs/{job}/cancel"), &empty).await.json(200);
    admin.post(&format!("/api/v1/jobs/{job}/retry"), &empty).await.json(200);
    admin.put("/api/v1/queues/walk", &empty).await.json(200);
    admin.post("/api/v1/queues/walk/pause", &empty).await.json(200);
    admin.post("/api/v1/queues/walk/resume", &empty).await.json(200);

    let yearly = json!({ "name": "walk", "cron": "0 0 1 1 *", "queue": "walk", "kind": "step" });
    let schedule = admin.post("/api/v1/schedules", &yearly).await.json(201)["id"].as_str().unwrap().to_owned();
    let schedule = format!("/api/v1/schedules/{schedule}");
    admin.patch(&schedule, &json!({ "cron": "0 0 2 1 *" })).await.json(200);
    admin.post(&format!("{schedule}/pause"), &empty).await.json(200);
    admin.post(&format!("{schedule}/resume"), &empty).await.json(200);
    admin.post(&format!("{schedule}/run-now"), &empty).await.json(202);
    assert_eq!(admin.delete(&schedule).await.status, 204);

    let fails = json!({ "queue": "diagnostics", "kind": "fail", "args": { "attempts": 9 }, "maxAttempts": 1 });
    let dead = admin.post("/api/v1/jobs", &fails).await.json(202)["jobId"].as_str().unwrap().to_owned();
    wait::until("a dead letter", async || {
        (admin.get(&format!("/api/v1/dead-letters/{dead}")).await.status == 200).then_some(())
    })
    .await;
    jobs::job_in(admin, &dead, "DEAD_LETTER").await;
    admin.post(&format!("/api/v1/dead-letters/{dead}/replay"), &empty).await.json(200);
    admin.post("/api/v1/dead-letters/replay", &empty).await.json(200);
    assert_eq!(admin.delete("/api/v1/dead-letters?all=true").await.status, 200);
}
