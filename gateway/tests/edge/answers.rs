//! The fields that answers carry, and what of a request's fields is believed.

use platform_tests::Setup;
use platform_tests::http::Reply;
use platform_tests::people::Person;
use reqwest::Method;
use serde_json::json;

use crate::shared;

#[tokio::test]
async fn every_answer_is_hardened_and_named() {
    let platform = shared().await;
    let http = platform.gateway(1);

    for path in ["/livez", "/openapi.json", "/.well-known/jwks.json", "/nowhere", "//", "/api/v1/users/me"] {
        let reply = http.get(path).await;
        assert_eq!(reply.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(reply.header("referrer-policy"), "no-referrer", "{path}");
        assert!(
            reply.header("content-security-policy").contains("default-src 'none'; frame-ancestors 'none'"),
            "{path}"
        );
        assert!(!reply.header("cache-control").is_empty() && !reply.header("x-request-id").is_empty(), "{path}");
        for absent in ["server", "strict-transport-security", "x-powered-by"] {
            assert!(!reply.headers.contains_key(absent), "{path}: {absent}");
        }
    }
}

#[tokio::test]
async fn cache_lifetimes_are_the_contracts() {
    let platform = shared().await;
    let person = Person::registered(&platform.http()).await;
    let http = platform.gateway(1);

    assert_eq!(http.get("/.well-known/jwks.json").await.header("cache-control"), "public, max-age=60");
    let login = json!({ "email": person.email, "password": person.password });
    assert_eq!(http.post("/api/v1/auth/login", &login).await.header("cache-control"), "no-store");
    let me = http.signed_in(&person.email, &person.password).await.get("/api/v1/users/me").await;
    assert_eq!((me.status, me.header("cache-control")), (200, "no-store"));
}

#[tokio::test]
async fn success_has_the_contracts_status() {
    let platform = shared().await;
    let http = platform.gateway(1);
    let person = Person::new();

    let registered = http.post("/api/v1/registrations", &person.registration()).await;
    registered.json(202);
    let user = http.signed_in(&person.email, &person.password).await;
    let logout = Reply::of(user.request(Method::POST, "/api/v1/auth/logout")).await;

    assert_eq!((logout.status, logout.body.as_str()), (204, ""));
    assert!(!logout.headers.contains_key("content-type"));
}

#[tokio::test]
async fn request_ids_go_both_ways_where_they_are_fit() {
    let platform = shared().await;
    let http = platform.gateway(1);
    let id_of = async |given: &str| {
        let reply = Reply::of(http.request(Method::GET, "/api/v1/users/me").header("x-request-id", given)).await;
        let id = reply.header("x-request-id").to_owned();
        assert_eq!(reply.any_problem()["requestId"], id.as_str());
        id
    };

    assert_eq!(id_of("order-17_bC").await, "order-17_bC");
    for unfit in ["", "a b", "a.b", "<script>", &"x".repeat(65)] {
        assert!(uuid::Uuid::parse_str(&id_of(unfit).await).is_ok_and(|id| id.get_version_num() == 7), "{unfit}");
    }
    let refused =
        http.request(Method::POST, "/api/v1/auth/login").header("x-request-id", "mine").json(&json!({"x": 1}));
    let refused = Reply::of(refused).await;
    assert_eq!(
        refused.problem(422, "validation_failed")["requestId"],
        "mine",
        "the service names the request as the edge does"
    );
}

#[tokio::test]
async fn missing_and_bad_credentials_are_challenged() {
    let platform = shared().await;
    let http = platform.gateway(1);
    let with = async |authorization: &str| {
        Reply::of(http.request(Method::GET, "/api/v1/users/me").header("authorization", authorization)).await
    };

    let missing = http.get("/api/v1/users/me").await;
    assert_eq!((missing.status, missing.header("www-authenticate")), (401, "Bearer realm=\"trunkline\""));
    for bad in ["Bearer", "Bearer ", "Bearer\tx", "Bearer a,b", "Bearer a b", "Basic YTpi", "Bearer a.b.c", "x"] {
        let reply = with(bad).await;
        reply.problem(401, "invalid_token");
        assert_eq!(reply.header("www-authenticate"), "Bearer realm=\"trunkline\", error=\"invalid_token\"", "{bad}");
    }
}

#[tokio::test]
async fn what_clients_say_about_themselves_is_not_believed() {
    let platform = Setup::new().start().await;
    let person = Person::registered(&platform.http()).await;
    let http = platform.gateway(1).signed_in(&person.email, &person.password).await;

    let mut forged =
        http.request(Method::POST, "/api/v1/auth/login").json(&json!({ "email": person.email, "password": "wrong" }));
    for (name, value) in [
        ("x-user-id", "root"),
        ("x-roles", "admin"),
        ("x_user_id", "root"),
        ("x-forwarded-for", "203.0.113.9"),
        ("forwarded", "for=203.0.113.9"),
        ("x-real-ip", "203.0.113.9"),
        ("nats-msg-id", "1"),
        ("nats-service-error-code", "200"),
        ("trunkline-context", "CgA"),
        ("traceparent", "00-zz-zz-zz"),
    ] {
        forged = forged.header(name, value);
    }
    let refused = Reply::of(forged).await;

    refused.problem(401, "invalid_credentials");
    let admin = platform.admin().await;
    let request_id = refused.header("x-request-id").to_owned();
    let entry = platform.audit_entry(&admin, "auth.login.failed", |entry| entry["requestId"] == request_id).await;
    assert_eq!(entry["ipAddress"], "127.0.0.1");
    assert_eq!(entry["traceId"].as_str().map(str::len), Some(32), "a new trace: {entry}");
}
