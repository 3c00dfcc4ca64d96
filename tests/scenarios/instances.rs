//! Several instances of everything share the work.

use std::{collections::BTreeMap, time::Duration};

use platform_tests::{Setup, broker::Broker, people::Person, wait};

#[tokio::test]
async fn two_instances_of_each_service_share_the_work() {
    let platform = Setup::new().instances("identity", 2).instances("auth", 2).instances("audit", 2).start().await;
    let ops = platform.user("ops").connect().await;
    let (http, admin) = (platform.http(), platform.admin().await);
    let person = Person::registered(&http).await;

    wait::until("every instance has served", async || {
        http.login(&person.email, &person.password).await;
        admin.get("/api/v1/audit/entries?pageSize=1").await.json(200);
        let served = served(&ops).await;
        let shared = |service: &str| served.iter().filter(|((name, _), count)| name == service && **count > 0).count();
        ["identity", "auth", "audit"].iter().all(|service| shared(service) == 2).then_some(())
    })
    .await;

    // Each record was stored once, whichever instance of audit read it.
    platform.settled().await;
    platform.check_audit_log().await;
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

/// Requests served by each instance, from discovery.
async fn served(ops: &Broker) -> BTreeMap<(String, String), u64> {
    let stats = ops.gather("$SRV.STATS", Duration::from_millis(300)).await;
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
