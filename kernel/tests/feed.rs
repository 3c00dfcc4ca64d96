//! What a feed promises: messages as they are stored, and the certainty of hearing when one may have been missed.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod servers;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::{Client, HeaderMap, jetstream};
use bytes::Bytes;
use kernel::feed::{Bounds, Feed, Freshness, Loss, Signal, StreamReader};
use kernel::settings::NoSettings;
use kernel::{Parts, Running, Service, Start, StartError};
use serde_json::{Value, json};
use servers::nats::{Nats, OBSERVER};
use subjects::{ServiceContract, WatchContract};
use tokio::time::{Instant, timeout};

const REGISTERED: &str = "evt.identity.user.registered";
const DISABLED: &str = "evt.identity.user.disabled";
const CREATED: &str = "evt.auth.session.created";

/// The longest that anything which must happen may take.
const WAIT_MAX: Duration = Duration::from_mins(1);

const NEVER: u64 = u64::MAX;

/// Under the gateway's name and rights.
static CONTRACT: ServiceContract = ServiceContract {
    name: "gateway",
    version: "1.2.3",
    description: "A probe.",
    endpoints: &[],
    events: &[],
    calls: &["svc.auth.v1.get_jwks"],
    consumers: &[],
    buckets: &[],
    enqueues: &[],
    jobs: &[],
    watches: &[WHOLE, PART],
};
const WHOLE: WatchContract = WatchContract { stream: "EVENTS", subjects: &["evt.>"] };
const PART: WatchContract = WatchContract { stream: "EVENTS", subjects: &["evt.identity.>", "evt.*.user.>"] };

/// What the probes have opened, by instance.
static OPENED: Mutex<Option<HashMap<String, (Feed, StreamReader)>>> = Mutex::new(None);

struct Probe;

impl Service for Probe {
    type Settings = NoSettings;

    const DATABASE: bool = false;

    fn contract() -> &'static ServiceContract {
        &CONTRACT
    }

    async fn build(parts: Parts<NoSettings>) -> Result<Self, StartError> {
        let instance = parts.process.instance.clone();
        let watch = &CONTRACT.watches[usize::from(instance.starts_with("part"))];
        let bounds =
            if instance.contains("small") { Bounds { messages: 8, bytes: 100_000 } } else { Bounds::default() };
        let feed = parts.feeds.open("probe", watch, bounds).await?;
        OPENED.lock().unwrap().get_or_insert_default().insert(instance, (feed, parts.feeds.reader(watch)));
        Ok(Self)
    }
}

/// A process with a feed, and the relays that fill it.
struct Watcher {
    running: Running,
    feed: Feed,
    reader: StreamReader,
    client: Client,
    /// What identity's relay says of its oldest unsent message; with [`NEVER`] it says nothing at all.
    age_ms: Arc<AtomicU64>,
}

impl Watcher {
    async fn start(server: &Nats, kind: &str, age_ms: u64) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let instance = format!("{kind}-{}", STARTED.fetch_add(1, Ordering::Relaxed));
        let client = server.client(OBSERVER).await;
        let age_ms = Arc::new(AtomicU64::new(age_ms));
        beat(client.clone(), Arc::clone(&age_ms));
        let mut process = server.settings("gateway");
        process.instance.clone_from(&instance);
        process.nats.reconnect_delay_max_ms = 200;
        let running = kernel::start::<Probe>(Start::new(process, NoSettings {})).await.unwrap();
        let (feed, reader) = OPENED.lock().unwrap().as_mut().unwrap().remove(&instance).unwrap();
        Self { running, feed, reader, client, age_ms }
    }

    /// With a feed that is believed.
    async fn fresh(server: &Nats, kind: &str) -> Self {
        let mut watcher = Self::start(server, kind, 0).await;
        watcher.until_fresh().await;
        watcher
    }

    async fn next(&mut self) -> Signal {
        let signal = timeout(WAIT_MAX, self.feed.next()).await.expect("the feed tells something");
        signal.expect("the process runs")
    }

    /// The next loss; messages before it are passed over.
    async fn loss(&mut self) -> Loss {
        loop {
            match self.next().await {
                Signal::Lost(loss) => return loss,
                Signal::Event(_) | Signal::Fresh(_) => {}
            }
        }
    }

    async fn until_fresh(&mut self) -> u64 {
        loop {
            if let Signal::Fresh(sequence) = self.next().await {
                return sequence;
            }
        }
    }

    /// The next message, before which nothing may be lost.
    async fn event(&mut self) -> (String, u64, Value) {
        match self.next().await {
            Signal::Event(message) => {
                (message.subject.clone(), message.sequence, serde_json::from_slice(&message.payload).unwrap())
            }
            other => panic!("not a message: {other:?}"),
        }
    }

    async fn store(&self, subject: &'static str, number: u64) -> u64 {
        let context = jetstream::new(self.client.clone());
        let published = context.publish(subject, json!({ "number": number }).to_string().into()).await.unwrap();
        published.await.unwrap().sequence
    }

    fn metric(&self, line: &str) -> f64 {
        let page = self.running.metrics().encode();
        let value = page.lines().find_map(|entry| entry.strip_prefix(line)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or_else(|| panic!("{line} is not on the page:\n{page}"))
    }
}

/// Beats as the relays do, for as long as the test's runtime lives.
#[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
fn beat(client: Client, age_ms: Arc<AtomicU64>) {
    tokio::spawn(async move {
        loop {
            for service in subjects::SERVICES.iter().map(|service| service.name) {
                let age = if service == "identity" { age_ms.load(Ordering::Relaxed) } else { 0 };
                if age != NEVER {
                    let body = json!({ "service": service, "oldestUnsentAgeMs": age }).to_string();
                    let _away = client.publish(subjects::subject::beat(service), body.into()).await;
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
}

#[tokio::test]
async fn stored_messages_come_in_order_with_their_sequence() {
    let server = Nats::start().await;
    let mut watcher = Watcher::fresh(&server, "whole").await;

    for (number, subject) in [REGISTERED, CREATED, REGISTERED].into_iter().enumerate() {
        watcher.store(subject, number as u64).await;
    }

    assert_eq!(watcher.event().await, (REGISTERED.to_owned(), 1, json!({ "number": 0 })));
    assert_eq!(watcher.event().await, (CREATED.to_owned(), 2, json!({ "number": 1 })));
    assert_eq!(watcher.event().await, (REGISTERED.to_owned(), 3, json!({ "number": 2 })));
    assert_eq!(watcher.feed.freshness(), Freshness::Fresh);
    assert!((watcher.metric(r#"trunkline_feed_events_total{feed="probe"}"#) - 3.0).abs() < f64::EPSILON);
    assert!(watcher.metric(r#"trunkline_feed_stale_seconds{feed="probe"}"#) < f64::EPSILON);
    watcher.running.stop().await.unwrap();
}

#[tokio::test]
async fn atomic_batch_is_no_gap_and_overlapping_filters_are_no_repetition() {
    let server = Nats::start().await;
    let (mut whole, mut part) = (Watcher::fresh(&server, "whole").await, Watcher::fresh(&server, "part").await);
    whole.store(REGISTERED, 0).await;

    let subjects = [REGISTERED, CREATED, REGISTERED, DISABLED, REGISTERED, CREATED];
    for (index, subject) in subjects.into_iter().enumerate() {
        let mut headers = HeaderMap::new();
        headers.append("Nats-Batch-Id", "batch");
        headers.append("Nats-Batch-Sequence", (index + 1).to_string());
        if index + 1 == subjects.len() {
            headers.append("Nats-Batch-Commit", "1");
        }
        let body = json!({ "number": index + 1 }).to_string();
        whole.client.publish_with_headers(subject, headers, body.into()).await.unwrap();
    }

    for sequence in 1..=7 {
        assert_eq!(whole.event().await.1, sequence);
    }
    for sequence in [1, 2, 4, 5, 6] {
        assert_eq!(part.event().await.1, sequence);
    }
    whole.running.stop().await.unwrap();
    part.running.stop().await.unwrap();
}

#[tokio::test]
async fn messages_of_several_subscriptions_come_in_the_order_of_the_stream() {
    const BURST: u64 = 2_000;
    let server = Nats::start().await;
    let mut watcher = Watcher::fresh(&server, "part").await;

    // Each subject is covered by one filter; many wait at once in both subscriptions.
    for number in 0..BURST {
        let subject = if number % 3 == 0 { "evt.identity.group.created" } else { "evt.team.user.made" };
        let body = json!({ "number": number }).to_string();
        watcher.client.publish(subject, body.into()).await.unwrap();
    }

    for number in 0..BURST {
        let (_, sequence, body) = watcher.event().await;
        assert_eq!((sequence, &body["number"]), (number + 1, &number.into()), "nothing is lost, nothing overtakes");
    }
    watcher.running.stop().await.unwrap();
}

#[tokio::test]
async fn message_that_did_not_come_is_noticed_at_the_next() {
    let server = Nats::start().await;
    let (mut whole, mut part) = (Watcher::fresh(&server, "whole").await, Watcher::fresh(&server, "part").await);
    whole.store(REGISTERED, 1).await;
    assert_eq!((whole.event().await.1, part.event().await.1), (1, 1));

    // Stored, and told to nobody.
    server.configure("EVENTS", json!({ "republish": null })).await;
    whole.store(REGISTERED, 2).await;
    server.configure("EVENTS", json!({})).await;
    whole.store(CREATED, 3).await;
    whole.store(REGISTERED, 4).await;

    assert!(matches!(whole.next().await, Signal::Lost(Loss::Gap)));
    assert_eq!(whole.event().await.1, 3);
    assert!(matches!(part.next().await, Signal::Lost(Loss::Gap)), "another subject says nothing of the gap");
    assert_eq!(part.event().await.1, 4);
    assert_eq!((whole.until_fresh().await >= 3, part.until_fresh().await), (true, 4));
    assert!((part.metric(r#"trunkline_feed_losses_total{feed="probe",reason="gap"}"#) - 1.0).abs() < f64::EPSILON);
    let missed = part.reader.after("evt.identity.>", 1, 10, 10_000).await.unwrap();
    assert_eq!(missed.messages.iter().map(|message| message.sequence).collect::<Vec<_>>(), [2, 4]);
    whole.running.stop().await.unwrap();
    part.running.stop().await.unwrap();
}

#[tokio::test]
async fn lost_connection_is_noticed_and_believed_again_once_the_subscription_is_in_force() {
    let mut server = Nats::start().await;
    let mut watcher = Watcher::fresh(&server, "part").await;
    watcher.store(REGISTERED, 1).await;
    watcher.event().await;

    server.kill();
    assert_eq!(watcher.loss().await, Loss::Disconnected);
    assert!(matches!(watcher.feed.freshness(), Freshness::Stale { loss: Loss::Disconnected, .. }));
    server.resume();

    assert_eq!(watcher.until_fresh().await, 1, "what the stream has, although nothing came");
    watcher.store(REGISTERED, 2).await;
    assert_eq!(watcher.event().await.1, 2);
    watcher.running.stop().await.unwrap();
}

#[tokio::test]
async fn silent_relay_is_noticed_within_six_seconds_and_one_that_is_behind_at_once() {
    let server = Nats::start().await;
    let mut watcher = Watcher::fresh(&server, "whole").await;

    watcher.age_ms.store(NEVER, Ordering::Relaxed);
    let silent = Instant::now();
    assert_eq!(watcher.loss().await, Loss::Silent("identity"));
    assert!((Duration::from_millis(4_500)..Duration::from_secs(12)).contains(&silent.elapsed()), "{silent:?}");
    assert!(matches!(watcher.feed.freshness(), Freshness::Stale { loss: Loss::Silent("identity"), .. }));
    watcher.age_ms.store(0, Ordering::Relaxed);
    watcher.until_fresh().await;

    watcher.age_ms.store(5_001, Ordering::Relaxed);
    let behind = Instant::now();
    assert_eq!(watcher.loss().await, Loss::Behind("identity"));
    assert!(behind.elapsed() < Duration::from_secs(4));
    watcher.age_ms.store(200, Ordering::Relaxed);
    watcher.until_fresh().await;
    watcher.running.stop().await.unwrap();
}

#[tokio::test]
async fn feed_without_heartbeats_is_never_believed() {
    let server = Nats::start().await;
    let mut watcher = Watcher::start(&server, "whole", NEVER).await;

    watcher.store(REGISTERED, 1).await;

    assert_eq!(watcher.event().await.1, 1, "it comes all the same");
    assert!(matches!(watcher.next().await, Signal::Lost(Loss::Silent("identity"))));
    assert!(matches!(watcher.feed.freshness(), Freshness::Stale { loss: Loss::Starting, .. }));
    watcher.running.stop().await.unwrap();
}

#[tokio::test]
async fn reader_that_is_too_slow_is_told_and_its_queue_is_bounded() {
    let server = Nats::start().await;
    let mut watcher = Watcher::fresh(&server, "whole-small").await;

    for number in 0..20 {
        watcher.store(REGISTERED, number).await;
    }
    let mut freshness = watcher.feed.watch_freshness();
    timeout(WAIT_MAX, freshness.wait_for(|now| *now != Freshness::Fresh)).await.unwrap().unwrap();

    assert_eq!(watcher.loss().await, Loss::SlowReader);
    assert_eq!(watcher.until_fresh().await, 20);
    watcher.store(REGISTERED, 20).await;
    assert_eq!(watcher.event().await.1, 21);
    watcher.running.stop().await.unwrap();
}

#[tokio::test]
async fn process_that_is_too_slow_for_the_client_is_told() {
    let server = Arc::new(Nats::start().await);
    let client = server.client(OBSERVER).await;
    let (ready, readied) = tokio::sync::oneshot::channel();

    // On one thread, as a service: its tasks wait for each other.
    let watched = Arc::clone(&server);
    #[expect(clippy::disallowed_methods, reason = "a process of one thread beside the test's own")]
    let watching = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut watcher = Watcher::fresh(&watched, "part").await;
            ready.send(()).unwrap();
            let loss = watcher.loss().await;
            watcher.until_fresh().await;
            watcher.running.stop().await.unwrap();
            loss
        })
    });
    readied.await.unwrap();
    // More than the client keeps for one subscription, and more at once than a reader gets a turn for.
    for _ in 0..400_000 {
        client.publish("live.evt.identity.a.b", Bytes::new()).await.unwrap();
    }
    client.flush().await.unwrap();

    assert_eq!(watching.join().unwrap(), Loss::SlowConsumer);
}

#[tokio::test]
async fn stream_that_is_made_anew_is_noticed() {
    let server = Nats::start().await;
    let mut watcher = Watcher::fresh(&server, "part").await;
    for number in 0..3 {
        watcher.store(REGISTERED, number).await;
        watcher.event().await;
    }

    server.wipe("EVENTS").await;
    watcher.store(REGISTERED, 9).await;

    assert_eq!(watcher.loss().await, Loss::StreamAnew);
    assert_eq!(watcher.event().await.1, 1);
    assert_eq!(watcher.until_fresh().await, 1);
    watcher.running.stop().await.unwrap();
}

#[tokio::test]
async fn snapshots_are_read_without_a_consumer_and_bounded() {
    let server = Nats::start().await;
    let watcher = Watcher::fresh(&server, "whole").await;
    let reader = &watcher.reader;
    assert_eq!((reader.first_sequence().await, reader.last_sequence().await), (Ok(None), Ok(None)));
    assert!(reader.after("evt.>", 0, 10, 10_000).await.unwrap().messages.is_empty());

    for (number, subject) in [REGISTERED, CREATED, REGISTERED, DISABLED, REGISTERED].into_iter().enumerate() {
        watcher.store(subject, number as u64).await;
    }

    let sequences =
        |messages: &[kernel::feed::StoredMessage]| messages.iter().map(|message| message.sequence).collect::<Vec<_>>();
    assert_eq!((reader.first_sequence().await, reader.last_sequence().await), (Ok(Some(1)), Ok(Some(5))));
    let page = reader.after("evt.identity.>", 0, 2, 10_000).await.unwrap();
    assert_eq!((sequences(&page.messages), page.pending), (vec![1, 3], 2));
    let page = reader.after("evt.identity.>", 3, 2, 10_000).await.unwrap();
    assert_eq!((sequences(&page.messages), page.pending), (vec![4, 5], 0));
    assert_eq!(page.messages[0].subject, DISABLED);
    let page = reader.after("evt.>", 0, 100, 1).await.unwrap();
    assert_eq!((sequences(&page.messages), page.pending), (vec![1], 4), "bounded in bytes too");
    let last = reader.last_of_each(&["evt.identity.>", CREATED], None).await.unwrap();
    assert_eq!(sequences(&last), [2, 4, 5]);
    let before = reader.last_of_each(&["evt.>"], Some(3)).await.unwrap();
    assert_eq!(sequences(&before), [2, 3]);
    watcher.running.stop().await.unwrap();
}
