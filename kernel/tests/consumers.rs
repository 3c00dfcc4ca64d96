//! Messages of a stream have their effect once, whatever comes twice, fails or is killed; poison is in nobody's way.

mod servers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream;
use kernel::data::consumer::{ConsumerParts, Consumers, Message};
use kernel::data::measures::{ByOutcome, ConsumerMeasures};
use kernel::{Clock, Database, Error, Lifecycle, Random, Result, Transaction, settings};
use serde_json::json;
use servers::nats::{Nats, OBSERVER};
use servers::postgres::{self, Postgres, shared};
use subjects::audit::v1::{CONTRACT, Record};

/// A service that notes each record it gets.
#[derive(Debug, Default)]
struct Recorder {
    broken: AtomicBool,
    batches: AtomicUsize,
}

async fn record(recorder: &Recorder, transaction: &mut Transaction, records: &[Message]) -> Result<()> {
    recorder.batches.fetch_add(1, Ordering::Relaxed);
    for message in records {
        let record: Record = message.decode()?;
        match record.id.as_str() {
            "poison" if recorder.broken.load(Ordering::Relaxed) => return Err(Error::internal()),
            "bomb" if recorder.broken.load(Ordering::Relaxed) => panic!("boom"),
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

struct Instance {
    recorder: Arc<Recorder>,
    database: Database,
    measures: ConsumerMeasures,
    life: Lifecycle,
}

impl Instance {
    async fn start(server: &postgres::Database, nats: &Nats) -> Self {
        Self::start_with(server, nats, Recorder::default()).await
    }

    async fn start_with(server: &postgres::Database, nats: &Nats, recorder: Recorder) -> Self {
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
        assert!(self.life.join(Duration::from_secs(10)).await, "it stops in time");
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
    let deadline = Instant::now() + Duration::from_secs(30);
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
        assert!(began.elapsed() < Duration::from_secs(5), "it was not delivered at once");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    assert!(effects.is_sorted(), "{effects:?}");
    assert!(instance.recorder.batches.load(Ordering::Relaxed) <= 5);
    instance.stop().await;
    assert_eq!(outstanding(&nats).await, (0, 0));
}

#[tokio::test]
async fn message_that_is_stored_twice_has_its_effect_once() {
    let (server, nats) = (database(shared()).await, Nats::start().await);
    nats.configure("AUDIT", json!({ "duplicate_window": 100_000_000 })).await;
    let context = jetstream::new(nats.client("identity").await);
    for id in ["a", "b", "a", "a"] {
        publish(&context, id).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(nats.messages("AUDIT").await.len(), 4);

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
    let instance = Instance::start_with(&server, &nats, recorder).await;
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
async fn what_cannot_be_read_is_put_off_and_the_rest_goes_on() {
    let (server, nats) = (database(shared()).await, Nats::start().await);
    let context = jetstream::new(nats.client("identity").await);
    for body in ["{", "", r#"{"id": 1}"#] {
        context.publish("audit.identity.nonsense", body.into()).await.unwrap().await.unwrap();
    }
    publish(&context, "good").await;

    let instance = Instance::start(&server, &nats).await;

    // An empty body is a record with nothing in it.
    effects(&server, 2).await;
    while instance.count("failed") < 2 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
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
