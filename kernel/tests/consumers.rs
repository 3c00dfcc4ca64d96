//! Messages of a stream have their effect once, whatever comes twice, fails or is killed; poison is in nobody's way.

mod servers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream;
use async_nats::jetstream::message::StreamMessage;
use kernel::data::consumer::{ConsumerParts, Consumers, Message};
use kernel::data::measures::{ByOutcome, ConsumerMeasures};
use kernel::{Clock, Database, Error, Lifecycle, Random, Result, Transaction, settings};
use serde_json::json;
use servers::nats::{Nats, OBSERVER};
use servers::postgres::{self, Postgres, shared};
use subjects::Problem;
use subjects::audit::v1::{CONTRACT, Record};
use subjects::dead_letter::{ReplayOutcome, Replayed, header};
use tokio::runtime::Builder;
use tokio::sync::Notify;

/// The longest that anything which must happen may take, on a machine that is busy.
const WAIT_MAX: Duration = Duration::from_mins(2);

/// A service that notes each record it gets.
#[derive(Debug, Default)]
struct Recorder {
    broken: AtomicBool,
    batches: AtomicUsize,
    /// Told when a message is about to take the process down.
    struck: Notify,
}

async fn record(recorder: &Recorder, transaction: &mut Transaction, records: &[Message]) -> Result<()> {
    recorder.batches.fetch_add(1, Ordering::Relaxed);
    for message in records {
        let record: Record = message.decode()?;
        match record.id.as_str() {
            "poison" if recorder.broken.load(Ordering::Relaxed) => return Err(Error::internal()),
            "bomb" if recorder.broken.load(Ordering::Relaxed) => panic!("boom"),
            "killer" if recorder.broken.load(Ordering::Relaxed) => {
                recorder.struck.notify_one();
                // The process is gone before this ends.
                std::future::pending::<()>().await;
            }
            _ => {}
        }
        sqlx::query("INSERT INTO effects (id, delivered) VALUES ($1, $2)")
            .bind(record.id)
            .bind(i64::try_from(message.delivered()).expect("few"))
            .execute(&mut **transaction)
            .await?;
    }
    Ok(())
}

const IMPATIENT: settings::Consumers =
    settings::Consumers { attempts_max: 3, redelivery_delay_min_ms: 20, redelivery_delay_max_ms: 100 };

struct Instance {
    recorder: Arc<Recorder>,
    database: Database,
    measures: ConsumerMeasures,
    life: Lifecycle,
}

impl Instance {
    async fn start(server: &postgres::Database, nats: &Nats) -> Self {
        Self::start_with(server, nats, Recorder::default(), settings::Consumers::default()).await
    }

    /// With a handler that is broken, and little patience: three deliveries.
    async fn start_broken(server: &postgres::Database, nats: &Nats) -> Self {
        Self::start_with(server, nats, Recorder { broken: AtomicBool::new(true), ..Recorder::default() }, IMPATIENT)
            .await
    }

    async fn start_with(
        server: &postgres::Database,
        nats: &Nats,
        recorder: Recorder,
        patience: settings::Consumers,
    ) -> Self {
        // A machine that is busy with other tests opens connections slowly.
        let settings = settings::Database { acquire_timeout_ms: 10_000, ..settings::Database::default() };
        let url = server.service_url("audit");
        let database = Database::connect(&url, "audit", "1", &settings).await.expect("it lets us in");
        let (recorder, measures, life) = (Arc::new(recorder), ConsumerMeasures::default(), Lifecycle::new());
        let parts = ConsumerParts {
            database: database.clone(),
            client: nats.client("audit").await,
            clock: Clock::system(),
            random: Random::system(),
            settings: patience,
            measures: measures.clone(),
        };
        let mut consumers = Consumers::new(&CONTRACT);
        consumers
            .batch("AUDIT", "audit", |recorder, transaction, records| Box::pin(record(recorder, transaction, records)));
        consumers.start(&recorder, &parts, &life).expect("the contract declares it");
        Self { recorder, database, measures, life }
    }

    async fn stop(self) {
        self.life.stop();
        assert!(self.life.join(Duration::from_secs(30)).await, "it stops in time");
        assert_eq!(self.life.failure(), None);
    }

    fn count(&self, outcome: &'static str) -> u64 {
        self.measures.messages.get_or_create(&ByOutcome { consumer: "audit", outcome }).get()
    }
}

/// A database with a table for effects.
async fn database(postgres: &Postgres) -> postgres::Database {
    let server = postgres.migrated_database().await;
    server.run_as_owner("audit", "CREATE TABLE audit.effects (id text, delivered bigint)").await;
    server
}

/// Publishes a record as the relay of `identity` does. Waits until it is stored.
async fn publish(context: &jetstream::Context, id: &str) {
    let record = Record { id: id.to_owned(), ..Record::default() };
    let mut headers = async_nats::HeaderMap::new();
    headers.append(NATS_MESSAGE_ID, id.parse::<async_nats::HeaderValue>().expect("an id is one line"));
    headers.append("traceparent", "00-1".parse::<async_nats::HeaderValue>().expect("it is one line"));
    for _ in 0..100 {
        let body = subjects::json::encode(&record).into();
        let sent = context.publish_with_headers("audit.identity.user.registered", headers.clone(), body).await;
        if let Ok(acknowledgement) = sent
            && acknowledgement.await.is_ok()
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{id} cannot be stored");
}

/// Waits until so many effects are committed, and then that no more come.
async fn effects(server: &postgres::Database, count: usize) -> Vec<(String, i64)> {
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        let effects: Vec<(String, i64)> =
            server.rows_as_owner("audit", "SELECT id, delivered FROM audit.effects").await;
        if effects.len() >= count {
            assert_eq!(effects.len(), count, "an effect was had twice");
            return effects;
        }
        assert!(Instant::now() < deadline, "{} of {count} effects", effects.len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until so many dead letters are stored, and then that no more come.
async fn letters(nats: &Nats, count: usize) -> Vec<StreamMessage> {
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        let letters = nats.messages("EVENTS_DLQ").await;
        if letters.len() >= count {
            let reasons: Vec<_> = letters
                .iter()
                .map(|letter| {
                    (
                        header(letter, header::MESSAGE_ID),
                        header(letter, header::ATTEMPTS),
                        header(letter, header::REASON),
                    )
                })
                .collect();
            assert_eq!(letters.len(), count, "{reasons:?}");
            return letters;
        }
        assert!(Instant::now() < deadline, "{} of {count} letters", letters.len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn header<'a>(letter: &'a StreamMessage, name: &str) -> &'a str {
    letter.headers.get(name).unwrap_or_else(|| panic!("{name} is there: {:?}", letter.headers)).as_str()
}

/// Asks the audit consumer for a replay.
async fn replay(ops: &async_nats::Client, body: &'static str) -> Result<ReplayOutcome, Problem> {
    let answer = ops.request("replay.evt.audit", body.into()).await.expect("it is answered");
    match serde_json::from_slice::<Replayed>(&answer.payload) {
        Ok(replayed) => Ok(replayed.outcome),
        Err(_) => Err(serde_json::from_slice(&answer.payload).expect("a problem")),
    }
}

/// Messages that the broker waits for, and how many it has not delivered.
async fn outstanding(nats: &Nats) -> (usize, u64) {
    let context = jetstream::new(nats.client(OBSERVER).await);
    let consumer: jetstream::consumer::PullConsumer =
        context.get_consumer_from_stream("audit", "AUDIT").await.expect("the consumer exists");
    let info = consumer.get_info().await.expect("the consumer answers");
    (info.num_ack_pending, info.num_pending)
}

#[tokio::test]
async fn messages_come_in_order_and_in_batches_and_are_acknowledged() {
    let (server, nats) = (database(shared()).await, Nats::start().await);
    let context = jetstream::new(nats.client("identity").await);
    for number in 0..300 {
        publish(&context, &format!("{number:03}")).await;
    }

    let instance = Instance::start(&server, &nats).await;
    let effects = effects(&server, 300).await;
    publish(&context, "one more").await;
    let began = Instant::now();
    while instance.count("handled") < 301 {
        assert!(began.elapsed() < WAIT_MAX, "it was not delivered");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    assert!(effects.is_sorted(), "{effects:?}");
    let batches = instance.recorder.batches.load(Ordering::Relaxed);
    assert!(batches <= 30, "a machine that stands still may cut some of them: {batches}");
    instance.stop().await;
    assert_eq!(outstanding(&nats).await, (0, 0));
}

#[tokio::test]
async fn message_that_is_stored_twice_has_its_effect_once() {
    let (server, nats) = (database(shared()).await, Nats::start().await);
    nats.configure("AUDIT", json!({ "duplicate_window": 100_000_000 })).await;
    let context = jetstream::new(nats.client("identity").await);
    for (before, id) in ["a", "b", "a", "a"].into_iter().enumerate() {
        // Until the broker has forgotten that it knows it.
        while nats.messages("AUDIT").await.len() == before {
            publish(&context, id).await;
        }
    }

    let instance = Instance::start(&server, &nats).await;
    effects(&server, 2).await;
    publish(&context, "b").await;
    publish(&context, "c").await;
    effects(&server, 3).await;

    instance.stop().await;
    assert_eq!(outstanding(&nats).await, (0, 0));
}

#[tokio::test]
async fn poison_and_panic_are_isolated_and_handled_after_a_repair() {
    let (server, nats) = (database(shared()).await, Nats::start().await);
    let context = jetstream::new(nats.client("identity").await);
    for number in 0..20 {
        publish(&context, &number.to_string()).await;
    }
    publish(&context, "poison").await;
    publish(&context, "bomb").await;
    for number in 20..40 {
        publish(&context, &number.to_string()).await;
    }

    let recorder = Recorder { broken: AtomicBool::new(true), ..Recorder::default() };
    let instance = Instance::start_with(&server, &nats, recorder, settings::Consumers::default()).await;
    effects(&server, 40).await;
    while instance.count("failed") < 4 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    instance.recorder.broken.store(false, Ordering::Relaxed);
    let effects = effects(&server, 42).await;

    let late: Vec<_> = effects.iter().filter(|(_, delivered)| *delivered > 1).map(|(id, _)| id.as_str()).collect();
    assert_eq!(late.len(), 2, "{late:?}");
    assert!(late.contains(&"poison") && late.contains(&"bomb"));
    instance.stop().await;
    assert_eq!(outstanding(&nats).await, (0, 0));
}

#[tokio::test]
async fn what_cannot_be_read_becomes_a_dead_letter_and_the_rest_goes_on() {
    let (server, nats) = (database(shared()).await, Nats::start().await);
    let context = jetstream::new(nats.client("identity").await);
    for body in ["{", "", r#"{"id": 1}"#] {
        context.publish("audit.identity.nonsense", body.into()).await.unwrap().await.unwrap();
    }
    publish(&context, "good").await;

    let instance = Instance::start_broken(&server, &nats).await;

    // An empty body is a record with nothing in it.
    effects(&server, 2).await;
    let letters = letters(&nats, 2).await;
    let bodies: Vec<_> = letters.iter().map(|letter| letter.payload.as_ref()).collect();
    assert_eq!(bodies, [&b"{"[..], br#"{"id": 1}"#]);
    assert!(header(&letters[0], header::REASON).contains("undecodable"), "{:?}", letters[0].headers);
    instance.stop().await;
    assert_eq!(outstanding(&nats).await, (0, 0));
}

#[tokio::test]
async fn poison_becomes_one_dead_letter_that_says_all_and_slows_nobody() {
    let (server, nats) = (database(shared()).await, Nats::start().await);
    let context = jetstream::new(nats.client("identity").await);
    for number in 0..50 {
        publish(&context, &number.to_string()).await;
    }
    publish(&context, "poison").await;
    let instance = Instance::start_broken(&server, &nats).await;
    for number in 50..100 {
        publish(&context, &number.to_string()).await;
    }

    effects(&server, 100).await;
    let letters = letters(&nats, 1).await;

    let letter = &letters[0];
    let fact = |name| header(letter, name);
    assert_eq!(letter.subject.as_str(), "dlq.evt.audit.identity.user.registered");
    assert_eq!(subjects::json::decode::<Record>(&letter.payload).unwrap().id, "poison");
    assert_eq!((fact(header::SUBJECT), fact(header::STREAM)), ("audit.identity.user.registered", "AUDIT"));
    assert_eq!((fact(header::CONSUMER), fact(header::SEQUENCE)), ("audit", "51"));
    assert_eq!((fact(header::ATTEMPTS), fact(header::MESSAGE_ID)), ("3", "poison"));
    assert_eq!((fact("Nats-Msg-Id"), fact("traceparent")), ("audit:poison", "00-1"));
    assert!(fact(header::REASON).contains("500") && fact(header::TIME).ends_with('Z'));
    assert_eq!(instance.count("dead_lettered"), 1);
    instance.stop().await;
    assert_eq!(outstanding(&nats).await, (0, 0), "it was taken from the consumer");
}

#[tokio::test]
async fn poison_is_kept_while_its_letter_cannot_be_stored() {
    let (server, nats) = (database(shared()).await, Nats::start().await);
    nats.configure("EVENTS_DLQ", json!({ "max_bytes": 1 })).await;
    let context = jetstream::new(nats.client("identity").await);
    publish(&context, "poison").await;
    publish(&context, "good").await;

    let instance = Instance::start_broken(&server, &nats).await;
    effects(&server, 1).await;
    while instance.count("failed") < 2 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(outstanding(&nats).await.0, 1);
    nats.configure("EVENTS_DLQ", json!({})).await;
    letters(&nats, 1).await;

    instance.stop().await;
    assert_eq!(outstanding(&nats).await, (0, 0));
}

#[tokio::test]
async fn message_that_takes_the_process_down_becomes_a_dead_letter_and_those_behind_it_do_not() {
    let (server, nats) = (database(shared()).await, Nats::start().await);
    nats.configure_consumer("AUDIT", "audit", json!({ "ack_wait": 300_000_000 })).await;
    let context = jetstream::new(nats.client("identity").await);
    publish(&context, "before").await;
    publish(&context, "killer").await;
    for number in 0..30 {
        publish(&context, &number.to_string()).await;
    }
    let (server, nats) = (Arc::new(server), Arc::new(nats));

    // Each of these processes ends as by `kill -9`, with the message in its hands.
    for _ in 0..4 {
        let (server, nats) = (Arc::clone(&server), Arc::clone(&nats));
        #[expect(clippy::disallowed_methods, reason = "stands for a process of its own")]
        let process = thread::spawn(move || {
            let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let struck = runtime.block_on(async {
                let instance = Instance::start_broken(&server, &nats).await;
                tokio::time::timeout(Duration::from_secs(5), instance.recorder.struck.notified()).await.is_ok()
            });
            runtime.shutdown_background();
            struck
        });
        while !process.is_finished() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let last = Instance::start_broken(&server, &nats).await;
    let letters = letters(&nats, 1).await;
    let effects = effects(&server, 31).await;

    assert_eq!(header(&letters[0], header::MESSAGE_ID), "killer");
    assert!(header(&letters[0], header::REASON).contains("did not end"), "{:?}", letters[0].headers);
    assert!(effects.iter().all(|(id, _)| id != "killer"));
    last.stop().await;
    assert_eq!(outstanding(&nats).await, (0, 0));
}

#[tokio::test]
async fn dead_letter_is_replayed_to_its_consumer_with_one_effect() {
    let (server, nats) = (database(shared()).await, Nats::start().await);
    let context = jetstream::new(nats.client("identity").await);
    publish(&context, "poison").await;
    let instance = Instance::start_broken(&server, &nats).await;
    letters(&nats, 1).await;
    let ops = nats.client("ops").await;

    // Still broken, and what is not a replay of a letter.
    let refused = replay(&ops, r#"{"sequence":"1"}"#).await.unwrap_err();
    assert_eq!((refused.status, refused.code.as_str()), (500, "replay_failed"));
    assert_eq!(replay(&ops, r#"{"sequence":"2"}"#).await.unwrap_err().status, 404);
    assert_eq!(replay(&ops, r#"{"sequence":"x"}"#).await.unwrap_err().status, 422);
    assert_eq!(replay(&ops, "nonsense").await.unwrap_err().status, 400);
    effects(&server, 0).await;

    instance.recorder.broken.store(false, Ordering::Relaxed);
    assert_eq!(replay(&ops, r#"{"sequence":"1"}"#).await.unwrap(), ReplayOutcome::Handled);
    assert_eq!(replay(&ops, r#"{"sequence":"1"}"#).await.unwrap(), ReplayOutcome::Known);

    assert_eq!(effects(&server, 1).await, [("poison".to_owned(), 0)]);
    let marks = nats.messages("EVENTS_DLQ").await;
    let marks: Vec<_> = marks.iter().map(|mark| mark.subject.as_str()).collect();
    assert_eq!(marks, ["dlq.evt.audit.identity.user.registered", "replayed.evt.audit.1"]);
    let recorded: Vec<(String,)> = server.rows_as_owner("audit", "SELECT subject FROM audit.outbox").await;
    assert_eq!(recorded[0].0, "audit.audit.dead_letter.replayed");
    let remembered: Vec<(bool,)> = server
        .rows_as_owner(
            "audit",
            "SELECT processed_at = 'infinity' FROM audit.inbox WHERE message_id = 'poison' AND consumer = 'audit'",
        )
        .await;
    assert_eq!(remembered, [(true,)]);
    instance.stop().await;
}

#[tokio::test]
async fn kills_of_broker_and_database_under_load_lose_and_double_nothing() {
    let mut postgres = Postgres::start();
    let (server, mut nats) = (database(&postgres).await, Nats::start().await);
    let instances = [Instance::start(&server, &nats).await, Instance::start(&server, &nats).await];
    let context = jetstream::new(nats.client("identity").await);

    let load = async {
        for number in 0..1_000 {
            publish(&context, &number.to_string()).await;
        }
    };
    let faults = async {
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            nats.kill();
            tokio::time::sleep(Duration::from_millis(200)).await;
            nats.resume();
            tokio::time::sleep(Duration::from_millis(300)).await;
            postgres.kill();
            tokio::time::sleep(Duration::from_millis(500)).await;
            postgres.resume();
        }
    };
    tokio::join!(load, faults);
    let effects = effects(&server, 1_000).await;

    // Held while the database was away, not given back: nobody used up its attempts. A killed broker forgets who has what.
    assert!(effects.iter().all(|(_, delivered)| *delivered <= 3), "{effects:?}");
    for instance in instances {
        instance.stop().await;
    }
}

#[tokio::test]
async fn stop_under_load_leaves_nothing_that_counts_as_delivered() {
    let (server, nats) = (database(shared()).await, Nats::start().await);
    let context = jetstream::new(nats.client("identity").await);

    let load = async {
        for number in 0..400 {
            publish(&context, &number.to_string()).await;
        }
    };
    let instances = async {
        for _ in 0..5 {
            let instance = Instance::start(&server, &nats).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            instance.stop().await;
            assert_eq!(outstanding(&nats).await.0, 0, "messages wait for nobody");
        }
    };
    tokio::join!(load, instances);

    let last = Instance::start(&server, &nats).await;
    let effects = effects(&server, 400).await;
    assert!(effects.iter().all(|(_, delivered)| *delivered == 1));
    drop(last.database.clone());
    last.stop().await;
}
