//! Paths, methods, queries and types: each request meets its own route or none.

use crate::raw::{Answer, Connection, ask};
use crate::shared;

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

fn with_method(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

fn refused(answer: &Answer) -> (u16, String) {
    (answer.status, answer.code())
}

#[tokio::test]
async fn paths_with_a_second_reading_reach_no_route() {
    let platform = shared().await;
    let gateway = platform.gateway(1);

    for path in [
        "//livez",
        "/./livez",
        "/x/../livez",
        "/..",
        "/%2e%2e/livez",
        "/%2E/livez",
        "/livez%2f",
        "/%2flivez",
        "/livez%5c",
        "/livez\\",
        "/livez%00",
        "/livez%0a",
        "/livez;p=1",
        "/livez%3bp",
        "/livez%252e",
        "/%252e%252e/livez",
        "/livez%",
        "/livez%zz",
        "/livez%c0%ae",
        "/livez%ff",
        "/live\u{e9}",
        "/api/v1//users/me",
        "/api/v1/users/%2e%2e/me",
        "/api/v1/users/x%2fy",
    ] {
        let answer = ask(&gateway, get(path)).await;
        assert_eq!(refused(&answer), (400, "malformed_path".to_owned()), "{path}: {answer:?}");
    }
    for path in [
        "/",
        "/livez/",
        "/LIVEZ",
        "/livez.",
        "/livez%20",
        "/%6civez",
        "/livez,",
        "/api/v1/users/me/",
        "/api",
        "/metrics",
        "/api/v1/users/x/verify",
        "/svc.identity.v1.verify_credentials",
        "/index.html",
    ] {
        let answer = ask(&gateway, get(path)).await;
        assert_eq!(refused(&answer), (404, "not_found".to_owned()), "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn methods_are_answered_as_each_path_knows_them() {
    let platform = shared().await;
    let gateway = platform.gateway(1);

    for (method, path, status, code, allow) in [
        ("POST", "/livez", 405, "method_not_allowed", Some("GET, HEAD, OPTIONS")),
        ("GET", "/api/v1/auth/login", 405, "method_not_allowed", Some("POST, OPTIONS")),
        ("DELETE", "/api/v1/users", 405, "method_not_allowed", Some("GET, HEAD, POST, OPTIONS")),
        ("TRACE", "/livez", 405, "method_not_allowed", Some("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")),
        ("CONNECT", "a:80", 405, "method_not_allowed", Some("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")),
        ("BREW", "/livez", 501, "method_not_implemented", None),
        ("get", "/livez", 501, "method_not_implemented", None),
        ("POST", "/nowhere", 404, "not_found", None),
        ("GET", "*", 400, "malformed_request", None),
    ] {
        let answer = ask(&gateway, with_method(method, path)).await;
        assert_eq!(refused(&answer), (status, code.to_owned()), "{method} {path}: {answer:?}");
        assert_eq!(answer.header("allow"), allow, "{method} {path}");
    }
    for (path, allow) in [("/livez", "GET, HEAD, OPTIONS"), ("*", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")] {
        let answer = ask(&gateway, with_method("OPTIONS", path)).await;
        assert_eq!((answer.status, answer.header("allow")), (204, Some(allow)), "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn head_says_what_get_would_without_its_body() {
    let platform = shared().await;
    for path in ["/livez", "/openapi.json", "/.well-known/jwks.json", "/nowhere"] {
        let mut connection = Connection::open(&platform.gateway(1)).await;
        connection.send(get(path)).await;
        let whole = connection.answer().await.unwrap();
        connection.send(with_method("HEAD", path).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")).await;

        let head = connection.head().await;

        assert_eq!(head.status, whole.status, "{path}");
        for name in ["content-type", "content-length", "cache-control", "etag"] {
            assert_eq!(head.header(name), whole.header(name), "{path}: {name}");
        }
        assert!(connection.closes().await, "{path}: a body");
    }
}

#[tokio::test]
async fn queries_and_bodies_that_no_route_takes_are_refused() {
    let platform = shared().await;
    let gateway = platform.gateway(1);
    let body = |method: &str, path: &str, fields: &str| {
        format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{fields}Content-Length: 2\r\n\r\n{{}}")
    };
    let login = |fields: &str| body("POST", "/api/v1/auth/login", fields);
    let jwks = "/.well-known/jwks.json";

    for (bytes, status, code) in [
        (get(&format!("{jwks}?a=1")), 422, "validation_failed"),
        (get(&format!("{jwks}?a=%zz")), 400, "malformed_query"),
        (get("/livez?a=%ff"), 400, "malformed_query"),
        (get(&format!("{jwks}?{}", "a=1&".repeat(101))), 400, "malformed_query"),
        (body("POST", "/api/v1/auth/login?a=1", "Content-Type: application/json\r\n"), 422, "validation_failed"),
        (body("GET", jwks, "Content-Type: application/json\r\n"), 400, "unexpected_body"),
        (login(""), 415, "unsupported_media_type"),
        (login("Content-Type: text/plain\r\n"), 415, "unsupported_media_type"),
        (login("Content-Type: application/json; charset=utf-16\r\n"), 415, "unsupported_media_type"),
        (login("Content-Type: multipart/form-data; boundary=x\r\n"), 415, "unsupported_media_type"),
        (login("Content-Type: application/json\r\nContent-Encoding: gzip\r\n"), 415, "unsupported_content_encoding"),
        (get(&format!("/livez?{}", "x".repeat(9_000))), 414, "uri_too_long"),
        (get(&format!("/livez?{}", "x".repeat(65_536))), 414, "uri_too_long"),
        (get("/livez").replace("Host", &format!("X: {}\r\nHost", "x".repeat(17_000))), 431, "headers_too_large"),
        (get("/livez").replace("Host", &format!("X: {}\r\nHost", "x".repeat(200_000))), 431, "headers_too_large"),
        (get("/livez").replace("Host", &format!("{}Host", "X: y\r\n".repeat(100))), 431, "headers_too_large"),
        (login("Content-Type: application/json\r\n").replace("Length: 2", "Length: 70000"), 413, "body_too_large"),
    ] {
        let answer = ask(&gateway, &bytes).await;
        assert_eq!(refused(&answer), (status, code.to_owned()), "{bytes:.80}: {answer:?}");
    }
    assert_eq!(ask(&gateway, get(jwks)).await.status, 200);
}
