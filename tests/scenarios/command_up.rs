//! `trunkline up` as a person uses it: one command, ready by itself, stopped by one signal, found again as it was.

use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant},
};

use platform_tests::{build, command::Up, http::Http, people::Person};
use serde_json::Value;
use sqlx::{Connection, PgConnection};

/// From an existing data folder and a built tree to ready; the platform's own bound is 5 s, on a machine of its own.
const SECOND_START_MAX: Duration = Duration::from_secs(40);

#[tokio::test]
async fn up_starts_serves_stops_and_finds_its_data_again() {
    // The first start makes everything and says so.
    let up = Up::start(&[]).await;
    let folder = up.data();
    let admin = admin_json(&folder);
    let (email, password) = (admin["email"].as_str().unwrap(), admin["password"].as_str().unwrap());
    assert!(up.output().contains(&format!("admin: {email} {password}")), "printed once:\n{}", up.output());
    let http = Http::new(admin["gatewayUrl"].as_str().unwrap());
    assert_eq!(http.base(), format!("http://127.0.0.1:{}", up.port_base()));
    assert_eq!(http.get("/readyz").await.status, 200);
    check_admin_json(&admin, &up, &folder);
    check_modes(&folder);
    let administrator = http.signed_in(email, password).await;
    let person = Person::registered(&http).await;
    let token = up.command(&["token"]).await;
    http.with_token(token.trim()).get("/api/v1/users?pageSize=1").await.json(200);
    platform_tests::wait::until("the login is in the log", async || {
        up.command(&["audit", "list"]).await.contains("auth.session.created").then_some(())
    })
    .await;
    assert_eq!(up.without_reader(&["audit", "list", "--json"]).await, (true, String::new()));
    check_export(&up).await;

    // One signal ends all of it.
    let processes = pids(&admin);
    let output = up.stop().await;
    for pid in processes {
        assert!(!runs(pid), "process {pid} is left behind:\n{output}");
    }
    assert!(http.request(reqwest::Method::GET, "/livez").send().await.is_err(), "nobody listens any more");

    // The second start finds everything as it was, and quickly.
    let started = Instant::now();
    up.start_again().await;
    assert!(started.elapsed() < SECOND_START_MAX, "{:?}", started.elapsed());
    assert!(!up.output().contains(password), "the password is printed on the very first start only:\n{}", up.output());
    let again = admin_json(&folder);
    assert_eq!((&again["email"], &again["password"]), (&admin["email"], &admin["password"]));
    let http = Http::new(again["gatewayUrl"].as_str().unwrap());
    http.login(email, password).await;
    http.login(&person.email, &person.password).await;
    let users = administrator_of(&http, &administrator).get("/api/v1/users").await.json(200);
    assert!(users["items"].as_array().unwrap().iter().any(|user| user["email"] == person.email.as_str()));
    let logs = std::fs::read_dir(folder.join("logs")).unwrap().map(|entry| entry.unwrap().path());
    for log in logs {
        let text = String::from_utf8_lossy(&std::fs::read(&log).unwrap()).into_owned();
        for secret in [password, &person.password, token.trim()] {
            assert!(!text.contains(secret), "{} holds a secret", log.display());
        }
    }
    up.stop().await;
}

#[tokio::test]
async fn up_restarts_what_dies_and_says_so_in_admin_json() {
    let up = Up::start(&["--instances", "gateway=2", "--set", "gateway.rate_limits.enabled=false"]).await;
    let folder = up.data();
    let before = admin_json(&folder);
    let gateways = before["processes"].as_array().unwrap().iter().filter(|process| process["name"] == "gateway");
    assert_eq!(gateways.count(), 2);

    let victim = process(&before, "identity")["pid"].as_u64().unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(victim).unwrap()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();

    let after = platform_tests::wait::until("admin.json names the successor", async || {
        let now = admin_json(&folder);
        let pid = find_process(&now, "identity")?["pid"].as_u64().filter(|pid| *pid != victim)?;
        runs(pid).then_some(now)
    })
    .await;
    let http = Http::new(after["gatewayUrl"].as_str().unwrap());
    let person = Person::new();
    platform_tests::wait::until("the platform serves again", async || {
        let reply = http.post("/api/v1/registrations", &person.registration()).await;
        (reply.status == 202).then_some(())
    })
    .await;
    up.stop().await;
}

#[tokio::test]
async fn up_makes_the_streams_anew_when_the_brokers_store_is_gone_and_nothing_is_missing_afterwards() {
    let up = Up::start(&["--sync", "interval"]).await;
    let http = Http::new(&up.admin().gateway_url.unwrap());
    Person::registered(&http).await;
    let ops = up.user("ops").connect().await.client;
    let stored = async || -> Option<u64> {
        let answer = ops.request("$JS.API.STREAM.INFO.EVENTS", "".into()).await.ok()?;
        serde_json::from_slice::<Value>(&answer.payload).unwrap()["state"]["messages"].as_u64()
    };
    // Whatever the services have told at their start, and a registration.
    let mut database = PgConnection::connect(&up.admin().postgres_url.unwrap()).await.unwrap();
    let told = "SELECT (SELECT count(*) FROM identity.outbox WHERE stream = 'EVENTS') \
                + (SELECT count(*) FROM auth.outbox WHERE stream = 'EVENTS') \
                + (SELECT count(*) FROM authz.outbox WHERE stream = 'EVENTS') \
                + (SELECT count(*) FROM jobs.outbox WHERE stream = 'EVENTS')";
    let told: i64 = sqlx::query_scalar(told).fetch_one(&mut database).await.unwrap();
    let told = u64::try_from(told).unwrap();
    assert!(told >= 2, "the first administrator's creation, and the registration");
    let before =
        platform_tests::wait::until("every event", async || stored().await.filter(|count| *count == told)).await;

    let broker = process(&admin_json(&up.data()), "nats-server")["pid"].as_u64().unwrap();
    let store = up.data().join("nats/jetstream");
    platform_tests::wait::until("the store is deleted", async || std::fs::remove_dir_all(&store).ok()).await;
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(broker).unwrap()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();

    platform_tests::wait::until("every event again", async || stored().await.filter(|count| *count == before)).await;
    Person::registered(&http).await;
    platform_tests::wait::until("one more", async || stored().await.filter(|count| *count == before + 1)).await;
    up.stop().await;
}

#[tokio::test]
async fn up_refuses_wrong_settings_at_once_and_names_all_of_them() {
    let (exit, output) = Up::refused(&["--set", "auth.nonsense=1", "--set", "auth.access_token_ttl_ms=0"]).await;

    assert_ne!(exit, "exit status: 0");
    assert!(output.contains("NONSENSE") && output.contains("access_token_ttl_ms"), "every fault is told:\n{output}");
}

fn check_admin_json(admin: &Value, up: &Up, folder: &Path) {
    for field in ["gatewayUrl", "natsUrl", "natsContext", "postgresUrl"] {
        assert!(admin[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {admin}");
    }
    assert_eq!(admin["natsUrl"], format!("nats://127.0.0.1:{}", up.port_base() + 1));
    assert!(admin["postgresUrl"].as_str().unwrap().contains(&format!(":{}/", up.port_base() + 2)));
    for name in ["identity", "auth", "authz", "audit", "jobs", "gateway", "nats-server", "postgres"] {
        let process = process(admin, name);
        assert_eq!(process["instance"].as_u64(), Some(1), "{process}");
        assert!(runs(process["pid"].as_u64().unwrap()), "{process}");
        if !["nats-server", "postgres"].contains(&name) {
            assert!(process["adminUrl"].as_str().is_some_and(|url| url.starts_with("http://")), "{process}");
        }
    }
    let context: Value = serde_json::from_slice(&std::fs::read(folder.join("nats-context.json")).unwrap()).unwrap();
    assert_eq!(context["url"], admin["natsUrl"]);
    assert_eq!(context["inbox_prefix"], "_INBOX.ops");
    let seed = context["nkey"].as_str().expect("the context names the seed's file");
    assert!(Path::new(seed).is_absolute() && Path::new(seed).exists(), "{seed}");
}

/// What is secret is readable by its owner only.
fn check_modes(folder: &Path) {
    let mut files = vec![folder.join("admin.json"), folder.join("nats-context.json")];
    files.extend(std::fs::read_dir(folder.join("nkeys")).unwrap().map(|entry| entry.unwrap().path()));
    assert!(files.len() >= 7, "admin, context and a seed for each user: {files:?}");
    for file in files {
        let mode = std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", file.display());
    }
}

/// The log in a file, whose proof needs the file and the key and finds what is done to it.
async fn check_export(up: &Up) {
    let file = up.data().with_file_name("log.ndjson");
    up.command(&["audit", "export", "--out", file.to_str().unwrap()]).await;
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let checkpoints = up.command(&["audit", "checkpoints", "--json"]).await;
    let checkpoint: Value = serde_json::from_str(checkpoints.lines().next().unwrap()).unwrap();
    let key = checkpoint["publicKey"].as_str().unwrap();

    let (held, said) = verify(&file, key).await;
    assert!(held == Some(0) && said.starts_with("holds: "), "{said}");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replacen("SUCCESS", "DENIED", 1)).unwrap();
    let (held, said) = verify(&file, key).await;
    assert!(held == Some(1) && said.starts_with("ALTERED at "), "{said}");
    std::fs::write(&file, text).unwrap();
    let (held, said) = verify(&file, "A".repeat(43).as_str()).await;
    assert!(held == Some(1) && said.starts_with("BAD_SIGNATURE at "), "{said}");
}

/// The exit code of `trunkline audit verify` and what it says.
async fn verify(file: &Path, key: &str) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::new(build::command().await);
    let output = command.args(["audit", "verify", "--public-key", key]).arg(file).output().await.unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn admin_json(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("admin.json")).unwrap()).unwrap()
}

fn process<'a>(admin: &'a Value, name: &str) -> &'a Value {
    find_process(admin, name).unwrap_or_else(|| panic!("no {name}: {admin}"))
}

fn find_process<'a>(admin: &'a Value, name: &str) -> Option<&'a Value> {
    admin["processes"].as_array().expect("processes").iter().find(|process| process["name"] == name)
}

fn pids(admin: &Value) -> Vec<u64> {
    admin["processes"].as_array().unwrap().iter().map(|process| process["pid"].as_u64().unwrap()).collect()
}

fn runs(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // proc(5): the state stands behind the name's closing bracket; Z has ended and only waits to be noticed.
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

fn administrator_of(http: &Http, signed_in: &Http) -> Http {
    // The access token of the first start is still good on the second: keys and sessions were kept.
    http.with_token(signed_in.token().expect("signed in"))
}
