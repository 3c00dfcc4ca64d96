//! No password and no token shows up anywhere but in the answer it was asked for in: logs, spans, metrics, tables,
//! discovery. Passwords of tests are unique, so a hit is one.

use std::time::Duration;

use platform_tests::{Platform, Setup, people::Person};
use serde_json::json;
use sqlx::AssertSqlSafe;

#[tokio::test]
async fn passwords_and_tokens_are_found_nowhere() {
    let platform = Setup::new().traces().set("log.level", "trace").start().await;
    let http = platform.http();
    let ops = platform.user("ops").connect().await;
    let person = Person::registered(&http).await;
    let wrong = Person::new().password;

    http.post("/api/v1/auth/login", &json!({ "email": person.email, "password": wrong })).await.any_problem();
    let first = http.login(&person.email, &person.password).await;
    let refresh = json!({ "refreshToken": first["refreshToken"] });
    let second = http.post("/api/v1/auth/refresh", &refresh).await.json(200);
    let login = json!({ "email": person.email, "password": person.password });
    let third = ops.call("svc.auth.v1.login", &login).await.json();
    let token = third["accessToken"].as_str().unwrap();
    ops.call_as(token, "svc.identity.v1.get_me", &json!({})).await.json();
    ops.call_as(token, "svc.auth.v1.logout", &json!({})).await;
    let bad = json!({ "email": person.email, "password": 5, "refreshToken": first["refreshToken"] });
    http.post("/api/v1/auth/login", &bad).await.any_problem();
    platform.settled().await;

    let mut secrets = vec![person.password.clone(), wrong];
    for tokens in [&first, &second, &third] {
        for field in ["accessToken", "refreshToken"] {
            secrets.push(tokens[field].as_str().unwrap().to_owned());
        }
    }
    let mut places = vec![("a log".to_owned(), platform.logs())];
    // The exporters send in batches; a span of the last request is among the last to come.
    platform.traces().trace_with(|span| span.is(&("auth", "logout")), &[]).await;
    places.push(("a span".to_owned(), format!("{:?}", platform.traces().spans())));
    for admin in platform.admin_ports() {
        places.push((format!("metrics of {}", admin.base()), admin.get("/metrics").await.body));
    }
    for verb in ["INFO", "STATS"] {
        let answers = ops.gather(&format!("$SRV.{verb}"), Duration::from_millis(300)).await;
        places.push((format!("$SRV.{verb}"), format!("{answers:?}")));
    }
    places.extend(tables(&platform).await);
    for (place, text) in &places {
        assert!(!text.is_empty(), "{place} was looked at");
        for secret in &secrets {
            // The middle of it is enough to be found by.
            let middle = &secret[secret.len() / 4..secret.len() * 3 / 4];
            assert!(!text.contains(middle), "{place} holds a secret: {middle}");
        }
    }
}

/// Every table that has rows, as text; the outboxes among them hold what the streams hold.
async fn tables(platform: &Platform) -> Vec<(String, String)> {
    let mut database = platform.superuser().await;
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname IN ('identity', 'auth', 'audit')",
    )
    .fetch_all(&mut database)
    .await
    .unwrap();
    assert!(names.len() >= 12, "{names:?}");
    let mut tables = Vec::new();
    for name in names {
        // Bytes as text where they are text: a payload in hexadecimal would hide what it holds.
        let payloads = if name.ends_with(".outbox") { "|| convert_from(payload, 'UTF8')" } else { "" };
        let query = format!("SELECT string_agg(t::text {payloads}, E'\\n') FROM {name} t");
        let text: Option<String> = sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut database).await.unwrap();
        tables.extend(text.map(|text| (name, text)));
    }
    tables
}
