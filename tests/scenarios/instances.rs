//! Several instances of everything: they share the work, and one that is stopped fails nobody's request.

use std::{collections::BTreeMap, time::Duration};

use platform_tests::{Platform, Setup, broker::Broker, http::Reply, load::Load, people::Person, wait};
use reqwest::Method;
use serde_json::json;

/// Concurrent clients, each with connections that it keeps.
const CLIENTS: usize = 8;

/// Successes before, and after, each stop.
const ROUNDS: usize = 60;

#[tokio::test]
async fn two_instances_of_each_service_share_the_work() {
    let platform = Setup::new()
        .instances("identity", 2)
        .instances("auth", 2)
        .instances("authz", 2)
        .instances("audit", 2)
        .start()
        .await;
    let ops = platform.user("ops").connect().await;
    let (http, admin) = (platform.http(), platform.admin().await);
    let person = Person::registered(&http).await;

    wait::until("every instance has served", async || {
        http.login(&person.email, &person.password).await;
        admin.get("/api/v1/audit/entries?pageSize=1").await.json(200);
        admin.get("/api/v1/roles").await.json(200);
        let served = served(&ops).await;
        let shared = |service: &str| served.iter().filter(|((name, _), count)| name == service && **count > 0).count();
        ["identity", "auth", "authz", "audit"].iter().all(|service| shared(service) == 2).then_some(())
    })
    .await;

    // Each record was stored once, whichever instance of audit read it.
    platform.check_audit_log().await;
}

#[tokio::test]
async fn stopping_one_instance_of_each_service_under_load_fails_no_request() {
    let platform = Setup::new()
        .instances("identity", 2)
        .instances("auth", 2)
        .instances("authz", 2)
        .instances("audit", 2)
        .start()
        .await;
    let load = mixed_load(&platform).await;
    load.proceed(ROUNDS).await;

    for service in ["identity", "auth", "authz", "audit"] {
        for instance in [1, 2] {
            let process = platform.process(service, instance);
            process.stop().await.unwrap();
            let exit = process.state().last_exit.unwrap_or_default();
            assert!(exit.contains("exit status: 0"), "{service} {instance} left in order: {exit}");
            load.proceed(ROUNDS / 2).await;
            process.start().await.unwrap();
            process.ready(wait::WAIT_MAX).await.unwrap();
            load.proceed(ROUNDS / 2).await;
        }
    }

    let (done, failures) = load.stop().await;
    assert!(failures.is_empty(), "{} of {done} failed:\n{}", failures.len(), failures.join("\n"));
}

#[tokio::test]
async fn stopping_one_of_two_gateways_on_one_socket_fails_no_request() {
    let platform = Setup::new().instances("gateway", 2).start().await;
    let load = mixed_load(&platform).await;
    load.proceed(ROUNDS).await;

    for instance in [1, 2, 1] {
        let process = platform.process("gateway", instance);
        process.stop().await.unwrap();
        load.proceed(ROUNDS).await;
        process.start().await.unwrap();
        process.ready(wait::WAIT_MAX).await.unwrap();
        load.proceed(ROUNDS).await;
    }

    let (done, failures) = load.stop().await;
    assert!(failures.is_empty(), "{} of {done} failed:\n{}", failures.len(), failures.join("\n"));
}

#[tokio::test]
async fn two_gateways_share_a_socket_and_have_one_each() {
    let platform = Setup::new().instances("gateway", 2).start().await;

    let own: Vec<_> = [1, 2].map(|instance| platform.gateway(instance)).into();

    assert_ne!(own[0].base(), own[1].base());
    for gateway in own.iter().chain([&platform.http()]) {
        assert_eq!(gateway.get("/readyz").await.status, 200, "{}", gateway.base());
    }
}

/// Reads, writes and sign-ins over kept connections; a failure is any answer but the expected, or none.
async fn mixed_load(platform: &Platform) -> Load {
    let http = platform.http();
    let person = Person::registered(&http).await;
    let (user, admin) = (http.signed_in(&person.email, &person.password).await, platform.admin().await);
    Load::start(CLIENTS, Duration::ZERO, move |worker, round| {
        let (http, user, admin, person) = (http.clone(), user.clone(), admin.clone(), person.clone());
        async move {
            let login = json!({ "email": person.email, "password": person.password });
            let (request, expected) = match (worker, round % 4) {
                (0, _) => (http.request(Method::POST, "/api/v1/auth/login").json(&login), 200),
                (1, _) => {
                    (http.request(Method::POST, "/api/v1/registrations").json(&Person::new().registration()), 202)
                }
                (_, 0) => (admin.request(Method::GET, "/api/v1/audit/entries?pageSize=2"), 200),
                (_, 1) => (admin.request(Method::GET, "/api/v1/users?pageSize=2"), 200),
                (_, 2) => (http.request(Method::GET, "/.well-known/jwks.json"), 200),
                _ => (user.request(Method::GET, "/api/v1/users/me"), 200),
            };
            match Reply::try_of(request).await {
                Ok(reply) if reply.status == expected => Ok(()),
                Ok(reply) => Err(format!("{reply:?}")),
                Err(error) => Err(format!("{error:?}")),
            }
        }
    })
}

/// Requests served by each instance, from discovery.
async fn served(ops: &Broker) -> BTreeMap<(String, String), u64> {
    let stats = ops.gather("$SRV.STATS").await;
    stats
        .iter()
        .map(|stats| {
            let endpoints = stats["endpoints"].as_array().unwrap();
            let requests = endpoints.iter().map(|endpoint| endpoint["num_requests"].as_u64().unwrap()).sum();
            let text = |field: &str| stats[field].as_str().unwrap().to_owned();
            ((text("name"), text("id")), requests)
        })
        .collect()
}
