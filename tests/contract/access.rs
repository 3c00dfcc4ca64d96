//! Who may call what: for every endpoint of the contract, so that a new one is covered the day it is declared.

use std::collections::{BTreeMap, BTreeSet};

use platform_tests::{Setup, http::Reply, people::Person};
use reqwest::Method;
use serde_json::json;
use subjects::{Access, Endpoint, HttpMethod};

/// An id that nothing has.
const NOBODY: &str = "0197f000-0000-7000-8000-000000000000";

#[test]
fn every_endpoint_has_one_way_in_that_its_access_rule_guards() {
    for endpoint in subjects::endpoints() {
        let name = endpoint.subject;
        assert!(!endpoint.description.is_empty(), "{name} says what it does");
        assert!(endpoint.timeout_ms > 0 && endpoint.body_max_bytes > 0, "{name} is bounded");
        match endpoint.access {
            Access::Internal(callers) => {
                assert!(endpoint.http.is_none(), "{name} is internal and has no HTTP route");
                assert!(!callers.is_empty(), "{name} names its callers");
            }
            Access::Permission(permission) => {
                assert!(endpoint.http.is_some(), "{name} has an HTTP route");
                assert!(permission.starts_with(&format!("{}.", endpoint.service)), "{name}: {permission} is its own");
            }
            Access::Public | Access::Token => assert!(endpoint.http.is_some(), "{name} has an HTTP route"),
        }
    }
}

#[test]
fn no_endpoint_is_without_an_access_rule() {
    let mut without: BTreeSet<&str> = subjects::endpoints().map(|endpoint| endpoint.subject).collect();
    for endpoint in subjects::endpoints() {
        let declared = match endpoint.access {
            Access::Permission(permission) => permission.split('.').filter(|word| !word.is_empty()).count() == 3,
            Access::Internal(callers) => !callers.is_empty(),
            // Both are only for what people reach over HTTP.
            Access::Public | Access::Token => endpoint.http.is_some(),
        };
        if declared {
            without.remove(endpoint.subject);
        }
    }
    assert_eq!(without, BTreeSet::new(), "endpoints without a declared access rule");
}

fn behind_permissions() -> impl Iterator<Item = &'static Endpoint> {
    subjects::endpoints().filter(|endpoint| matches!(endpoint.access, Access::Permission(_)))
}

#[test]
fn http_routes_are_unique() {
    let mut routes = BTreeMap::new();
    for endpoint in subjects::endpoints() {
        if let Some(http) = &endpoint.http {
            // Two paths that differ only in the name of a parameter are one route.
            let mut shape = http.path.to_owned();
            for field in http.path_fields {
                shape = shape.replace(&format!("{{{field}}}"), "{}");
            }
            let other = routes.insert((http.method.as_str(), shape), endpoint.subject);
            assert_eq!(other, None, "{} has a route of its own", endpoint.subject);
        }
    }
}

#[tokio::test]
async fn every_endpoint_behind_a_token_refuses_a_caller_without_one() {
    let platform = Setup::new().start().await;
    let ops = platform.user("ops").connect().await;
    let mut refused = 0;

    for endpoint in subjects::endpoints().filter(|endpoint| needs_token(endpoint)) {
        let over_http = send(&platform.http(), endpoint).await;
        let over_nats = ops.call(endpoint.subject, &json!({})).await;

        over_http.problem(401, "invalid_token");
        assert!(over_http.header("www-authenticate").starts_with("Bearer"), "{}: RFC 6750 §3", endpoint.subject);
        over_nats.problem(401, "invalid_token");
        refused += 1;
    }

    assert!(refused >= 6, "the contract has endpoints behind a token");
}

#[tokio::test]
async fn every_endpoint_behind_a_permission_refuses_a_user_without_it() {
    let platform = Setup::new().start().await;
    let ops = platform.user("ops").connect().await;
    let person = Person::registered(&platform.http()).await;
    let tokens = platform.http().login(&person.email, &person.password).await;
    let token = tokens["accessToken"].as_str().unwrap();
    let (user, admin) = (platform.http().with_token(token), platform.admin().await);
    let admin_token = platform.admin_token().await;
    let mut unproven: BTreeSet<&str> = behind_permissions().map(|endpoint| endpoint.subject).collect();
    assert!(unproven.len() >= 20, "the contract has endpoints behind a permission");

    for endpoint in behind_permissions() {
        send(&user, endpoint).await.problem(403, "permission_denied");
        ops.call_as(token, endpoint.subject, &json!({})).await.problem(403, "permission_denied");

        // The same request from an administrator comes to the handler, whatever that thinks of it.
        let allowed = send(&admin, endpoint).await;
        assert!(![401, 403].contains(&allowed.status) && allowed.status < 500, "{}: {allowed:?}", endpoint.subject);
        let allowed = ops.call_as(&admin_token, endpoint.subject, &json!({})).await;
        assert!(![401, 403].contains(&allowed.error_code) && allowed.error_code < 500, "{allowed:?}");
        unproven.remove(endpoint.subject);
    }

    assert_eq!(unproven, BTreeSet::new(), "endpoints of which no test shows that they refuse who lacks the permission");
    // What the gateway serves itself.
    user.get("/api/v1/events").await.problem(403, "permission_denied");
}

#[tokio::test]
async fn refusals_are_recorded_as_denied() {
    let platform = Setup::new().start().await;
    let person = Person::registered(&platform.http()).await;
    let user = platform.http().signed_in(&person.email, &person.password).await;

    let refused = user.get("/api/v1/users").await;

    refused.problem(403, "permission_denied");
    let admin = platform.admin().await;
    let request = refused.header("x-request-id").to_owned();
    let entry = platform.audit_entry(&admin, "identity.list_users.denied", |entry| entry["requestId"] == request).await;
    assert_eq!(entry["outcome"], "DENIED");
    assert_eq!(entry["actor"]["type"], "USER");
}

fn needs_token(endpoint: &Endpoint) -> bool {
    matches!(endpoint.access, Access::Token | Access::Permission(_))
}

/// The simplest request that reaches the endpoint's access rule.
async fn send(http: &platform_tests::http::Http, endpoint: &Endpoint) -> Reply {
    let route = endpoint.http.as_ref().expect("has an HTTP route");
    let mut path = route.path.to_owned();
    for field in route.path_fields {
        path = path.replace(&format!("{{{field}}}"), NOBODY);
    }
    let request = http.request(Method::from_bytes(route.method.as_str().as_bytes()).expect("a method"), &path);
    let has_body = !matches!(route.method, HttpMethod::Get | HttpMethod::Delete);
    Reply::of(if has_body { request.json(&json!({})) } else { request }).await
}
