//! How a process decides permissions: from what authz answered, for as long as nothing that the answer rests on has changed
//! and this process would have heard of it.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod probe;
mod servers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::{Client, HeaderMap, jetstream};
use kernel::Running;
use serde_json::{Value, json};
use subjects::authz::v1::AuthorizeRequest;
use tokio::time::{Instant, timeout};

use crate::probe::{Authz, Keys, ask, refusal, spawn};
use crate::servers::nats::{Nats, OBSERVER};

const LIST_USERS: &str = "svc.identity.v1.list_users";
const GET_USER: &str = "svc.identity.v1.get_user";
const WAIT_MAX: Duration = Duration::from_mins(1);

/// A process of identity's, and what is around it.
struct Bed {
    server: Nats,
    keys: Keys,
    authz: Authz,
    running: Running,
    client: Client,
    /// Whether the relays are heard.
    beating: Arc<AtomicBool>,
}

impl Bed {
    /// With a feed that is believed.
    async fn start() -> Self {
        let server = Nats::start().await;
        let (keys, authz) = (Keys::serve(&server).await, Authz::serve(&server).await);
        let running = probe::start(&server).await;
        let client = server.client(OBSERVER).await;
        let beating = Arc::new(AtomicBool::new(true));
        let (own, own_client) = (Arc::clone(&beating), client.clone());
        spawn(async move {
            loop {
                for publisher in subjects::AUTHORIZATION.publishers().filter(|_| own.load(Ordering::Relaxed)) {
                    let body = json!({ "service": publisher.name, "oldestUnsentAgeMs": 0 }).to_string();
                    let _away = own_client.publish(subjects::subject::beat(publisher.name), body.into()).await;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        let bed = Self { server, keys, authz, running, client, beating };
        bed.believed(true).await;
        bed
    }

    /// Waits until the feed is believed, or not.
    async fn believed(&self, believed: bool) {
        let began = Instant::now();
        while (self.metric("trunkline_feed_stale_seconds{feed=\"authorization\"}") == 0.0) != believed {
            assert!(began.elapsed() < WAIT_MAX, "believed: {believed}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn metric(&self, line: &str) -> f64 {
        probe::metric(&self.running, line)
    }

    /// The status of a call by `user`; 200 for success.
    async fn call(&self, subject: &'static str, user: &str) -> u16 {
        let token = format!("Bearer {}", self.keys.token(user, &[]));
        refusal(&ask(&self.client, subject, &[("Authorization", &token)], "").await).map_or(200, |(status, _)| status)
    }

    /// Stores an event of which the process hears, and waits until it has.
    async fn tell(&self, subject: &'static str, event: Value) {
        let line = "trunkline_feed_events_total{feed=\"authorization\"}";
        let before = self.metric(line);
        self.store(subject, event).await;
        let began = Instant::now();
        while self.metric(line) <= before {
            assert!(began.elapsed() < WAIT_MAX, "{subject} comes by");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn store(&self, subject: &'static str, event: Value) -> u64 {
        let context = jetstream::new(self.client.clone());
        let published =
            context.publish_with_headers(subject, HeaderMap::new(), event.to_string().into()).await.unwrap();
        published.await.unwrap().sequence
    }

    /// Who was asked about since the last call.
    fn asked(&self) -> Vec<String> {
        self.authz.asked().into_iter().map(|AuthorizeRequest { user_id, .. }| user_id).collect()
    }
}

#[tokio::test]
async fn answer_is_kept_until_something_it_rests_on_changes() {
    let bed = Bed::start().await;
    bed.authz.know("a", true, &["reader", "base"], &["g-1"]);
    bed.authz.know("b", true, &["reader"], &[]);
    bed.authz.know("c", false, &[], &["g-2"]);
    for _ in 0..3 {
        assert_eq!([bed.call(LIST_USERS, "a").await, bed.call(LIST_USERS, "b").await], [200, 200]);
        assert_eq!([bed.call(LIST_USERS, "c").await, bed.call(LIST_USERS, "nobody").await], [403, 403]);
    }
    assert_eq!(bed.asked(), ["a", "b", "c", "nobody"], "each once, refusals too");
    // Both need the same permission.
    assert_eq!(bed.call(GET_USER, "a").await, 200);
    assert_eq!(bed.asked(), [""; 0]);

    let changes = [
        ("evt.identity.user.role_removed", json!({ "userId": "a", "role": "reader" }), &["a"][..]),
        ("evt.identity.user.disabled", json!({ "userId": "b" }), &["b"]),
        ("evt.identity.group.member_added", json!({ "userId": "nobody", "groupId": "g-1" }), &["nobody"]),
        ("evt.identity.group.role_assigned", json!({ "groupId": "g-2", "role": "reader" }), &["c"]),
        ("evt.identity.group.deleted", json!({ "groupId": "g-1" }), &["a"]),
        ("evt.authz.role.permission_revoked", json!({ "role": "reader", "permission": "x" }), &["a", "b"]),
        ("evt.authz.role.updated", json!({ "role": "base", "permissions": [], "inherits": [] }), &["a"]),
        ("evt.authz.role.created", json!({ "role": "unheard of" }), &[]),
        ("evt.authz.role.deleted", json!({ "more": "says nothing" }), &["a", "b", "c", "nobody"]),
    ];
    for (subject, event, concerned) in changes {
        bed.tell(subject, event.clone()).await;
        for user in ["a", "b", "c", "nobody"] {
            bed.call(LIST_USERS, user).await;
        }
        assert_eq!(bed.asked(), concerned, "{subject} {event}");
    }
    bed.running.stop().await.unwrap();
}

#[tokio::test]
async fn concurrent_requests_ask_once_and_a_kept_answer_needs_no_message() {
    let bed = Bed::start().await;
    bed.authz.know("a", true, &["reader"], &[]);
    let held = bed.authz.hold();
    let calls = (0..20).map(|_| bed.call(LIST_USERS, "a"));
    let all = futures::future::join(futures::future::join_all(calls), async {
        let began = Instant::now();
        while bed.metric("trunkline_requests_in_flight") < 20.0 {
            assert!(began.elapsed() < WAIT_MAX, "all are under way");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bed.authz.hurry();
        held.notify_waiters();
    });
    assert_eq!(timeout(WAIT_MAX, all).await.unwrap().0, [200; 20]);
    assert_eq!(bed.asked(), ["a"]);

    let mut questions = bed.client.subscribe("svc.authz.>").await.unwrap();
    bed.client.flush().await.unwrap();
    for _ in 0..50 {
        assert_eq!(bed.call(LIST_USERS, "a").await, 200);
    }
    assert!(futures::FutureExt::now_or_never(futures::StreamExt::next(&mut questions)).is_none(), "nothing is asked");
    assert!(bed.metric("trunkline_decisions_total{kind=\"remembered\"}") >= 50.0);
    bed.running.stop().await.unwrap();
}

#[tokio::test]
async fn answer_that_was_under_way_when_its_ground_changed_is_not_kept() {
    let bed = Bed::start().await;
    bed.authz.know("a", true, &["reader"], &[]);
    let held = bed.authz.hold();
    let early = bed.call(LIST_USERS, "a");
    let change = async {
        let began = Instant::now();
        while bed.asked().is_empty() {
            assert!(began.elapsed() < WAIT_MAX, "it is asked");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        bed.authz.know("a", false, &[], &[]);
        bed.tell("evt.identity.user.role_removed", json!({ "userId": "a", "role": "reader" })).await;
        // Whoever comes now does not get what was asked before.
        bed.authz.hurry();
        let late = bed.call(LIST_USERS, "a");
        let release = async {
            while bed.metric("trunkline_requests_in_flight") < 2.0 {
                assert!(began.elapsed() < WAIT_MAX, "both are under way");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            held.notify_waiters();
        };
        futures::future::join(late, release).await.0
    };
    let (early, late) = timeout(WAIT_MAX, futures::future::join(early, change)).await.unwrap();
    assert_eq!((early, late), (200, 403), "who came before the change may have been answered before it");
    assert_eq!(bed.call(LIST_USERS, "a").await, 403);
    bed.running.stop().await.unwrap();
}

#[tokio::test]
async fn question_says_what_this_process_has_heard() {
    let bed = Bed::start().await;
    bed.call(LIST_USERS, "a").await;
    let [first] = &bed.authz.asked()[..] else { panic!("asked once") };
    let (created, sequence) = first.consistency_token.split_once('-').unwrap();
    assert!(created.parse::<u64>().unwrap() > 0 && sequence == "0", "{}", first.consistency_token);

    bed.store("evt.identity.user.registered", json!({ "userId": "b" })).await;
    bed.tell("evt.identity.user.disabled", json!({ "userId": "b" })).await;

    bed.call(LIST_USERS, "c").await;
    assert_eq!(bed.authz.asked()[0].consistency_token, format!("{created}-2"));
    assert_eq!(bed.authz.asked().len(), 0);
    bed.running.stop().await.unwrap();
}

#[tokio::test]
async fn silent_feed_makes_every_decision_ask_for_the_truth_and_no_answer_is_503() {
    let mut bed = Bed::start().await;
    bed.authz.know("a", true, &["reader"], &[]);
    assert_eq!(bed.call(LIST_USERS, "a").await, 200);
    assert_eq!(bed.asked(), ["a"]);

    bed.beating.store(false, Ordering::Relaxed);
    let silent = Instant::now();
    bed.authz.know("a", false, &[], &[]);
    // Nothing tells this process of the change.
    tokio::time::sleep_until(silent + Duration::from_secs(5)).await;
    // A heartbeat that was on its way may have come after that.
    bed.believed(false).await;
    assert!(silent.elapsed() < Duration::from_secs(12), "{:?}", silent.elapsed());
    for _ in 0..3 {
        assert_eq!(bed.call(LIST_USERS, "a").await, 403, "no allow from old data after five seconds");
    }
    let questions = bed.authz.asked();
    assert_eq!(questions.len(), 3, "nothing is kept meanwhile");
    assert!(questions.iter().all(|question| question.consistency_token == "latest"));

    bed.beating.store(true, Ordering::Relaxed);
    bed.believed(true).await;
    bed.authz.know("a", true, &["reader"], &[]);
    for _ in 0..3 {
        assert_eq!(bed.call(LIST_USERS, "a").await, 200);
    }
    assert_eq!(bed.asked(), ["a"]);

    bed.server.kill();
    bed.believed(false).await;
    bed.running.stop().await.unwrap();
}

#[tokio::test]
async fn without_an_answer_the_request_is_refused_with_503() {
    let server = Nats::start().await;
    let keys = Keys::serve(&server).await;
    let running = probe::start(&server).await;
    let client = server.client(OBSERVER).await;
    let token = format!("Bearer {}", keys.token("a", &["admin"]));

    let refused = refusal(&ask(&client, LIST_USERS, &[("Authorization", &token)], "").await);

    assert_eq!(refused, Some((503, "authorization_unavailable".to_owned())));
    running.stop().await.unwrap();
}
