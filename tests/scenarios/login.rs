//! Scenario 1: a user signs in, step for step through every part.

use platform_tests::{Setup, http::Reply, people::Person, traces::outline};
use serde_json::{Value, json};

/// Where a login passes, in order: service and part of the span's name.
const HOPS: &[(&str, &str)] = &[
    ("gateway", "http.auth.login"),
    ("gateway", "gateway.rate_limit.check"),
    ("auth", "endpoint.auth.login"),
    ("identity", "endpoint.identity.verify_credentials"),
    ("identity", "storage.credential.find"),
    ("identity", "compute.argon2.verify"),
    ("auth", "domain.access_token.sign"),
    ("auth", "storage.refresh_token.insert"),
    ("auth", "outbox.message.publish"),
    ("audit", "audit"),
];

#[tokio::test]
async fn login_passes_gateway_auth_identity_and_audit_in_one_trace() {
    let platform = Setup::new().rate_limits().traces().start().await;
    let person = Person::registered(&platform.http()).await;

    let tokens = platform.http().login(&person.email, &person.password).await;

    let trace = platform.traces().trace_with(|span| span.is(&HOPS[0]), HOPS).await;
    let hop = |hop: &(&str, &str)| trace.iter().find(|span| span.is(hop)).expect("waited for");
    let (gateway, auth, identity) = (hop(&HOPS[0]), hop(&HOPS[2]), hop(&HOPS[3]));
    let under = [(1, gateway), (2, gateway), (3, auth), (4, identity), (5, identity), (6, auth), (7, auth), (8, auth)];
    for (below, above) in under {
        let below = hop(&HOPS[below]);
        assert!(below.is_under(above, &trace), "{} is under {}:\n{}", below.name, above.name, outline(&trace));
    }

    // The refresh token is stored as its hash and nothing else of it.
    let refresh_token = tokens["refreshToken"].as_str().expect("a refresh token");
    let mut database = platform.superuser().await;
    let stored: String = sqlx::query_scalar("SELECT coalesce(string_agg(t::text, ' '), '') FROM auth.refresh_tokens t")
        .fetch_one(&mut database)
        .await
        .unwrap();
    assert!(!stored.is_empty() && !stored.contains(refresh_token), "a refresh token is never stored");

    // The audit record rode in auth's transaction and is listed, with the trace's number and the actor.
    let admin = platform.admin().await;
    let entry =
        platform.audit_entry(&admin, "auth.session.created", |entry| entry["traceId"] == gateway.trace_id).await;
    assert_eq!(entry["target"], json!({ "type": "session", "id": tokens["sessionId"] }));
    assert_eq!(entry["outcome"], "SUCCESS");
    assert_eq!(entry["ipAddress"], "127.0.0.1");

    let me =
        platform.http().with_token(tokens["accessToken"].as_str().unwrap()).get("/api/v1/users/me").await.json(200);
    assert_eq!(me["email"], person.email);
    assert_eq!(entry["actor"], json!({ "type": "USER", "id": me["id"] }));
}

#[tokio::test]
async fn login_answers_tokens_as_the_documentation_says() {
    let platform = Setup::new().start().await;
    let person = Person::registered(&platform.http()).await;

    let body = json!({ "email": person.email, "password": person.password });
    let reply = platform.http().post("/api/v1/auth/login", &body).await;

    let tokens = reply.json(200);
    assert_eq!(tokens["tokenType"], "Bearer");
    assert!(tokens["expiresIn"].as_u64().is_some_and(|seconds| seconds > 0));
    assert_eq!(tokens["accessToken"].as_str().unwrap().split('.').count(), 3);
    assert!(tokens["refreshToken"].as_str().unwrap().len() >= 43, "256 bits in base64");
    assert!(uuid::Uuid::parse_str(tokens["sessionId"].as_str().unwrap()).is_ok());
    assert_eq!(reply.header("cache-control"), "no-store");
    assert!(!reply.header("x-request-id").is_empty());
}

#[tokio::test]
async fn failed_logins_get_one_answer_and_are_recorded() {
    let platform = Setup::new().start().await;
    let http = platform.http();
    let person = Person::registered(&http).await;
    let disabled = Person::registered(&http).await;
    let mut database = platform.superuser().await;
    sqlx::query("UPDATE identity.users SET state = 'DISABLED' WHERE email = $1")
        .bind(&disabled.email)
        .execute(&mut database)
        .await
        .unwrap();

    let over_long = "x".repeat(20_000);
    let wrong = "not the password at all";
    let attempts = [
        ("nobody@example.org", wrong),
        (person.email.as_str(), wrong),
        (person.email.as_str(), ""),
        (person.email.as_str(), over_long.as_str()),
        (disabled.email.as_str(), disabled.password.as_str()),
    ];
    let mut answers = Vec::new();
    for (email, password) in attempts {
        answers.push(http.post("/api/v1/auth/login", &json!({ "email": email, "password": password })).await);
    }

    let shape = |reply: &Reply| {
        let mut problem = reply.problem(401, "invalid_credentials");
        problem["requestId"] = Value::Null;
        let mut headers: Vec<String> = reply.headers.keys().map(ToString::to_string).collect();
        headers.sort();
        (problem, headers)
    };
    for answer in &answers {
        assert_eq!(shape(answer), shape(&answers[0]));
    }

    // Every one of them is in the log, and neither log nor audit knows the password.
    let admin = platform.admin().await;
    for answer in &answers {
        let request = answer.header("x-request-id").to_owned();
        let entry = platform.audit_entry(&admin, "auth.login.failed", |entry| entry["requestId"] == request).await;
        assert_eq!(entry["outcome"], "FAILURE");
        assert_eq!(entry["actor"]["type"], "ANONYMOUS");
        assert!(!entry.to_string().contains(wrong));
    }
    let logs = platform.logs();
    for secret in [wrong, &person.password, &disabled.password, &over_long[..64]] {
        assert!(!logs.contains(secret), "a log holds a password");
    }
}

#[tokio::test]
async fn known_and_unknown_addresses_take_the_same_time() {
    let platform = Setup::new().start().await;
    let http = platform.http();
    let person = Person::registered(&http).await;

    // Interleaved, so that whatever else the machine does meets both alike (security.md S08, a scaled-down slice).
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..24 {
        for (class, email) in [person.email.as_str(), "nobody@example.org"].into_iter().enumerate() {
            let body = json!({ "email": email, "password": format!("wrong for the round {round}") });
            let started = std::time::Instant::now();
            http.post("/api/v1/auth/login", &body).await.problem(401, "invalid_credentials");
            times[class].push(started.elapsed());
        }
    }

    // The lower quartile: what else the machine does makes single answers later, never earlier.
    let [known, unknown] = times.map(|mut times| {
        times.sort();
        times[times.len() / 4]
    });
    let difference = known.abs_diff(unknown);
    // An address that skipped the hash would answer in a tenth of the time.
    assert!(difference * 4 < known.max(unknown), "known {known:?}, unknown {unknown:?}");
}
