//! Bad input (reliability.md §4.1 and §4.2): the same bytes on both doors, HTTP and NATS, with the same answer. Never a
//! 5xx, never a panic, and the next good request works. What only raw HTTP can say is the gateway's own corpus.

use std::time::{Duration, Instant};

use bytes::Bytes;
use platform_tests::{Platform, Setup, http::Reply, people::Person};
use reqwest::Method;
use serde_json::{Value, json};

/// Path and subject of an endpoint.
const REGISTER: (&str, &str) = ("/api/v1/registrations", "svc.identity.v1.register");
const LOGIN: (&str, &str) = ("/api/v1/auth/login", "svc.auth.v1.login");
const REFRESH: (&str, &str) = ("/api/v1/auth/refresh", "svc.auth.v1.refresh");

/// How long a request may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// Bytes that are no JSON value of the kind that is wanted; `email` stands for a field that exists.
fn malformed(field: &str) -> Vec<(&'static str, Vec<u8>)> {
    let deep = format!("{{\"email\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let mut bodies = malformed_email();
    bodies.push(("depth 10,000", deep.into_bytes()));
    for (_, body) in &mut bodies {
        // Byte by byte, since some of it is no text.
        let text = body.iter().map(|byte| char::from(*byte)).collect::<String>().replace("email", field);
        *body = text.chars().map(|letter| u8::try_from(letter).expect("made of bytes")).collect();
    }
    bodies
}

fn malformed_email() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("truncated", br#"{"email":"a@example.org","pass"#.to_vec()),
        ("trailing bytes", br#"{"email":"a@example.org"} x"#.to_vec()),
        ("two values", b"{}{}".to_vec()),
        ("duplicate keys", br#"{"email":"a@example.org","email":"b@example.org"}"#.to_vec()),
        ("NaN", br#"{"email":NaN}"#.to_vec()),
        ("single quotes", b"{'email':'a'}".to_vec()),
        ("a comma too many", br#"{"email":"a@example.org",}"#.to_vec()),
        ("a comment", b"{} // comment".to_vec()),
        ("a lone surrogate", br#"{"email":"\ud800"}"#.to_vec()),
        ("a byte order mark", b"\xef\xbb\xbf{}".to_vec()),
        ("invalid UTF-8", b"{\"email\":\"\xff\xfe\"}".to_vec()),
        ("UTF-16", b"\xff\xfe{\0}\0".to_vec()),
        ("an unescaped control character", b"{\"email\":\"a\x01\"}".to_vec()),
        ("a NUL byte", b"{\"email\":\"a\0\"}".to_vec()),
        ("depth 10,000, never closed", "[".repeat(10_000).into_bytes()),
        ("words", b"email=a&password=b".to_vec()),
    ]
}

#[tokio::test]
async fn bodies_that_are_not_json_are_400_on_both_doors() {
    let platform = Setup::new().start().await;
    let ops = platform.user("ops").connect().await;

    for ((path, subject), field) in [(REGISTER, "email"), (LOGIN, "email"), (REFRESH, "refreshToken")] {
        for (what, body) in malformed(field) {
            let over_http = post(&platform, path, body.clone()).await;
            let over_nats = ops.send(subject, &[], body.into()).await;

            assert_eq!(over_http.any_problem()["code"], "malformed_body", "{what} at {path}: {over_http:?}");
            assert_eq!(over_http.status, 400, "{what} at {path}: {over_http:?}");
            assert_eq!(over_nats.any_problem()["code"], "malformed_body", "{what} at {subject}: {over_nats:?}");
            assert_eq!(over_nats.error_code, 400, "{what} at {subject}: {over_nats:?}");
        }
        serves(&platform).await;
    }
}

#[tokio::test]
async fn values_that_do_not_fit_are_422_with_a_pointer_on_both_doors() {
    let platform = Setup::new().start().await;
    let ops = platform.user("ops").connect().await;
    let good = Person::new().registration();
    let with = |field: &str, value: Value| {
        let mut body = good.clone();
        body[field] = value;
        body
    };
    let long = |length: usize| Value::from("x".repeat(length));

    let mut without_email = good.clone();
    without_email.as_object_mut().unwrap().remove("email");
    let cases = [
        ("/email", without_email),
        ("/email", with("email", Value::Null)),
        ("/email", with("email", json!(""))),
        ("/email", with("email", json!(5))),
        ("/email", with("email", json!(["a@example.org"]))),
        ("/email", with("email", json!({ "address": "a@example.org" }))),
        ("/email", with("email", json!("no address"))),
        ("/email", with("email", json!("a@example.org\u{0}"))),
        ("/email", with("email", json!("a\r\nb@example.org"))),
        ("/email", with("email", json!(format!("{}@example.org", "x".repeat(250))))),
        ("/password", with("password", json!("too short"))),
        ("/password", with("password", long(1025))),
        ("/password", with("password", json!(true))),
        ("/displayName", with("displayName", json!(""))),
        ("/displayName", with("displayName", long(201))),
        ("/displayName", with("displayName", json!("nul \u{0}"))),
        ("/displayName", with("displayName", json!("escape \u{1b}[31m"))),
        // Unknown, and what only the server sets: roles, state, identity, verification (Zitadel CVE-2026-27946).
        ("/admin", with("admin", json!(true))),
        ("/roles", with("roles", json!(["admin"]))),
        ("/state", with("state", json!("ACTIVE"))),
        ("/id", with("id", json!("0197f000-0000-7000-8000-000000000000"))),
        ("/emailVerified", with("emailVerified", json!(true))),
        ("/a~1b", with("a/b", json!(1))),
    ];
    for (pointer, body) in cases {
        let over_http = platform.http().post(REGISTER.0, &body).await;
        let over_nats = ops.call(REGISTER.1, &body).await;

        for (status, problem) in
            [(over_http.status, over_http.any_problem()), (over_nats.error_code, over_nats.any_problem())]
        {
            assert_eq!(status, 422, "{pointer}: {body}: {problem}");
            assert_eq!(problem["code"], "validation_failed", "{body}: {problem}");
            let errors = problem["errors"].as_array().unwrap_or_else(|| panic!("{body}: {problem}"));
            assert!(errors.iter().any(|error| error["pointer"] == pointer), "{pointer}: {problem}");
            for error in errors {
                assert!(!error["code"].as_str().unwrap().is_empty() && !error["detail"].as_str().unwrap().is_empty());
            }
        }
    }
    serves(&platform).await;
    let mut database = platform.superuser().await;
    let users: i64 = sqlx::query_scalar("SELECT count(*) FROM identity.users WHERE email LIKE '%' || $1")
        .bind(good["email"].as_str().unwrap())
        .fetch_one(&mut database)
        .await
        .unwrap();
    assert_eq!(users, 0, "nothing of a refused request is stored");
}

#[tokio::test]
async fn every_fault_of_a_form_is_told_at_once() {
    let platform = Setup::new().start().await;

    let reply = platform.http().post(REGISTER.0, &json!({ "email": "x", "password": "x", "displayName": "" })).await;

    let problem = reply.problem(422, "validation_failed");
    let mut pointers: Vec<&str> =
        problem["errors"].as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap()).collect();
    pointers.sort_unstable();
    assert_eq!(pointers, ["/displayName", "/email", "/password"]);
}

#[tokio::test]
async fn values_that_are_no_json_object_are_refused() {
    let platform = Setup::new().start().await;
    let ops = platform.user("ops").connect().await;

    for body in ["[]", "\"text\"", "5", "true", "null", "[{}]"] {
        let over_http = post(&platform, REGISTER.0, body.as_bytes().to_vec()).await;
        let over_nats = ops.send(REGISTER.1, &[], body.into()).await;

        over_http.any_problem();
        over_nats.any_problem();
        assert!([400, 422].contains(&over_http.status), "{body}: {over_http:?}");
        assert_eq!(over_http.status, over_nats.error_code, "{body}: one answer on both doors");
    }
    serves(&platform).await;
}

#[tokio::test]
async fn bodies_beyond_the_bound_are_413_before_they_are_read_whole() {
    let platform = Setup::new().start().await;
    let ops = platform.user("ops").connect().await;
    let bound = subjects::endpoints().find(|endpoint| endpoint.subject == REGISTER.1).unwrap().body_max_bytes as usize;
    let body = json!({ "email": "a@example.org", "password": "x".repeat(bound) }).to_string();

    let request = platform.http().request(Method::POST, REGISTER.0).header("content-type", "application/json");
    let over_http = Reply::try_of(request.body(body.clone())).await;
    let over_nats = ops.send(REGISTER.1, &[], body.into()).await;

    over_nats.problem(413, "body_too_large");
    // The gateway answers and closes while the client still writes; a client that does not read then sees a cut.
    if let Ok(reply) = over_http {
        reply.problem(413, "body_too_large");
    }
    serves(&platform).await;
}

/// With what is around it, it is more than a message of the broker's may have: it is refused at the door, with the bound.
#[tokio::test]
async fn a_permission_pattern_of_a_mebibyte_is_413() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;

    for permission in ["x".repeat(1024 * 1024), "a.".repeat(512 * 1024)] {
        let began = Instant::now();
        let reply = admin.post("/api/v1/roles", &json!({ "name": "huge", "permissions": [permission] })).await;
        reply.problem(413, "body_too_large");
        assert!(began.elapsed() < DEADLINE, "{:?}", began.elapsed());
    }
    serves(&platform).await;
}

#[tokio::test]
async fn lists_refuse_parameters_that_do_not_fit() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let page = admin.get("/api/v1/users?pageSize=1").await.json(200);
    assert_eq!(page["items"].as_array().unwrap().len(), 1);

    for (path, query, pointer) in [
        ("users", "pageSize=501", "/pageSize"),
        ("users", "pageSize=-1", "/pageSize"),
        ("users", "pageSize=ten", "/pageSize"),
        ("users", "pageSize=1.5", "/pageSize"),
        ("users", "pageSize=99999999999999999999", "/pageSize"),
        ("users", "pageToken=tampered", "/pageToken"),
        ("users", "pageToken=%27%3B%20DROP%20TABLE%20identity.users%3B--", "/pageToken"),
        ("users", "pageToken=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "/pageToken"),
        ("users", "state=WRONG", "/state"),
        ("users", "state=active", "/state"),
        ("users", "query=%00", "/query"),
        ("audit/entries", "outcome=MAYBE", "/outcome"),
        ("audit/entries", "from=yesterday", "/from"),
        ("audit/entries", "to=2026-13-45T00:00:00Z", "/to"),
        ("audit/entries", "actor=%00", "/actor"),
        ("audit/entries", "pageToken=x", "/pageToken"),
    ] {
        let reply = admin.get(&format!("/api/v1/{path}?{query}")).await;
        let problem = reply.any_problem();
        assert_eq!((reply.status, &problem["code"]), (422, &"validation_failed".into()), "{query}: {problem}");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{query}: {problem}");
    }
    for query in ["pageSize=1&pageSize=2", "pageSize=%zz", "nobody=1", &"x".repeat(60_000)] {
        let reply = admin.get(&format!("/api/v1/users?{query}")).await;
        reply.any_problem();
        assert!([400, 414, 422].contains(&reply.status), "{query:.40}: {reply:?}");
    }
    for id in ["x", "0197f000-0000-7000-8000", "%00", "..%2f..", "'%20OR%201=1", &"a".repeat(500)] {
        let reply = admin.get(&format!("/api/v1/users/{id}")).await;
        reply.any_problem();
        assert!([400, 404, 422].contains(&reply.status), "{id:.40}: {reply:?}");
    }
    admin.get("/api/v1/users/0197f000-0000-7000-8000-000000000000").await.problem(404, "not_found");
    serves(&platform).await;
}

#[tokio::test]
async fn content_types_are_taken_as_they_say_or_refused() {
    let platform = Setup::new().start().await;
    let ops = platform.user("ops").connect().await;
    let body = || Bytes::from(Person::new().registration().to_string());

    for good in ["application/json", "application/json; charset=utf-8", "Application/JSON"] {
        let request = platform.http().request(Method::POST, REGISTER.0).header("content-type", good).body(body());
        Reply::of(request).await.json(202);
        ops.send(REGISTER.1, &[("Content-Type", good)], body()).await.json();
    }
    for bad in ["text/plain", "application/xml", "multipart/form-data; boundary=x", "json", "application/json-seq"] {
        let request = platform.http().request(Method::POST, REGISTER.0).header("content-type", bad).body(body());
        Reply::of(request).await.problem(415, "unsupported_media_type");
        ops.send(REGISTER.1, &[("Content-Type", bad)], body()).await.problem(415, "unsupported_media_type");
    }
    serves(&platform).await;
}

#[tokio::test]
async fn protobuf_that_is_none_is_400() {
    let platform = Setup::new().start().await;
    let ops = platform.user("ops").connect().await;
    // Groups within groups within field 1 (wire type 3), never closed.
    let nested = [0x0b].repeat(10_000);
    for (what, body) in [
        ("a length beyond the end", vec![0x0a, 0x7f, b'a']),
        ("a wrong wire type for the field", vec![0x08, 0x01]),
        ("an unknown wire type", vec![0x0f]),
        ("a varint without an end", vec![0x80; 1000]),
        ("invalid UTF-8", vec![0x0a, 0x02, 0xff, 0xfe]),
        ("groups 10,000 deep", nested),
        ("JSON", br#"{"email":"a@example.org"}"#.to_vec()),
    ] {
        let answer = ops.send(REGISTER.1, &[("Content-Type", "application/protobuf")], body.into()).await;
        assert_eq!(answer.error_code, 400, "{what}: {answer:?}");
    }
    serves(&platform).await;
}

#[tokio::test]
async fn hostile_headers_on_nats_do_no_harm() {
    let platform = Setup::new().start().await;
    let mut ops = platform.user("ops").wire().await;
    let inbox = "_INBOX.ops.answers";
    ops.subscribe(inbox, None).await.unwrap();
    let body = br"{}".as_slice();
    let many = (0..1000).fold(String::new(), |headers, number| headers + &format!("X-{number}: y\r\n"));
    let token = platform.admin_token().await;

    for (what, headers, codes) in [
        ("a context that is no base64", "Trunkline-Context: !!!\r\n".to_owned(), &[400][..]),
        ("a context that is no context", "Trunkline-Context: //////8\r\n".to_owned(), &[400]),
        ("two contexts", "Trunkline-Context: \r\nTrunkline-Context: \r\n".to_owned(), &[400]),
        ("a timeout that is no number", "Request-Timeout-Ms: soon\r\n".to_owned(), &[400]),
        ("a negative timeout", "Request-Timeout-Ms: -5\r\n".to_owned(), &[400]),
        ("a thousand headers", many, &[0, 400, 431]),
        ("20 KiB of headers", format!("X-Long: {}\r\n", "x".repeat(20 * 1024)), &[400, 431]),
        ("two tokens", format!("Authorization: Bearer {token}\r\nAuthorization: Bearer x\r\n"), &[400, 401]),
        ("garbage for a trace", "traceparent: 00-zz-zz-zz\r\n".to_owned(), &[0]),
        ("a request id of 5 KB", format!("Request-Id: {}\r\n", "x".repeat(5000)), &[0, 400]),
        ("a forged error", "Nats-Service-Error-Code: 500\r\nNats-Service-Error: no\r\n".to_owned(), &[0]),
        ("forged caller information", "Nats-Request-Info: {\"acc\":\"SYS\"}\r\n".to_owned(), &[0]),
    ] {
        let block = format!("NATS/1.0\r\n{headers}\r\n");
        let said = ops.publish_raw_headers("svc.auth.v1.get_jwks", inbox, block.as_bytes(), body).await.unwrap();
        assert!(said.is_empty(), "{what}: {said:?}");
        let answer = ops.next_message(platform_tests::wait::WAIT_MAX).await.unwrap();
        let answer = answer.unwrap_or_else(|| panic!("{what}: no answer"));
        let code = answer.headers.lines().find_map(|line| line.strip_prefix("Nats-Service-Error-Code:"));
        let code: u16 = code.map_or(0, |code| code.trim().parse().unwrap());
        assert!(codes.contains(&code), "{what}: {code}: {answer:?}");
    }
    // Bytes that are no UTF-8: the header is not ours to read, or refused; never silence and never a crash.
    let block = b"NATS/1.0\r\nX-Bytes: \xff\xfe\r\nRequest-Id: \xff\r\n\r\n";
    ops.publish_raw_headers("svc.auth.v1.get_jwks", inbox, block, body).await.unwrap();
    // The service's client may break off its connection over that, and comes back.
    platform_tests::wait::until("auth answers", async || {
        (platform.http().get("/.well-known/jwks.json").await.status == 200).then_some(())
    })
    .await;
    serves(&platform).await;
}

#[tokio::test]
async fn a_request_that_comes_too_late_is_not_done() {
    let platform = Setup::new().start().await;
    let ops = platform.user("ops").connect().await;
    let person = Person::new();
    let body = || Bytes::from(person.registration().to_string());

    let answer = ops.send(REGISTER.1, &[("Request-Timeout-Ms", "1")], body()).await;

    // A hash alone takes longer than a millisecond, so this cannot have been done in time.
    answer.problem(504, "deadline_exceeded");
    serves(&platform).await;
}

#[tokio::test]
async fn hostile_text_stays_one_line_of_the_log_and_reaches_nobody_else() {
    let platform = Setup::new().start().await;
    let canary = "canary\u{1b}[31m\u{202e}";
    let request = platform
        .http()
        .request(Method::POST, LOGIN.0)
        .header("user-agent", "evil\tagent")
        .header("x-user-id", "0197f000-0000-7000-8000-000000000000")
        .header("x-roles", "admin")
        .header("nats-service-error-code", "200")
        .json(&json!({ "email": format!("{canary}@example.org"), "password": canary }));

    let reply = Reply::of(request).await;

    assert!([401, 422].contains(&reply.status), "{reply:?}");
    assert!(!reply.body.contains("canary"), "what was sent is not sent back: {reply:?}");
    serves(&platform).await;
    assert!(!platform.logs().contains('\u{1b}'), "no escape reaches a log");
}

/// A good request of every kind works, and nothing panicked.
async fn serves(platform: &Platform) {
    let person = Person::registered(&platform.http()).await;
    let user = platform.http().signed_in(&person.email, &person.password).await;
    assert_eq!(user.get("/api/v1/users/me").await.json(200)["email"], person.email);
    platform.check_calm();
}

async fn post(platform: &Platform, path: &str, body: Vec<u8>) -> Reply {
    let request = platform.http().request(Method::POST, path).header("content-type", "application/json");
    Reply::of(request.body(body)).await
}
