//! No password and no token shows up anywhere but in the answer it was asked for in: logs, spans, metrics, tables,
//! streams, events, audit entries, discovery, and whatever file a process of the platform writes. Harmless markers that
//! went the same ways must show up, or the search proves nothing.

use std::{path::Path, process::Command};

use platform_tests::{
    Platform, Setup,
    broker::Broker,
    http::{Http, Reply},
    people::Person,
    tail::Tail,
    wait,
};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

/// What must be found nowhere.
#[derive(Default)]
struct Canaries(Vec<(&'static str, String)>);

impl Canaries {
    /// Something of this kind that nobody else has.
    fn plant(&mut self, kind: &'static str) -> String {
        let canary = Person::new().password;
        self.add(kind, &canary);
        canary
    }

    /// The middle of a secret is enough to be found by.
    fn add(&mut self, kind: &'static str, secret: &str) {
        self.0.push((kind, secret[secret.len() / 4..secret.len() * 3 / 4].to_owned()));
    }

    fn add_tokens(&mut self, tokens: &Value) {
        self.add("an access token", tokens["accessToken"].as_str().expect("issued"));
        self.add("a refresh token", tokens["refreshToken"].as_str().expect("issued"));
    }
}

/// What must be found, and went the same ways.
struct Markers {
    email: String,
    user_id: String,
    request_id: String,
}

#[tokio::test]
async fn secrets_are_found_nowhere_and_markers_where_they_belong() {
    let platform = Setup::new().own_servers().traces().set("log.level", "trace").start().await;
    let (admin, ops) = (platform.admin().await, platform.user("ops").connect().await);
    let (http, mut canaries) = (platform.http(), Canaries::default());

    let markers = over_http(&http, &admin, &mut canaries).await;
    over_nats(&ops, &markers, &mut canaries).await;
    platform.settled().await;

    let places = places(&platform, &admin, &ops, &markers).await;
    for (place, text, marker) in &places {
        assert!(text.contains(marker), "{place} does not hold {marker}: it was not searched\n{text:.2000}");
        for (kind, canary) in &canaries.0 {
            assert!(!text.contains(canary), "{place} holds {kind}: {canary}");
        }
    }
    let data = platform.folder().parent().expect("it lies in the servers' folder");
    let canaries: Vec<&str> = canaries.0.iter().map(|(_, canary)| canary.as_str()).collect();
    assert_eq!(files_with(data, &canaries), [""; 0]);
    for (marker, place) in [
        (&markers.user_id, "/streams/EVENTS/"),
        (&markers.request_id, "/streams/AUDIT/"),
        (&markers.email, "postgres"),
        (&markers.request_id, "/logs/"),
    ] {
        let files = files_with(data, &[marker]);
        assert!(files.iter().any(|file| file.contains(place)), "{marker} is in no {place}, but in {files:?}");
    }
}

/// Every operation that takes or gives a credential, well and badly.
async fn over_http(http: &Http, admin: &Http, canaries: &mut Canaries) -> Markers {
    let request_id = format!("marker-{}", Person::new().email.split('@').next().expect("a name"));
    let mut person = Person::new();
    person.password = canaries.plant("a password");
    http.post("/api/v1/registrations", &person.registration()).await.json(202);
    let login = |password: Value| json!({ "email": person.email, "password": password });
    let wrong = canaries.plant("a wrong password");
    http.post("/api/v1/auth/login", &login(wrong.into())).await.problem(401, "invalid_credentials");

    // Passwords where none belongs, and bodies that do not decode.
    let of_wrong_type = json!([canaries.plant("a password of a wrong type")]);
    http.post("/api/v1/auth/login", &login(of_wrong_type)).await.problem(422, "validation_failed");
    let misspelt = json!({ "email": person.email, "pasword": canaries.plant("a misspelt password") });
    http.post("/api/v1/auth/login", &misspelt).await.problem(422, "validation_failed");
    let torn = format!("{{\"email\":\"a@example.org\",\"password\":\"{}\"", canaries.plant("a torn password"));
    let torn = http.request(Method::POST, "/api/v1/auth/login").header("content-type", "application/json").body(torn);
    assert_eq!(Reply::of(torn).await.status, 400);
    let weak = Person { password: canaries.plant("a password of nobody"), email: "not an address".to_owned() };
    http.post("/api/v1/registrations", &weak.registration()).await.any_problem();

    // Tokens, good, used up, and garbage.
    let request = http.request(Method::POST, "/api/v1/auth/login").header("x-request-id", &request_id);
    let first = Reply::of(request.json(&login(person.password.clone().into()))).await.json(200);
    let refresh = json!({ "refreshToken": first["refreshToken"] });
    let second = http.post("/api/v1/auth/refresh", &refresh).await.json(200);
    let garbage = json!({ "refreshToken": canaries.plant("a refresh token of nobody's") });
    http.post("/api/v1/auth/refresh", &garbage).await.any_problem();
    let query = format!("/api/v1/users/me?access_token={}", canaries.plant("a token in a query").replace(' ', "%20"));
    http.get(&query).await.any_problem();
    for header in ["Bearer", "Basic", "Digest"] {
        let value = format!("{header} {}", canaries.plant("an Authorization header").replace(' ', "-"));
        let request = http.request(Method::GET, "/api/v1/users/me").header("authorization", value);
        Reply::of(request).await.problem(401, "invalid_token");
        canaries.0.last_mut().expect("planted").1 = canaries.0.last().expect("planted").1.replace(' ', "-");
    }
    let signed_in = http.with_token(second["accessToken"].as_str().expect("issued"));
    let me = signed_in.get("/api/v1/users/me").await.json(200);
    // A refusal is logged, so that the marker is in the logs too.
    let request = signed_in.request(Method::GET, "/api/v1/audit/entries").header("x-request-id", &request_id);
    Reply::of(request).await.problem(403, "permission_denied");
    // Passwords that are changed, or are not.
    let change = |current: &str, new: &str| json!({ "currentPassword": current, "newPassword": new });
    let wrong = change(&canaries.plant("a wrong present password"), &canaries.plant("a password not taken"));
    signed_in.post("/api/v1/users/me/password", &wrong).await.problem(422, "validation_failed");
    let chosen = canaries.plant("a chosen password");
    assert_eq!(signed_in.post("/api/v1/users/me/password", &change(&person.password, &chosen)).await.status, 204);
    let user = format!("/api/v1/users/{}", me["id"].as_str().expect("an id"));
    let refused = json!({ "password": canaries.plant("a password of who may not set it") });
    signed_in.patch(&user, &refused).await.problem(403, "permission_denied");
    let bad = json!({ "displayName": "", "password": canaries.plant("a password beside a bad name") });
    admin.patch(&user, &bad).await.problem(422, "validation_failed");
    admin.patch(&user, &json!({ "password": canaries.plant("a password that was set") })).await.json(200);
    signed_in.post("/api/v1/auth/logout", &json!({})).await;
    // Its session is gone: the refresh token is presented and refused.
    http.post("/api/v1/auth/refresh", &json!({ "refreshToken": second["refreshToken"] })).await.any_problem();
    canaries.add_tokens(&first);
    canaries.add_tokens(&second);
    let user_id = me["id"].as_str().expect("an id").to_owned();
    Markers { email: person.email, user_id, request_id }
}

async fn over_nats(ops: &Broker, markers: &Markers, canaries: &mut Canaries) {
    let person = Person { email: Person::new().email, password: canaries.plant("a password over NATS") };
    ops.call("svc.identity.v1.register", &person.registration()).await.json();
    let wrong = json!({ "email": markers.email, "password": canaries.plant("a wrong password over NATS") });
    ops.call("svc.auth.v1.login", &wrong).await.problem(401, "invalid_credentials");
    let bad = json!({ "email": person.email, "password": { "is": canaries.plant("a nested password") } });
    ops.call("svc.auth.v1.login", &bad).await.any_problem();
    let login = json!({ "email": person.email, "password": person.password });
    let first = ops.call("svc.auth.v1.login", &login).await.json();
    let refresh = json!({ "refreshToken": first["refreshToken"] });
    let second = ops.call("svc.auth.v1.refresh", &refresh).await.json();
    let token = second["accessToken"].as_str().expect("issued");
    ops.call_as(token, "svc.identity.v1.get_me", &json!({})).await.json();
    ops.call_as(token, "svc.identity.v1.list_users", &json!({})).await.problem(403, "permission_denied");
    let garbage = canaries.plant("an Authorization header over NATS");
    ops.call_as(&garbage, "svc.identity.v1.get_me", &json!({})).await.problem(401, "invalid_token");
    ops.call_as(token, "svc.auth.v1.logout", &json!({})).await;
    canaries.add_tokens(&first);
    canaries.add_tokens(&second);
}

/// Everything that can be looked at: what it is, its text, and what must be found in it.
async fn places(platform: &Platform, admin: &Http, ops: &Broker, markers: &Markers) -> Vec<(String, String, String)> {
    let mut places = vec![("a log".to_owned(), platform.logs(), markers.request_id.clone())];
    // The exporters send in batches; a span of the last request is among the last to come.
    let logouts = || platform.traces().spans().iter().filter(|span| span.is(&("auth", "auth.logout"))).count();
    wait::until("the last spans", async || (logouts() >= 2).then_some(())).await;
    places.push(("a span".to_owned(), format!("{:?}", platform.traces().spans()), markers.request_id.clone()));
    for port in platform.admin_ports() {
        let page = port.get("/metrics").await.body;
        places.push((format!("metrics of {}", port.base()), page, "trunkline_nats_connected".to_owned()));
    }
    for verb in ["INFO", "STATS"] {
        let answers = ops.gather(&format!("$SRV.{verb}")).await;
        places.push((format!("$SRV.{verb}"), format!("{answers:?}"), "svc.auth.v1.login".to_owned()));
    }
    let entries = admin.get("/api/v1/audit/entries?pageSize=500").await;
    entries.json(200);
    places.push(("the audit log".to_owned(), entries.body, markers.request_id.clone()));
    places.push(("the events".to_owned(), events(admin).await, markers.user_id.clone()));
    places.extend(tables(platform, markers).await);
    places
}

/// Every event that is stored, as the live tail shows it.
async fn events(admin: &Http) -> String {
    let last = Tail::position(admin, "evt.>").await;
    let mut tail = Tail::open(admin, "evt.>", Some(0)).await;
    let mut text = String::new();
    loop {
        let event = tail.event().await;
        text.push_str(&event.data.to_string());
        if event.id >= Some(last) {
            return text;
        }
    }
}

/// Every table that has rows, as text; the outboxes among them hold what the streams hold.
async fn tables(platform: &Platform, markers: &Markers) -> Vec<(String, String, String)> {
    let mut database = platform.superuser().await;
    let names: Vec<(String, bool)> = sqlx::query_as(
        "SELECT schemaname || '.' || tablename, EXISTS (
             SELECT FROM information_schema.columns
             WHERE table_schema = schemaname AND table_name = tablename AND column_name = 'payload')
         FROM pg_tables WHERE schemaname IN ('identity', 'auth', 'audit')",
    )
    .fetch_all(&mut database)
    .await
    .unwrap();
    assert!(names.len() >= 12, "{names:?}");
    let mut tables = Vec::new();
    for (name, has_payload) in names {
        // Bytes as text where they are text: a payload in hexadecimal would hide what it holds.
        let payloads = if has_payload { "|| convert_from(payload, 'UTF8')" } else { "" };
        let query = format!("SELECT string_agg(t::text {payloads}, E'\\n') FROM {name} t");
        let text: Option<String> = sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut database).await.unwrap();
        let marker = match name.as_str() {
            "identity.users" => &markers.email,
            "auth.sessions" => &markers.user_id,
            "audit.entries" => &markers.request_id,
            _ => "",
        };
        tables.extend(text.map(|text| (name, text, marker.to_owned())));
    }
    for name in ["identity.users", "auth.sessions", "audit.entries", "auth.outbox", "identity.outbox"] {
        assert!(tables.iter().any(|(table, ..)| table.starts_with(name)), "{name} was searched");
    }
    tables
}

/// Files below `folder` that hold one of these texts: stores of the broker and of the database, logs, everything.
fn files_with(folder: &Path, texts: &[&str]) -> Vec<String> {
    let mut grep = Command::new("grep");
    grep.args(["--recursive", "--files-with-matches", "--text", "--fixed-strings", "--no-messages"]);
    for text in texts {
        grep.args(["--regexp", text]);
    }
    let output = grep.arg(folder).output().expect("grep runs");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}
