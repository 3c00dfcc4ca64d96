//! What browsers, monitors and readers of the API ask for.

use platform_tests::http::{Http, Reply};
use reqwest::Method;

use crate::{edge, shared};

const ALLOWED: &str = "https://app.example";

async fn from(http: &Http, origin: &str, preflight: bool) -> Reply {
    let method = if preflight { Method::OPTIONS } else { Method::GET };
    let mut request = http.request(method, "/api/v1/users/me").header("origin", origin);
    if preflight {
        request = request.header("access-control-request-method", "GET");
        request = request.header("access-control-request-headers", "authorization");
    }
    Reply::of(request).await
}

#[tokio::test]
async fn pages_of_configured_origins_may_call_and_no_others() {
    let platform = edge().set("gateway.cors.allowed_origins", &format!("[\"{ALLOWED}\"]")).start().await;
    let http = platform.gateway(1);

    let preflight = from(&http, ALLOWED, true).await;
    assert_eq!(preflight.status, 204, "asked before there is a token: {preflight:?}");
    assert_eq!(preflight.header("access-control-allow-origin"), ALLOWED);
    assert!(preflight.header("access-control-allow-methods").contains("PATCH"));
    assert!(preflight.header("access-control-allow-headers").contains("authorization"));
    let call = from(&http, ALLOWED, false).await;
    assert_eq!((call.status, call.header("access-control-allow-origin")), (401, ALLOWED), "refusals can be read too");
    assert!(call.header("access-control-expose-headers").contains("x-request-id"));

    for foreign in [
        "null",
        "https://evil.example",
        "https://app.example.evil",
        "https://xapp.example",
        "http://app.example",
        "https://app.example:444",
        "https://APP.example",
        "https://app.example/",
    ] {
        let preflight = from(&http, foreign, true).await;
        preflight.problem(403, "origin_not_allowed");
        let call = from(&http, foreign, false).await;
        for reply in [&preflight, &call] {
            assert!(!reply.headers.contains_key("access-control-allow-origin"), "{foreign}: {reply:?}");
            assert!(!reply.headers.contains_key("access-control-allow-credentials"), "{foreign}: {reply:?}");
            assert!(reply.headers.get_all("vary").iter().any(|vary| vary == "origin"), "{foreign}: {reply:?}");
        }
    }
}

#[tokio::test]
async fn description_of_the_api_is_served_and_revalidated() {
    let platform = shared().await;
    let http = platform.gateway(1);

    let whole = http.get("/openapi.json").await;
    let document = whole.json(200);
    assert!(document["paths"]["/api/v1/auth/login"]["post"].is_object());
    assert_eq!(whole.header("cache-control"), "no-cache");

    let known = http.request(Method::GET, "/openapi.json").header("if-none-match", whole.header("etag"));
    let known = Reply::of(known).await;
    assert_eq!((known.status, known.body.as_str(), known.header("etag")), (304, "", whole.header("etag")));
}

#[tokio::test]
async fn gateway_is_ready_only_while_it_can_serve() {
    let mut platform = edge().without_services().start().await;
    let _services: Vec<_> = ["identity", "auth", "gateway"].map(|service| platform.add(service)).into();

    platform.process("gateway", 1).ready(platform_tests::wait::WAIT_MAX).await.unwrap();

    let http = platform.gateway(1);
    platform_tests::wait::until("the gateway is ready", async || {
        (http.get("/readyz").await.status == 200).then_some(())
    })
    .await;
    http.get("/.well-known/jwks.json").await.json(200);
}
