//! Keys that sign access tokens take turns, and nobody notices: no token is refused over it, by whichever gateway.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use platform_tests::{Platform, Setup, http::Http, jobs, people::Person, wait};
use serde_json::{Value, json};

/// How long a new key is published before it signs, in these tests, and how often verifiers fetch: far more often, since the
/// machine may be busy.
const PROPAGATION_MS: u64 = 10_000;
const REFRESH_MS: u64 = 250;

async fn platform() -> Platform {
    let setup = Setup::new().instances("gateway", 2).instances("auth", 2);
    let setup = setup.set("auth.key_propagation_ms", &PROPAGATION_MS.to_string());
    setup.set("tokens.keys_refresh_ms", &REFRESH_MS.to_string()).start().await
}

/// The key that signed a token.
fn signed_by(token: &str) -> String {
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    let header: Value = serde_json::from_slice(&header).unwrap();
    header["kid"].as_str().unwrap().to_owned()
}

async fn published(http: &Http) -> BTreeSet<String> {
    let jwks = http.get("/.well-known/jwks.json").await.json(200);
    jwks["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

/// Somebody who signs in again and again, and uses each token at once at both gateways, and the first one ever after.
struct User {
    stop: Arc<AtomicBool>,
    used: Arc<AtomicUsize>,
    /// Keys by which their tokens were signed.
    keys: Arc<Mutex<BTreeSet<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl User {
    fn start(gateways: [Http; 2], person: Person) -> User {
        let (stop, used) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let keys = Arc::new(Mutex::new(BTreeSet::new()));
        let (own_stop, own_used, own_keys) = (Arc::clone(&stop), Arc::clone(&used), Arc::clone(&keys));
        #[expect(clippy::disallowed_methods, reason = "the test waits for it")]
        let task = tokio::spawn(async move {
            let mut tokens = gateways[0].login(&person.email, &person.password).await;
            let first = tokens["accessToken"].as_str().unwrap().to_owned();
            while !own_stop.load(Ordering::Relaxed) {
                let token = tokens["accessToken"].as_str().unwrap().to_owned();
                own_keys.lock().unwrap().insert(signed_by(&token));
                for gateway in &gateways {
                    for token in [&token, &first] {
                        let reply = gateway.with_token(token).get("/api/v1/users/me").await;
                        // A busy machine may say 503 or 504; a token is never refused.
                        assert!([200, 503, 504].contains(&reply.status), "{reply:?}");
                    }
                }
                own_used.fetch_add(1, Ordering::Relaxed);
                let refresh = json!({ "refreshToken": tokens["refreshToken"] });
                let reply = gateways[1].post("/api/v1/auth/refresh", &refresh).await;
                assert!([200, 503, 504].contains(&reply.status), "{reply:?}");
                if reply.status == 200 {
                    tokens = reply.json(200);
                }
            }
        });
        User { stop, used, keys, task }
    }

    /// Waits until they have used so many more tokens.
    async fn proceed(&self, rounds: usize) {
        let until = self.used.load(Ordering::Relaxed) + rounds;
        wait::until("tokens are used", async || {
            (self.used.load(Ordering::Relaxed) >= until || self.task.is_finished()).then_some(())
        })
        .await;
    }

    /// Waits until a key has signed a token of theirs.
    async fn has_token_of(&self, key: &str) {
        wait::until("the new key signs", async || {
            (self.keys.lock().unwrap().contains(key) || self.task.is_finished()).then_some(())
        })
        .await;
    }

    async fn stop(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("no token was refused");
        self.keys.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn no_token_is_refused_while_keys_are_rotated() {
    let platform = platform().await;
    let (admin, gateways) = (platform.admin().await, [platform.gateway(1), platform.gateway(2)]);
    let person = Person::registered(&gateways[0]).await;
    let mut keys: Vec<String> = published(&gateways[0]).await.into_iter().collect();
    assert_eq!(keys.len(), 1);
    let user = User::start(gateways.clone(), person);
    user.proceed(3).await;

    for _ in 0..2 {
        let rotated = admin.post("/api/v1/auth/keys/rotate", &json!({})).await.json(200);
        let key = rotated["keyId"].as_str().unwrap().to_owned();

        // Published at once, by every instance, and it does not sign yet; until it does there is no other.
        for gateway in &gateways {
            assert!(published(gateway).await.contains(&key));
        }
        let signs = admin.post("/api/v1/auth/keys/rotate", &json!({})).await;
        signs.problem(409, "rotation_pending");
        user.has_token_of(&key).await;
        user.proceed(3).await;
        keys.push(key);
        assert_eq!(published(&gateways[0]).await, keys.iter().cloned().collect(), "tokens of each still count");
        platform.audit_entry(&admin, "auth.keys.rotated", |entry| entry["target"]["id"] == rotated["keyId"]).await;
    }

    assert_eq!(user.stop().await, keys.into_iter().collect(), "each has signed");
}

#[tokio::test]
async fn a_key_signs_only_when_its_time_has_come_and_counts_only_while_it_is_published() {
    let platform = platform().await;
    let (admin, gateways) = (platform.admin().await, [platform.gateway(1), platform.gateway(2)]);
    let old = published(&gateways[0]).await.pop_first().unwrap();
    let person = Person::registered(&gateways[0]).await;
    let token = gateways[0].login(&person.email, &person.password).await["accessToken"].as_str().unwrap().to_owned();

    let rotated = admin.post("/api/v1/auth/keys/rotate", &json!({})).await.json(200);
    let new = rotated["keyId"].as_str().unwrap();
    // Both, from the database: an instance that is slow to hear of it goes on with the old one, and that is right.
    let times: (i64, i64) = sqlx::query_as(
        "SELECT (extract(epoch FROM new.activates_at - new.created_at) * 1000)::bigint, \
                (extract(epoch FROM old.retires_at - new.activates_at))::bigint \
         FROM auth.signing_keys new, auth.signing_keys old WHERE new.id = $1 AND old.id = $2",
    )
    .bind(new)
    .bind(&old)
    .fetch_one(&mut platform.superuser().await)
    .await
    .unwrap();
    assert_eq!(times.0, i64::try_from(PROPAGATION_MS).unwrap());
    assert!(times.1 > 900, "the longest token and some more: {} s", times.1);
    wait::until("the new key signs", async || {
        let tokens = gateways[0].login(&person.email, &person.password).await;
        (signed_by(tokens["accessToken"].as_str().unwrap()) == new).then_some(())
    })
    .await;
    let now: chrono::DateTime<chrono::Utc> =
        sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&mut platform.superuser().await).await.unwrap();
    assert!(now >= rotated["activatesAt"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap());

    // As when its last token has long ended.
    let retire = sqlx::query("UPDATE auth.signing_keys SET retires_at = now() WHERE id = $1").bind(&old);
    retire.execute(&mut platform.superuser().await).await.unwrap();
    for gateway in &gateways {
        wait::until("a token of the withdrawn key is refused", async || {
            (gateway.with_token(&token).get("/api/v1/users/me").await.status == 401).then_some(())
        })
        .await;
        wait::until("it is published no more", async || {
            (published(gateway).await == BTreeSet::from([new.to_owned()])).then_some(())
        })
        .await;
    }
}

/// The path of what a service has declared for certain times, which from here on does not run by itself, whatever the time is.
async fn held(admin: &Http, name: &str) -> String {
    let id = wait::until("the schedule is declared", async || {
        let listed = admin.get("/api/v1/schedules").await.json(200);
        let declared = listed["items"].as_array().unwrap().iter().find(|schedule| schedule["name"] == name)?;
        Some(declared["id"].as_str().unwrap().to_owned())
    })
    .await;
    let path = format!("/api/v1/schedules/{id}");
    admin.post(&format!("{path}/pause"), &json!({})).await.json(200);
    path
}

/// Runs it now, and gives the job when it is done.
async fn run_now(admin: &Http, schedule: &str) -> Value {
    let run = admin.post(&format!("{schedule}/run-now"), &json!({})).await;
    jobs::job_in(admin, run.json(202)["jobId"].as_str().unwrap(), "SUCCEEDED").await
}

#[tokio::test]
async fn a_key_that_is_old_enough_is_followed_by_itself() {
    let platform = platform().await;
    let admin = platform.admin().await;
    let first = published(&admin).await;
    let rotation = held(&admin, "@auth.rotate-keys").await;

    let young = run_now(&admin, &rotation).await;
    assert_eq!(young["result"], Value::Null);
    assert_eq!(published(&admin).await, first);
    let age = "UPDATE auth.signing_keys SET activates_at = activates_at - interval '31 days', \
               created_at = created_at - interval '31 days'";
    sqlx::query(age).execute(&mut platform.superuser().await).await.unwrap();
    let due = run_now(&admin, &rotation).await;
    let again = run_now(&admin, &rotation).await;

    let made = due["result"]["keyId"].as_str().unwrap().to_owned();
    assert_eq!(again["result"], Value::Null, "once is enough");
    assert_eq!(published(&admin).await, first.into_iter().chain([made.clone()]).collect());
    let entry = platform.audit_entry(&admin, "auth.keys.rotated", |entry| entry["target"]["id"] == made.as_str()).await;
    assert_eq!((&entry["actor"]["type"], &entry["actor"]["id"]), (&json!("SERVICE"), &json!("auth")));
}

#[tokio::test]
async fn what_has_expired_is_deleted_and_nothing_else() {
    let platform = Setup::new().start().await;
    let (http, admin) = (platform.http(), platform.admin().await);
    let pruning = held(&admin, "@auth.prune").await;
    let person = Person::registered(&http).await;
    let [lives, expired, revoked] = [(); 3].map(|()| http.login(&person.email, &person.password));
    let (lives, expired, revoked) = (lives.await, expired.await, revoked.await);
    let refresh = |tokens: &Value| json!({ "refreshToken": tokens["refreshToken"] });
    // Two exchanges of the session that lives, so that it has a token which has had its time.
    let second = http.post("/api/v1/auth/refresh", &refresh(&lives)).await.json(200);
    let third = http.post("/api/v1/auth/refresh", &refresh(&second)).await.json(200);
    let mut database = platform.superuser().await;
    for (change, session) in [
        ("UPDATE auth.sessions SET expires_at = now() - interval '8 days' WHERE id = $1::uuid", &expired),
        (
            "UPDATE auth.sessions SET revoked_at = now() - interval '8 days', revoked_reason = 'LOGOUT' WHERE id = $1::uuid",
            &revoked,
        ),
        (
            "UPDATE auth.refresh_tokens SET expires_at = now() - interval '1 day' \
             WHERE session_id = $1::uuid AND used_at IS NOT NULL",
            &lives,
        ),
    ] {
        let session = session["sessionId"].as_str().unwrap();
        assert!(sqlx::query(change).bind(session).execute(&mut database).await.unwrap().rows_affected() > 0);
    }

    let pruned = run_now(&admin, &pruning).await;

    assert_eq!(pruned["result"], json!({ "tokens": 2, "sessions": 2, "keys": 0 }));
    let left: Vec<(String, i64)> = sqlx::query_as(
        "SELECT id::text, (SELECT count(*) FROM auth.refresh_tokens WHERE session_id = sessions.id) FROM auth.sessions \
         WHERE user_id = (SELECT id FROM identity.users WHERE email = $1)",
    )
    .bind(&person.email)
    .fetch_all(&mut database)
    .await
    .unwrap();
    assert_eq!(left, [(lives["sessionId"].as_str().unwrap().to_owned(), 1)]);
    http.post("/api/v1/auth/refresh", &refresh(&third)).await.json(200);
    http.post("/api/v1/auth/refresh", &refresh(&second)).await.problem(401, "invalid_token");
    assert_eq!(run_now(&admin, &pruning).await["result"], json!({ "tokens": 0, "sessions": 0, "keys": 0 }));
}
