//! What auth promises, seen through NATS. Flows that cross services are told in the scenarios of `tests/`.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::collections::BTreeSet;

use auth::domain::{KeyId, MasterKey, SealedKey, SigningKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use platform_tests::{Platform, Setup, broker::Broker, people::Person, wait};
use serde_json::{Value, json};

const LOGIN: &str = "svc.auth.v1.login";
const REFRESH: &str = "svc.auth.v1.refresh";
const LOGOUT: &str = "svc.auth.v1.logout";
const GET_JWKS: &str = "svc.auth.v1.get_jwks";

/// The three services, without a gateway.
fn services() -> Setup {
    Setup::new().instances("gateway", 0)
}

/// Somebody registered, and the answer to a login.
async fn signed_in(ops: &Broker) -> (Person, Value) {
    let person = Person::new();
    ops.call("svc.identity.v1.register", &person.registration()).await.json();
    let tokens = ops.call(LOGIN, &json!({ "email": person.email, "password": person.password })).await.json();
    (person, tokens)
}

fn with_refresh_token(tokens: &Value) -> Value {
    json!({ "refreshToken": tokens["refreshToken"] })
}

async fn execute(platform: &Platform, statement: &'static str) {
    sqlx::query(statement).execute(&mut platform.superuser().await).await.unwrap();
}

async fn count(platform: &Platform, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(&mut platform.superuser().await).await.unwrap()
}

#[tokio::test]
async fn access_token_is_an_rfc_9068_jwt_that_the_published_key_verifies() {
    let platform = services().start().await;
    let ops = platform.user("ops").connect().await;
    let (_, tokens) = signed_in(&ops).await;

    let token = tokens["accessToken"].as_str().unwrap();
    let jwks = ops.call(GET_JWKS, &json!({})).await.json();

    let header = decode_header(token).unwrap();
    let key = &jwks["keys"][0];
    assert_eq!(jwks["keys"].as_array().unwrap().len(), 1);
    assert_eq!((header.typ.as_deref(), header.alg), (Some("at+jwt"), Algorithm::EdDSA));
    assert_eq!(header.kid.as_deref(), key["kid"].as_str());
    for (field, value) in [("kty", "OKP"), ("crv", "Ed25519"), ("use", "sig"), ("alg", "EdDSA")] {
        assert_eq!(key[field], value);
    }
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.set_audience(&["trunkline"]);
    validation.set_issuer(&["trunkline"]);
    let public_key = DecodingKey::from_ed_components(key["x"].as_str().unwrap()).unwrap();
    let claims = decode::<Value>(token, &public_key, &validation).unwrap().claims;
    assert_eq!(claims["sid"], tokens["sessionId"]);
    assert_eq!((&claims["client_id"], &claims["roles"]), (&json!("trunkline"), &json!([])));
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 300);
    assert_eq!((&tokens["expiresIn"], &tokens["tokenType"]), (&json!(300), &json!("Bearer")));
    for claim in ["sub", "jti", "auth_time"] {
        assert!(!claims[claim].is_null(), "{claim}");
    }
}

#[tokio::test]
async fn refused_login_looks_the_same_whatever_was_wrong() {
    let platform = services().start().await;
    let ops = platform.user("ops").connect().await;
    let (person, _) = signed_in(&ops).await;

    let long = "x".repeat(20_000);
    let mut problems = BTreeSet::new();
    for (email, password) in [
        ("nobody@example.org", person.password.as_str()),
        ("no address", person.password.as_str()),
        ("", ""),
        (person.email.as_str(), "wrong in every way"),
        (person.email.as_str(), ""),
        (person.email.as_str(), long.as_str()),
    ] {
        let answer = ops.call(LOGIN, &json!({ "email": email, "password": password })).await;
        let mut problem = answer.problem(401, "invalid_credentials");
        problem["requestId"] = Value::Null;
        problems.insert(problem.to_string());
    }

    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(count(&platform, "SELECT count(*) FROM auth.sessions").await, 1);
    assert_eq!(count(&platform, "SELECT count(*) FROM auth.outbox WHERE subject = 'audit.auth.login.failed'").await, 6);
}

#[tokio::test]
async fn fifty_exchanges_of_one_token_at_once_rotate_it_once() {
    // As long a window as there may be: on a busy machine an answer takes seconds.
    let platform = services().instances("auth", 2).set("auth.refresh_retry_window_ms", "60000").start().await;
    let ops = platform.user("ops").connect().await;
    let (_, tokens) = signed_in(&ops).await;
    let request = with_refresh_token(&tokens);

    let exchanges = (0..50).map(|_| async {
        wait::until("an exchange is answered", async || {
            let answer = ops.call(REFRESH, &request).await;
            // All of them wait for one row; a service that is too busy may say so, and the client comes again.
            (![503, 504].contains(&answer.error_code)).then_some(answer)
        })
        .await
    });
    let answers = futures::future::join_all(exchanges).await;

    let successors: BTreeSet<String> =
        answers.iter().map(|answer| answer.json()["refreshToken"].as_str().unwrap().to_owned()).collect();
    assert_eq!(successors.len(), 1);
    assert_eq!(count(&platform, "SELECT count(*) FROM auth.refresh_tokens").await, 2);
    let refreshed = "SELECT count(*) FROM auth.outbox WHERE subject = 'evt.auth.session.refreshed'";
    assert_eq!(count(&platform, refreshed).await, 1);
}

#[tokio::test]
async fn token_that_is_exchanged_again_too_late_ends_its_session() {
    let platform = services().start().await;
    let ops = platform.user("ops").connect().await;
    let (_, first) = signed_in(&ops).await;
    let second = ops.call(REFRESH, &with_refresh_token(&first)).await.json();
    let repeated = ops.call(REFRESH, &with_refresh_token(&first)).await.json();
    assert_eq!(repeated["refreshToken"], second["refreshToken"]);

    execute(&platform, "UPDATE auth.refresh_tokens SET used_at = used_at - interval '10 s'").await;
    let reused = ops.call(REFRESH, &with_refresh_token(&first)).await;
    let after = ops.call(REFRESH, &with_refresh_token(&second)).await;
    let again = ops.call(REFRESH, &with_refresh_token(&first)).await;

    for answer in [reused, after, again] {
        answer.problem(401, "invalid_token");
    }
    let revoked = "SELECT count(*) FROM auth.sessions WHERE revoked_reason = 'REFRESH_TOKEN_REUSED'";
    assert_eq!(count(&platform, revoked).await, 1);
    for (subject, times) in [("evt.auth.session.reuse_detected", 1), ("evt.auth.session.revoked", 1)] {
        let written: i64 = sqlx::query_scalar("SELECT count(*) FROM auth.outbox WHERE subject = $1")
            .bind(subject)
            .fetch_one(&mut platform.superuser().await)
            .await
            .unwrap();
        assert_eq!(written, times, "{subject}");
    }
}

#[tokio::test]
async fn expired_unknown_and_malformed_refresh_tokens_are_refused_alike() {
    let platform = services().start().await;
    let ops = platform.user("ops").connect().await;
    let (_, idle) = signed_in(&ops).await;
    execute(&platform, "UPDATE auth.refresh_tokens SET expires_at = now()").await;
    let (_, old) = signed_in(&ops).await;
    let end_of_old = "UPDATE auth.sessions SET expires_at = now() WHERE id = $1::uuid";
    sqlx::query(end_of_old)
        .bind(old["sessionId"].as_str().unwrap())
        .execute(&mut platform.superuser().await)
        .await
        .unwrap();
    let unknown = format!("tlr_{}", "A".repeat(43));

    let mut problems = BTreeSet::new();
    for token in [
        idle["refreshToken"].as_str().unwrap(),
        old["refreshToken"].as_str().unwrap(),
        idle["accessToken"].as_str().unwrap(),
        &unknown,
        "",
        "tlr_\0",
        &"x".repeat(10_000),
    ] {
        let mut problem = ops.call(REFRESH, &json!({ "refreshToken": token })).await.problem(401, "invalid_token");
        problem["requestId"] = Value::Null;
        problems.insert(problem.to_string());
    }

    assert_eq!(problems.len(), 1, "{problems:?}");
}

#[tokio::test]
async fn disabled_user_cannot_refresh_and_the_session_ends() {
    let platform = services().start().await;
    let ops = platform.user("ops").connect().await;
    let (_, tokens) = signed_in(&ops).await;
    execute(&platform, "UPDATE identity.users SET state = 'DISABLED' WHERE state = 'UNVERIFIED'").await;

    ops.call(REFRESH, &with_refresh_token(&tokens)).await.problem(401, "invalid_token");

    assert_eq!(count(&platform, "SELECT count(*) FROM auth.sessions WHERE revoked_reason = 'USER_GONE'").await, 1);
    execute(&platform, "UPDATE identity.users SET state = 'ACTIVE' WHERE state = 'DISABLED'").await;
    ops.call(REFRESH, &with_refresh_token(&tokens)).await.problem(401, "invalid_token");
}

/// An administrator does something to somebody; `given` is what the request holds besides.
async fn administer(platform: &Platform, ops: &Broker, subject: &str, person: &Person, mut given: Value) {
    let admin = std::fs::read_to_string(platform.folder().join("admin.json")).unwrap();
    let admin: Value = serde_json::from_str(&admin).unwrap();
    let admin = ops.call(LOGIN, &json!({ "email": admin["email"], "password": admin["password"] })).await.json();
    let id: String = sqlx::query_scalar("SELECT id::text FROM identity.users WHERE email = $1")
        .bind(&person.email)
        .fetch_one(&mut platform.superuser().await)
        .await
        .unwrap();
    given["userId"] = id.into();
    ops.call_as(admin["accessToken"].as_str().unwrap(), subject, &given).await.json();
}

async fn set_password(platform: &Platform, ops: &Broker, person: &Person, password: &str) {
    administer(platform, ops, "svc.identity.v1.update_user", person, json!({ "password": password })).await;
}

/// Why a session ended; empty while it goes on.
async fn end_of(platform: &Platform, tokens: &Value) -> String {
    sqlx::query_scalar("SELECT coalesce(revoked_reason, '') FROM auth.sessions WHERE id = $1::uuid")
        .bind(tokens["sessionId"].as_str().unwrap())
        .fetch_one(&mut platform.superuser().await)
        .await
        .unwrap()
}

async fn has_ended(platform: &Platform, tokens: &Value, why: &str) {
    wait::until("the session ends", async || {
        let end = end_of(platform, tokens).await;
        assert!(["", why].contains(&end.as_str()), "{end}");
        (!end.is_empty()).then_some(())
    })
    .await;
}

/// S13.
#[tokio::test]
async fn sessions_end_when_an_administrator_sets_another_password() {
    let platform = services().start().await;
    let ops = platform.user("ops").connect().await;
    let (person, first) = signed_in(&ops).await;
    let login = json!({ "email": person.email, "password": person.password });
    let second = ops.call(LOGIN, &login).await.json();
    let (_, others) = signed_in(&ops).await;
    let given = Person::new().password;

    set_password(&platform, &ops, &person, &given).await;

    // At once, whether or not auth has heard of it.
    ops.call(REFRESH, &with_refresh_token(&first)).await.problem(401, "invalid_token");
    let third = ops.call(LOGIN, &json!({ "email": person.email, "password": given })).await.json();
    has_ended(&platform, &first, "PASSWORD_CHANGED").await;
    has_ended(&platform, &second, "PASSWORD_CHANGED").await;
    ops.call(REFRESH, &with_refresh_token(&second)).await.problem(401, "invalid_token");
    ops.call(REFRESH, &with_refresh_token(&third)).await.json();
    ops.call(REFRESH, &with_refresh_token(&others)).await.json();
    assert_eq!((end_of(&platform, &third).await, end_of(&platform, &others).await), (String::new(), String::new()));
    let told = "SELECT count(*) FROM auth.outbox WHERE subject = 'evt.auth.session.revoked' \
                AND convert_from(payload, 'UTF8')::json ->> 'reason' = 'PASSWORD_CHANGED'";
    assert_eq!(count(&platform, told).await, 2, "each once");

    // One that begins with the earlier password while the others are ended is not forgotten.
    let late = "UPDATE auth.sessions SET revoked_at = NULL, revoked_reason = NULL WHERE id = $1::uuid";
    let late = sqlx::query(late).bind(second["sessionId"].as_str().unwrap());
    late.execute(&mut platform.superuser().await).await.unwrap();
    ops.call(REFRESH, &with_refresh_token(&second)).await.problem(401, "invalid_token");
    assert_eq!(end_of(&platform, &second).await, "PASSWORD_CHANGED");
}

#[tokio::test]
async fn session_by_which_a_user_changes_the_password_goes_on_and_the_others_end() {
    let platform = services().start().await;
    let ops = platform.user("ops").connect().await;
    let (person, own) = signed_in(&ops).await;
    let login = json!({ "email": person.email, "password": person.password });
    let other = ops.call(LOGIN, &login).await.json();
    let given = Person::new().password;

    let change = json!({ "currentPassword": person.password, "newPassword": given });
    let token = own["accessToken"].as_str().unwrap();
    ops.call_as(token, "svc.identity.v1.change_password", &change).await.json();

    let own_next = ops.call(REFRESH, &with_refresh_token(&own)).await.json();
    ops.call(REFRESH, &with_refresh_token(&other)).await.problem(401, "invalid_token");
    has_ended(&platform, &other, "PASSWORD_CHANGED").await;
    let own_last = ops.call(REFRESH, &with_refresh_token(&own_next)).await.json();
    assert_eq!(end_of(&platform, &own).await, "");

    // Until somebody else sets one.
    set_password(&platform, &ops, &person, &Person::new().password).await;
    ops.call(REFRESH, &with_refresh_token(&own_last)).await.problem(401, "invalid_token");
    has_ended(&platform, &own, "PASSWORD_CHANGED").await;
}

/// Nobody exchanges a token meanwhile, which would end its session too.
#[tokio::test]
async fn sessions_end_when_their_user_is_disabled_or_deleted() {
    let platform = services().start().await;
    let ops = platform.user("ops").connect().await;
    let (disabled, first) = signed_in(&ops).await;
    let second = ops.call(LOGIN, &json!({ "email": disabled.email, "password": disabled.password })).await.json();
    let (deleted, third) = signed_in(&ops).await;
    let (_, others) = signed_in(&ops).await;

    administer(&platform, &ops, "svc.identity.v1.disable_user", &disabled, json!({})).await;
    administer(&platform, &ops, "svc.identity.v1.delete_user", &deleted, json!({})).await;

    for tokens in [&first, &second, &third] {
        has_ended(&platform, tokens, "USER_GONE").await;
        ops.call(REFRESH, &with_refresh_token(tokens)).await.problem(401, "invalid_token");
    }
    let told = "SELECT count(*) FROM auth.outbox WHERE subject = 'evt.auth.session.revoked' \
                AND convert_from(payload, 'UTF8')::json ->> 'reason' = 'USER_GONE'";
    assert_eq!(count(&platform, told).await, 3, "each once");
    ops.call(REFRESH, &with_refresh_token(&others)).await.json();
    assert_eq!(end_of(&platform, &others).await, "");
}

#[tokio::test]
async fn who_is_enabled_again_signs_in_again_and_keeps_that_session() {
    let platform = services().start().await;
    let ops = platform.user("ops").connect().await;
    let (person, before) = signed_in(&ops).await;
    let second = ops.call(LOGIN, &json!({ "email": person.email, "password": person.password })).await.json();
    // Auth hears of nothing for as long as this is held: each message goes into its inbox first.
    let mut database = platform.superuser().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE auth.inbox IN SHARE MODE").execute(&mut database).await.unwrap();

    administer(&platform, &ops, "svc.identity.v1.disable_user", &person, json!({})).await;
    administer(&platform, &ops, "svc.identity.v1.enable_user", &person, json!({})).await;
    let after = ops.call(LOGIN, &json!({ "email": person.email, "password": person.password })).await.json();

    // Neither counts from the commit on, whether or not auth has heard of it.
    assert_eq!(end_of(&platform, &before).await, "");
    ops.call(REFRESH, &with_refresh_token(&before)).await.problem(401, "invalid_token");
    assert_eq!(end_of(&platform, &before).await, "PASSWORD_CHANGED");
    sqlx::raw_sql("COMMIT").execute(&mut database).await.unwrap();
    has_ended(&platform, &second, "USER_GONE").await;
    ops.call(REFRESH, &with_refresh_token(&after)).await.json();
    assert_eq!(end_of(&platform, &after).await, "");
}

#[tokio::test]
async fn refreshed_access_token_carries_the_roles_of_now() {
    let platform = services().start().await;
    let ops = platform.user("ops").connect().await;
    let (_, tokens) = signed_in(&ops).await;
    execute(
        &platform,
        "INSERT INTO identity.user_roles SELECT id, 'auditor', now() FROM identity.users WHERE state = 'UNVERIFIED'",
    )
    .await;

    let refreshed = ops.call(REFRESH, &with_refresh_token(&tokens)).await.json();

    let claims = refreshed["accessToken"].as_str().unwrap().split('.').nth(1).unwrap();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    assert_eq!(claims["roles"], json!(["auditor"]));
}

#[tokio::test]
async fn logout_ends_the_session_and_may_be_repeated() {
    let platform = services().start().await;
    let ops = platform.user("ops").connect().await;
    let (_, tokens) = signed_in(&ops).await;
    let (_, others) = signed_in(&ops).await;
    let token = tokens["accessToken"].as_str().unwrap();

    for _ in 0..2 {
        assert_eq!(ops.call_as(token, LOGOUT, &json!({})).await.json(), json!({}));
    }

    ops.call(REFRESH, &with_refresh_token(&tokens)).await.problem(401, "invalid_token");
    ops.call(REFRESH, &with_refresh_token(&others)).await.json();
    assert_eq!(ops.call(LOGOUT, &json!({})).await.any_problem()["status"], 401);
    let revoked = "SELECT count(*) FROM auth.outbox WHERE subject = 'audit.auth.session.revoked'";
    assert_eq!(count(&platform, revoked).await, 1);
}

#[tokio::test]
async fn five_starts_at_once_make_one_signing_key_sealed_under_the_key_file() {
    let platform = services().instances("auth", 5).start().await;

    let (id, public_key, sealed_seed): (String, Vec<u8>, Vec<u8>) =
        sqlx::query_as("SELECT id, public_key, sealed_seed FROM auth.signing_keys")
            .fetch_one(&mut platform.superuser().await)
            .await
            .unwrap();
    let master_key = std::fs::read_to_string(platform.folder().join("secrets/auth.key")).unwrap();
    let sealing_key = MasterKey::parse(&master_key.into()).unwrap().sealing_key();
    let sealed = SealedKey { id: KeyId::from_storage(id), sealed_seed };

    assert_eq!(SigningKey::unseal(&sealed, &sealing_key).unwrap().public_key().as_slice(), public_key);
    assert_eq!(count(&platform, "SELECT count(*) FROM auth.signing_keys").await, 1);
    assert_eq!(count(&platform, "SELECT count(*) FROM auth.outbox WHERE subject = 'evt.auth.keys.rotated'").await, 1);
}
