//! Refresh tokens: rotation, the ten seconds in which a retry is forgiven, reuse, and logout.

use std::collections::BTreeSet;

use platform_tests::{Setup, http::Http, people::Person, wait};
use serde_json::{Value, json};

async fn refresh(http: &Http, token: &str) -> platform_tests::http::Reply {
    http.post("/api/v1/auth/refresh", &json!({ "refreshToken": token })).await
}

fn refresh_token(tokens: &Value) -> String {
    tokens["refreshToken"].as_str().expect("a refresh token").to_owned()
}

#[tokio::test]
async fn refresh_gives_a_successor_and_keeps_the_session() {
    let platform = Setup::new().start().await;
    let http = platform.http();
    let person = Person::registered(&http).await;
    let first = http.login(&person.email, &person.password).await;

    let second = refresh(&http, &refresh_token(&first)).await.json(200);
    let third = refresh(&http, &refresh_token(&second)).await.json(200);

    let tokens: BTreeSet<String> = [&first, &second, &third].map(refresh_token).into();
    assert_eq!(tokens.len(), 3, "every exchange gives a new token");
    for next in [&second, &third] {
        assert_eq!(next["sessionId"], first["sessionId"]);
        assert_eq!(next["tokenType"], "Bearer");
        let access = next["accessToken"].as_str().unwrap();
        http.with_token(access).get("/api/v1/users/me").await.json(200);
    }
}

#[tokio::test]
async fn fifty_parallel_refreshes_of_one_token_get_one_successor() {
    // As long a window as there may be: on a busy machine an answer takes seconds.
    let platform = Setup::new().instances("auth", 2).set("auth.refresh_retry_window_ms", "60000").start().await;
    let http = platform.http();
    let person = Person::registered(&http).await;
    let token = refresh_token(&http.login(&person.email, &person.password).await);

    let attempts = (0..50).map(|_| async {
        wait::until("a refresh is answered", async || {
            let reply = refresh(&http, &token).await;
            // All of them wait for one row; a service that is too busy may say so, or say nothing in time, and the client comes again.
            (![503, 504].contains(&reply.status)).then(|| refresh_token(&reply.json(200)))
        })
        .await
    });
    let successors: BTreeSet<String> = futures::future::join_all(attempts).await.into_iter().collect();

    assert_eq!(successors.len(), 1, "at most one distinct successor");
    let successor = successors.first().unwrap();
    refresh(&http, successor).await.json(200);
}

#[tokio::test]
async fn reuse_after_the_retry_window_ends_the_session() {
    // As long as it may be, since a retry in time is tried too.
    let platform = Setup::new().set("auth.refresh_retry_window_ms", "60000").start().await;
    let http = platform.http();
    let person = Person::registered(&http).await;
    let first = http.login(&person.email, &person.password).await;
    let other = http.login(&person.email, &person.password).await;
    let second = refresh(&http, &refresh_token(&first)).await.json(200);
    let retried = refresh(&http, &refresh_token(&first)).await.json(200);
    assert_eq!(refresh_token(&retried), refresh_token(&second), "a retry in time gets the same successor");

    platform.outwait_refresh_retries().await;
    let reused = refresh(&http, &refresh_token(&first)).await;

    reused.problem(401, "invalid_token");
    refresh(&http, &refresh_token(&second)).await.problem(401, "invalid_token");
    refresh(&http, &refresh_token(&other)).await.json(200);
    let admin = platform.admin().await;
    let session = &first["sessionId"];
    let detected =
        platform.audit_entry(&admin, "auth.session.reuse_detected", |entry| entry["target"]["id"] == *session).await;
    assert_eq!(detected["outcome"], "DENIED");
    platform.audit_entry(&admin, "auth.session.revoked", |entry| entry["target"]["id"] == *session).await;
}

#[tokio::test]
async fn logout_kills_the_refresh_token_at_once() {
    let platform = Setup::new().instances("auth", 2).start().await;
    let http = platform.http();
    let person = Person::registered(&http).await;
    let gone = http.login(&person.email, &person.password).await;
    let stays = http.login(&person.email, &person.password).await;

    let reply = http.with_token(gone["accessToken"].as_str().unwrap()).post("/api/v1/auth/logout", &json!({})).await;

    assert_eq!((reply.status, reply.body.as_str()), (204, ""));
    // As often as there are instances that could know better.
    for _ in 0..6 {
        refresh(&http, &refresh_token(&gone)).await.problem(401, "invalid_token");
    }
    refresh(&http, &refresh_token(&stays)).await.json(200);
    let admin = platform.admin().await;
    let revoked =
        platform.audit_entry(&admin, "auth.session.revoked", |entry| entry["target"]["id"] == gone["sessionId"]).await;
    assert_eq!(revoked["details"]["reason"], "LOGOUT");
}

#[tokio::test]
async fn tokens_and_sessions_survive_a_restart_of_every_service() {
    let platform = Setup::new().start().await;
    let http = platform.http();
    let person = Person::registered(&http).await;
    let first = http.login(&person.email, &person.password).await;
    let second = refresh(&http, &refresh_token(&first)).await.json(200);

    platform.restart_services().await;

    let http = platform.http();
    http.with_token(second["accessToken"].as_str().unwrap()).get("/api/v1/users/me").await.json(200);
    let third = refresh(&http, &refresh_token(&second)).await.json(200);
    assert_ne!(refresh_token(&third), refresh_token(&second));
    for bad in ["", "x", "not-a-token", &"a".repeat(43), &"a".repeat(5000)] {
        let reply = refresh(&http, bad).await;
        assert!([401, 422].contains(&reply.status), "{bad:.20}: {reply:?}");
        reply.any_problem();
    }
}
