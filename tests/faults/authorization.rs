//! Authorisation is never stale: a removed role is refused everywhere at once, a process whose feed is cut does not allow from
//! what it kept, and what concerns others drops nothing.
//!
//! A short run by default; `FAULTS_REVOCATIONS=1000` runs the whole, and then holds the 99th percentile to 50 ms.

use std::time::{Duration, Instant};

use nkeys::KeyPair;
use platform_tests::{
    Platform, Setup, Signal,
    broker::Broker,
    http::{Http, Reply},
    people::Person,
    wait,
    wire::Wire,
};
use reqwest::Method;
use serde_json::json;

use crate::{number, say};

/// Revocations without being told otherwise.
const REVOCATIONS: usize = 50;

/// From the answer to the removing call until it is refused at the last place, at p99 of the whole run.
const REFUSED_WITHIN: Duration = Duration::from_millis(50);

/// After that nothing may be allowed from what was kept of a feed that is cut (five heartbeats).
const STALE_MAX: Duration = Duration::from_secs(5);

/// Writes a second that do not concern the readers, and for how long.
const WRITES_PER_SECOND: u32 = 50;
/// Each waits for its answer, which comes when the change is in force.
const WRITERS: u32 = 24;
const WRITING: Duration = Duration::from_secs(4);
const READ_INTERVAL: Duration = Duration::from_millis(50);

/// Behind a permission, each in another service; the gateway decides itself who may see events.
const PATHS: &[&str] =
    &["/api/v1/users?pageSize=1", "/api/v1/audit/entries?pageSize=1", "/api/v1/roles?pageSize=1", "/api/v1/events"];
const SUBJECTS: &[&str] = &["svc.identity.v1.list_users", "svc.audit.v1.list_entries", "svc.authz.v1.list_roles"];

/// A place where a permission is decided, as somebody who was or was not given it.
#[derive(Clone)]
enum Place {
    Http(Http, &'static str),
    Nats(Broker, String, &'static str),
}

impl Place {
    /// Whether it is allowed there. What allows nothing since it cannot decide just now is asked again; anything else but yes and
    /// no fails the test.
    async fn allows(&self) -> bool {
        wait::until("it is decided", async || match self.status().await {
            // Too many tails at once are refused behind the permission.
            0 | 200 | 429 => Some(true),
            403 => Some(false),
            503 | 504 => None,
            other => panic!("neither allowed nor refused: {other}"),
        })
        .await
    }

    async fn status(&self) -> u16 {
        match self {
            // The body of a live tail has no end.
            Self::Http(http, path) => http.request(Method::GET, path).send().await.unwrap().status().as_u16(),
            Self::Nats(ops, token, subject) => ops.call_as(token, subject, &json!({})).await.error_code,
        }
    }

    /// Asks again and again until it is refused.
    async fn refuses(&self, since: Instant) -> Refusal {
        let mut allowed = Duration::ZERO;
        while self.allows().await {
            allowed = since.elapsed();
            assert!(allowed < wait::WAIT_MAX, "refused at last");
        }
        Refusal { allowed, heard: since.elapsed() }
    }
}

/// After the answer to a removing call.
struct Refusal {
    /// Until when it was still allowed; zero where it never was.
    allowed: Duration,
    /// When the first refusal was heard, which takes its own time: it is recorded before it is told.
    heard: Duration,
}

/// In order.
struct Times(Vec<Duration>);

impl Times {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        Self(times)
    }

    fn at(&self, percent: usize) -> Duration {
        self.0[(self.0.len() * percent).div_ceil(100) - 1]
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "p50 {:.1?}, p99 {:.1?}, longest {:.1?}", self.at(50), self.at(99), self.at(100))
    }
}

#[tokio::test]
async fn removed_role_is_refused_at_another_gateway_and_in_every_service() {
    let told = number("FAULTS_REVOCATIONS");
    let platform = Setup::new().own_servers().instances("gateway", 2).start().await;
    let (id, token) = registered(&platform).await;
    let ops = platform.user("ops").connect().await;
    let mut places = Vec::new();
    for gateway in [platform.gateway(1), platform.gateway(2)] {
        places.extend(PATHS.iter().map(|path| Place::Http(gateway.with_token(&token), path)));
    }
    places.extend(SUBJECTS.iter().map(|subject| Place::Nats(ops.clone(), token.clone(), subject)));
    let admin = platform.gateway(1).with_token(&platform.admin_token().await);
    let role = format!("/api/v1/users/{id}/roles/admin");
    platform.hears_changes().await;

    let (mut allowed, mut heard, mut tokens) = (Vec::new(), Vec::new(), 0);
    for _ in 0..told.unwrap_or(REVOCATIONS) {
        Reply::of(admin.request(Method::PUT, &role)).await.json(200);
        for place in &places {
            wait::until("it is allowed, and kept", async || place.allows().await.then_some(())).await;
        }
        let removed = Reply::of(admin.request(Method::DELETE, &role)).await;
        let since = Instant::now();
        let refused = futures::future::join_all(places.iter().map(|place| place.refuses(since))).await;
        allowed.push(refused.iter().map(|refusal| refusal.allowed).max().unwrap());
        heard.push(refused.iter().map(|refusal| refusal.heard).max().unwrap());
        tokens += usize::from(!removed.json(200)["consistencyToken"].as_str().unwrap().is_empty());
    }

    let (allowed, heard) = (Times::of(allowed), Times::of(heard));
    say(&format!(
        "{} revocations, the slowest of {} places each: allowed until {allowed}, refusal heard {heard}; {tokens} answers \
         with a token",
        allowed.0.len(),
        places.len(),
    ));
    if told.is_some() {
        assert!(allowed.at(99) <= REFUSED_WITHIN, "p99 {:?}", allowed.at(99));
        assert!(tokens * 2 > allowed.0.len(), "most answers come when the event has come by");
    }
    assert!(tokens > 0, "answers come when the event has come by, where that is soon");
}

#[tokio::test]
async fn process_whose_feed_is_cut_allows_nothing_from_what_it_kept() {
    let platform = Setup::new().own_servers().start().await;
    let (id, token) = registered(&platform).await;
    let admin = platform.admin().await;
    let role = format!("/api/v1/users/{id}/roles/auditor");
    Reply::of(admin.request(Method::PUT, &role)).await.json(200);
    platform.hears_changes().await;
    let audit = Place::Http(platform.http().with_token(&token), PATHS[1]);
    let kept = "trunkline_decisions_total{kind=\"remembered\"}";
    wait::until("audit allows it, and keeps the answer", async || {
        let before = platform.metric("audit", kept).await;
        (audit.allows().await && platform.metric("audit", kept).await > before).then_some(())
    })
    .await;

    cut_feed(&platform, "audit").await;
    let cut = Instant::now();
    Reply::of(admin.request(Method::DELETE, &role)).await.json(200);

    // Until then it may; what matters is that it does not afterwards.
    while cut.elapsed() < STALE_MAX {
        audit.allows().await;
    }
    for _ in 0..50 {
        assert!(!audit.allows().await, "allowed {:?} after its feed was cut", cut.elapsed());
    }
    let lost = "trunkline_feed_losses_total{feed=\"authorization\",reason=\"";
    let (silent, disconnected) = (format!("{lost}silent"), format!("{lost}disconnected"));
    let losses = platform.metric("audit", &silent).await + platform.metric("audit", &disconnected).await;
    assert!(losses > 0.0, "its feed was cut");
    // It asks each time, and what is allowed is still allowed.
    let asked = "trunkline_decisions_total{kind=\"asked_for_truth\"}";
    let before = platform.metric("audit", asked).await;
    wait::until("the administrator may", async || (admin.get(PATHS[1]).await.status == 200).then_some(())).await;
    assert!(platform.metric("audit", asked).await > before);
    say(&format!("role removed and feed cut: refused for certain {:?} later", cut.elapsed()));
}

#[tokio::test]
async fn authz_whose_feed_is_cut_answers_nothing_older_than_its_asker_has_heard() {
    let platform = Setup::new().own_servers().start().await;
    let (id, token) = registered(&platform).await;
    let admin = platform.admin().await;
    let role = format!("/api/v1/users/{id}/roles/admin");
    Reply::of(admin.request(Method::PUT, &role)).await.json(200);
    platform.hears_changes().await;
    // Authz itself may go on for five seconds; who asks it must not be told what they know to be over.
    let askers = [PATHS[0], PATHS[1], PATHS[3]].map(|path| Place::Http(platform.http().with_token(&token), path));
    let holdings = "trunkline_cache_entries{cache=\"holdings\"}";
    wait::until("authz keeps what the user holds", async || {
        for place in &askers {
            place.allows().await.then_some(())?;
        }
        (platform.metric("authz", holdings).await >= 2.0).then_some(())
    })
    .await;

    cut_feed(&platform, "authz").await;
    let cut = Instant::now();
    Reply::of(admin.request(Method::DELETE, &role)).await.json(200);
    // Once they have heard of it themselves; before authz can have noticed that it hears nothing.
    let removed = Instant::now();
    for place in &askers {
        let refusal = place.refuses(removed).await;
        assert!(refusal.allowed < STALE_MAX / 2, "allowed {:?} after the removal", refusal.allowed);
    }
    say(&format!("feed of authz cut: all refused {:?} later, of which it believes 5 s", cut.elapsed()));
}

#[tokio::test]
async fn while_authz_does_not_answer_nothing_is_allowed_from_what_was_kept() {
    let platform = Setup::new().own_servers().start().await;
    let admin = platform.admin().await;
    platform.hears_changes().await;
    admin.get(PATHS[1]).await.json(200);

    platform.process("authz", 1).signal(Signal::STOP).await.unwrap();
    // Not for luck: for so long it may go on, and what matters comes after. The last heartbeat may have been on its way.
    tokio::time::sleep(STALE_MAX + Duration::from_secs(1)).await;
    admin.get(PATHS[1]).await.problem(503, "authorization_unavailable");
    admin.get("/api/v1/users/me").await.json(200);

    platform.process("authz", 1).signal(Signal::CONT).await.unwrap();
    wait::until("it is decided again", async || (admin.get(PATHS[1]).await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn unrelated_writes_leave_what_is_kept_of_others() {
    let platform = Setup::new().own_servers().start().await;
    let admin = platform.admin().await;
    let mut readers = Vec::new();
    for _ in 0..4 {
        let (id, token) = registered(&platform).await;
        let role = format!("/api/v1/users/{id}/roles/auditor");
        Reply::of(admin.request(Method::PUT, &role)).await.json(200);
        readers.push(platform.http().with_token(&token));
    }
    let mut others = Vec::new();
    for _ in 0..WRITERS {
        others.push(registered(&platform).await.0);
    }
    platform.hears_changes().await;
    let (kept, asked) = ("trunkline_decisions_total{kind=\"remembered\"}", "trunkline_decisions_total{kind=\"asked");
    let counts = async || (platform.metric("audit", kept).await, platform.metric("audit", asked).await);
    // Each has asked once before it counts: how many readings share the first is the machine's doing.
    for reader in &readers {
        wait::until("what a reader may is kept", async || {
            let before = counts().await.0;
            (reader.get(PATHS[1]).await.status == 200 && counts().await.0 > before).then_some(())
        })
        .await;
    }
    let before = counts().await;

    let began = Instant::now();
    // At a pace of their own, so that the machine has room for the writes.
    let reading = futures::future::join_all(readers.iter().map(async |reader| {
        let mut ticks = tokio::time::interval(READ_INTERVAL);
        while began.elapsed() < WRITING {
            ticks.tick().await;
            reader.get(PATHS[1]).await.json(200);
        }
    }));
    // Each writer keeps its share of the rate, as far as the machine lets it.
    let writing = futures::future::join_all(others.iter().map(async |other| {
        let role = format!("/api/v1/users/{other}/roles/auditor");
        let mut ticks = tokio::time::interval(Duration::from_secs(1) * WRITERS / WRITES_PER_SECOND);
        let mut writes: u32 = 0;
        while began.elapsed() < WRITING {
            ticks.tick().await;
            let method = if writes.is_multiple_of(2) { Method::PUT } else { Method::DELETE };
            Reply::of(admin.request(method, &role)).await.json(200);
            writes += 1;
        }
        writes
    }));
    let (_, writes) = futures::future::join(reading, writing).await;

    let after = counts().await;
    let (hits, misses) = (after.0 - before.0, after.1 - before.1);
    let rate = f64::from(writes.iter().sum::<u32>()) / began.elapsed().as_secs_f64();
    let share = hits / (hits + misses);
    say(&format!("{rate:.0} unrelated writes a second: {hits} of {} decisions at hand, {share:.4}", hits + misses));
    assert!(share >= 0.9, "{share}");
}

/// Takes from a service's broker user everything by which it hears of changes: events and heartbeats.
async fn cut_feed(platform: &Platform, service: &str) {
    let file = platform.folder().parent().unwrap().join("nats/users.conf");
    let key = KeyPair::from_seed(&platform.user(service).seed).unwrap().public_key();
    let text = std::fs::read_to_string(&file).unwrap();
    let (before, own) = text.split_at(text.find(&key).expect("the service has a user"));
    let (subscribe, rest) = own.split_at(own.find("      } }").expect("its permissions end"));
    let cut = subscribe.replace("\"live.evt.", "\"cut.").replace("\"beat.", "\"cut.beat.");
    assert_ne!(cut, subscribe);
    // Its own relay goes on beating.
    let own_beat = format!("\"beat.{service}\"");
    let cut = cut.replacen(&format!("\"cut.beat.{service}\""), &own_beat, 1);
    std::fs::write(&file, format!("{before}{cut}{rest}")).unwrap();
    platform.process("nats-server", 1).signal(Signal::HUP).await.unwrap();
    wait::until("the broker has taken it from the service", async || {
        // It may turn connections away while it takes its new configuration.
        let user = platform.user(service);
        let mut wire = Wire::connect(&user.url, Some(&user.seed)).await.ok()?;
        let refused = wire.subscribe("live.evt.identity.user.role_removed", None).await.ok()?;
        (!refused.is_empty()).then_some(())
    })
    .await;
}

/// Somebody without a role, by id and access token.
async fn registered(platform: &Platform) -> (String, String) {
    let person = Person::registered(&platform.http()).await;
    let user = platform.http().signed_in(&person.email, &person.password).await;
    let me = user.get("/api/v1/users/me").await.json(200);
    (me["id"].as_str().unwrap().to_owned(), user.token().unwrap().to_owned())
}
