//! Rates, times and numbers: who asks too often, too slowly or too much.

use platform_tests::{Platform, people::Person};
use reqwest::Method;
use serde_json::json;

use crate::raw::{Connection, PROBE, ask};
use crate::{edge, shared};

const LOGIN: &str =
    "POST /api/v1/auth/login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n";

#[tokio::test]
async fn client_that_asks_too_often_is_told_when_to_come_back() {
    let setup = edge().rate_limits().set("gateway.rate_limits.requests_burst", "20");
    let platform = setup.set("gateway.rate_limits.requests_per_second", "1").start().await;
    let gateway = platform.gateway(1);

    let mut refused = None;
    for _ in 0..60 {
        let answer = ask(&gateway, PROBE.replace("/livez", "/openapi.json")).await;
        if answer.status != 200 {
            refused = Some(answer);
            break;
        }
    }

    let refused = refused.expect("sixty requests at once are above a burst of twenty");
    assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limited"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    for probe in ["/livez", "/readyz"] {
        assert_eq!(ask(&gateway, PROBE.replace("/livez", probe)).await.status, 200, "{probe} is never limited");
    }
}

#[tokio::test]
async fn credentials_may_be_tried_less_often_than_anything_else() {
    let setup = edge().rate_limits().set("gateway.rate_limits.credentials_burst", "3");
    let platform = setup.set("gateway.rate_limits.credentials_per_minute", "1").start().await;
    let http = platform.gateway(1);
    let login = json!({ "email": "nobody@example.org", "password": "wrong, entirely" });

    for _ in 0..3 {
        http.post("/api/v1/auth/login", &login).await.problem(401, "invalid_credentials");
    }
    let refused = http.post("/api/v1/auth/login", &login).await;

    refused.problem(429, "rate_limited");
    let wait: u64 = refused.header("retry-after").parse().expect("seconds");
    assert!((1..=60).contains(&wait), "{wait}");
    let refresh = http.post("/api/v1/auth/refresh", &json!({ "refreshToken": "x" })).await;
    assert_eq!(refresh.status, 401, "each endpoint has a rate of its own: {refresh:?}");
    http.get("/.well-known/jwks.json").await.json(200);

    // Also where a token is needed besides: who has stolen one must not try passwords with it.
    let person = Person::registered(&http).await;
    let change = json!({ "currentPassword": "wrong, entirely", "newPassword": Person::new().password });
    let member = http.with_token(&token_of(&platform, &person).await);
    for _ in 0..3 {
        member.post("/api/v1/users/me/password", &change).await.problem(422, "validation_failed");
    }
    let refused = member.post("/api/v1/users/me/password", &change).await;
    refused.problem(429, "rate_limited");
    let wait: u64 = refused.header("retry-after").parse().expect("seconds");
    assert!((1..=60).contains(&wait), "{wait}");
    member.get("/api/v1/users/me").await.json(200);
}

/// An access token that was not had by way of the gateway.
async fn token_of(platform: &Platform, person: &Person) -> String {
    let credentials = json!({ "email": person.email, "password": person.password });
    let tokens = platform.user("ops").connect().await.call("svc.auth.v1.login", &credentials).await.json();
    tokens["accessToken"].as_str().expect("a token").to_owned()
}

#[tokio::test]
async fn refusal_reaches_a_client_that_is_still_sending() {
    let platform = shared().await;
    let mut connection = Connection::open(&platform.gateway(1)).await;
    let body = vec![b' '; 4 * 1024 * 1024];

    connection.send(LOGIN.replace("Content-Length: 20", &format!("Content-Length: {}", body.len()))).await;
    assert!(connection.send(body).await, "what is sent is taken, though nobody wants it");

    assert_eq!(connection.answer().await.expect("the refusal arrives").status, 413);
    assert!(connection.closes().await);
}

#[tokio::test]
async fn slow_heads_and_idle_connections_are_closed() {
    let setup = edge().set("gateway.header_timeout_ms", "3000").set("gateway.idle_timeout_ms", "4000");
    let platform = setup.start().await;
    let gateway = platform.gateway(1);

    let mut silent = Connection::open(&gateway).await;
    let mut slow = Connection::open(&gateway).await;
    slow.send("GET /livez HTTP/1.1\r\nHo").await;
    let mut idle = Connection::open(&gateway).await;
    idle.send(PROBE).await;
    assert_eq!(idle.answer().await.unwrap().status, 200);

    assert!(silent.closes().await && slow.closes().await && idle.closes().await);
    assert!(Connection::open(&gateway).await.serves().await);
}

#[tokio::test]
async fn body_that_does_not_come_is_408() {
    let platform = edge().set("gateway.body_timeout_ms", "300").start().await;
    let mut connection = Connection::open(&platform.gateway(1)).await;

    connection.send(format!("{LOGIN}{{")).await;

    let answer = connection.answer().await.unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (408, "request_timeout"));
    assert!(connection.closes().await);
}

#[tokio::test]
async fn body_is_asked_for_only_where_it_will_be_read() {
    let platform = shared().await;
    let gateway = platform.gateway(1);
    let expecting = LOGIN.replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n");

    let mut wanted = Connection::open(&gateway).await;
    wanted.send(&expecting).await;
    assert_eq!(wanted.answer().await.unwrap().status, 100);
    wanted.send("{                  }").await;
    assert!((400..500).contains(&wanted.answer().await.unwrap().status));

    let mut unwanted = Connection::open(&gateway).await;
    unwanted.send(expecting.replace("Length: 20", "Length: 200000")).await;
    assert_eq!(unwanted.answer().await.unwrap().status, 413);
    assert!(unwanted.closes().await);
}

#[tokio::test]
async fn requests_beyond_the_places_are_refused_at_once() {
    let platform = edge().set("gateway.in_flight_max", "1").start().await;
    let http = platform.gateway(1);
    let mut taker = Connection::open(&http).await;
    taker.send(LOGIN.replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n")).await;
    assert_eq!(taker.answer().await.unwrap().status, 100, "it has its place and its body is awaited");

    let refused = http.get("/.well-known/jwks.json").await;

    refused.problem(503, "overloaded");
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(http.get("/readyz").await.status, 200);
    drop(taker);
    platform_tests::wait::until("the place is free", async || {
        (http.get("/.well-known/jwks.json").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn service_that_does_not_run_is_503_with_retry_after() {
    let platform = edge().start().await;
    let http = platform.gateway(1);
    platform.process("identity", 1).stop().await.unwrap();

    let registration = json!({ "email": "a@example.org", "password": "long enough, surely", "displayName": "A" });
    let refused = http.request(Method::POST, "/api/v1/registrations").json(&registration);
    let refused = platform_tests::http::Reply::of(refused).await;

    refused.problem(503, "unavailable");
    assert_eq!(refused.header("retry-after"), "1");
    http.get("/.well-known/jwks.json").await.json(200);
}
