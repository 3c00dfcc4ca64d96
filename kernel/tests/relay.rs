//! What was committed reaches its streams: all of it, in order, once, whatever is killed meanwhile.

mod servers;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::message::StreamMessage;
use futures::future::join_all;
use futures::{FutureExt as _, StreamExt as _};
use kernel::data::measures::{ByStream, RelayMeasures};
use kernel::data::relay::Relay;
use kernel::{Clock, Context, Database, Random, settings};
use serde_json::{Value, json};
use servers::nats::{Nats, OBSERVER};
use servers::postgres::{self, Postgres, shared};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use subjects::identity::v1::UserRegistered;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The longest that anything which must happen may take, on a machine that is busy.
const WAIT_MAX: Duration = Duration::from_mins(2);

/// A service's instance, as far as the relay needs one.
struct Instance {
    database: Database,
    measures: RelayMeasures,
    stop: CancellationToken,
    relay: JoinHandle<()>,
}

impl Instance {
    #[expect(clippy::disallowed_methods, reason = "the test waits for it, or drops the runtime")]
    async fn start(server: &postgres::Database, nats: &Nats) -> Self {
        let database = open(server).await;
        let measures = RelayMeasures::default();
        let stop = CancellationToken::new();
        let relay = Relay::new(database.clone(), nats.client("identity").await, Random::system(), measures.clone());
        let relay = tokio::spawn(relay.run(stop.clone()));
        Self { database, measures, stop, relay }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.relay.await.expect("the relay ends in good order");
    }
}

async fn open(server: &postgres::Database) -> Database {
    // A machine that is busy with other tests opens connections slowly.
    let settings = settings::Database { acquire_timeout_ms: 10_000, ..settings::Database::default() };
    Database::connect(&server.service_url("identity"), "identity", "1", &settings).await.expect("it lets us in")
}

fn context() -> Context {
    Context::for_service("identity", &Clock::system(), &Random::system(), Duration::from_secs(5))
}

/// Registers somebody; with that, one row for each stream.
async fn register(database: &Database, user: impl Into<String>) -> kernel::Result<()> {
    let mut transaction = database.begin(&context()).await?;
    transaction.publish(&UserRegistered { user_id: user.into() }).await?;
    transaction.commit().await.map(|_| ())
}

async fn unsent(database: &Database) -> i64 {
    let count = sqlx::query_scalar("SELECT count(*) FROM outbox WHERE acked_at IS NULL");
    count.fetch_one(database.pool()).await.expect("the outbox can be read")
}

/// Waits until all is sent.
async fn all_sent(database: &Database) {
    let deadline = Instant::now() + WAIT_MAX;
    while unsent(database).await > 0 {
        assert!(Instant::now() < deadline, "{} rows are still unsent", unsent(database).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until a stream holds so many messages.
async fn stored(nats: &Nats, stream: &str, count: usize) {
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        let stored = nats.messages(stream).await.len();
        if stored >= count {
            return;
        }
        assert!(Instant::now() < deadline, "{stored} of {count} messages in {stream}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// How many messages an instance sent again because they had been lost.
fn republished(instance: &Instance, stream: &'static str) -> u64 {
    instance.measures.republished.get_or_create(&ByStream { stream }).get()
}

fn users(messages: &[StreamMessage]) -> Vec<String> {
    let user = |message: &StreamMessage| {
        let event: UserRegistered = subjects::json::decode(&message.payload).expect("an event");
        event.user_id
    };
    messages.iter().map(user).collect()
}

fn ids(messages: &[StreamMessage]) -> BTreeSet<String> {
    messages.iter().map(|message| message.headers.get(NATS_MESSAGE_ID).expect("an id").to_string()).collect()
}

#[tokio::test]
async fn event_and_record_of_a_commit_are_stored_at_once_and_noted() {
    let (server, nats) = (shared().migrated_database().await, Nats::start().await);
    let instance = Instance::start(&server, &nats).await;
    register(&instance.database, "first").await.unwrap();
    all_sent(&instance.database).await;

    // What the poll sends is sent behind a heartbeat, which comes with each look.
    let observer = nats.client(OBSERVER).await;
    let mut beats = observer.subscribe("beat.identity").await.unwrap();
    let mut heard = async || {
        observer.request("$JS.API.INFO", "".into()).await.unwrap(); // All that was published before has arrived.
        std::iter::from_fn(|| beats.next().now_or_never()).count()
    };
    let mut sent_by_the_poll = Vec::new();
    for number in 0..10 {
        heard().await;
        register(&instance.database, &number.to_string()).await.unwrap();
        while unsent(&instance.database).await > 0 {}
        sent_by_the_poll.push(heard().await > 0);
    }
    assert!(sent_by_the_poll.contains(&false), "each of them");

    let events = nats.messages("EVENTS").await;
    let records = nats.messages("AUDIT").await;
    assert_eq!(users(&events), ["first", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    assert_eq!(events[0].subject.as_str(), "evt.identity.user.registered");
    assert_eq!(events[0].headers.get("ce-type").unwrap().as_str(), "identity.user.registered");
    assert_eq!(events[0].headers.get("ce-id"), events[0].headers.get(NATS_MESSAGE_ID));
    assert_eq!(records[1].subject.as_str(), "audit.identity.user.registered");
    let noted: Vec<(String, i64, bool)> = sqlx::query_as(
        "SELECT ack_stream, ack_sequence, ack_stream_created BETWEEN now() - interval '10 minutes' AND now() FROM outbox ORDER BY id",
    )
    .fetch_all(instance.database.pool())
    .await
    .unwrap();
    let noted: Vec<_> = noted.iter().map(|(stream, sequence, recent)| (stream.as_str(), *sequence, *recent)).collect();
    assert_eq!(noted[..4], [("EVENTS", 1, true), ("AUDIT", 1, true), ("EVENTS", 2, true), ("AUDIT", 2, true)]);
    instance.stop().await;
}

#[tokio::test]
async fn row_with_a_lower_number_that_is_committed_later_is_sent_all_the_same() {
    let (server, nats) = (shared().migrated_database().await, Nats::start().await);
    let instance = Instance::start(&server, &nats).await;

    // So much that it is written before the commit, and has its numbers.
    let mut early = instance.database.begin(&context()).await.unwrap();
    let lower = "lower".repeat(2_000);
    let mut written: i64 = 0;
    while written == 0 {
        early.publish(&UserRegistered { user_id: lower.clone() }).await.unwrap();
        written = sqlx::query_scalar("SELECT count(*) FROM outbox").fetch_one(&mut *early).await.unwrap();
    }
    register(&instance.database, "higher").await.unwrap();
    all_sent(&instance.database).await;
    early.commit().await.unwrap();
    all_sent(&instance.database).await;

    let sent = users(&nats.messages("EVENTS").await);
    assert_eq!(sent[0], "higher");
    assert_eq!(sent.len() - 1, usize::try_from(written / 2).unwrap());
    instance.stop().await;
}

#[tokio::test]
async fn backlog_is_sent_in_the_order_of_its_numbers() {
    let (server, nats) = (shared().migrated_database().await, Nats::start().await);
    let database = open(&server).await;
    let mut expected = Vec::new();
    for batch in 0..25 {
        let mut transaction = database.begin(&context()).await.unwrap();
        for number in 0..100 {
            let user = format!("{batch}-{number}");
            transaction.publish(&UserRegistered { user_id: user.clone() }).await.unwrap();
            expected.push(user);
        }
        transaction.commit().await.unwrap();
    }

    let instance = Instance::start(&server, &nats).await;
    all_sent(&instance.database).await;

    let events = nats.messages("EVENTS").await;
    assert_eq!(users(&events), expected);
    assert!(events[0].headers.get("Nats-Batch-Id").is_some(), "a backlog goes in batches");
    let misplaced: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT ack_sequence, row_number() OVER (PARTITION BY stream ORDER BY id) AS place FROM outbox) AS row WHERE ack_sequence <> place",
    )
    .fetch_one(instance.database.pool())
    .await
    .unwrap();
    assert_eq!(misplaced, 0);
    instance.stop().await;
}

#[tokio::test]
async fn relay_killed_before_it_noted_the_acknowledgement_doubles_nothing() {
    let (server, nats) = (shared().migrated_database().await, Nats::start().await);
    let first = Instance::start(&server, &nats).await;
    for user in 0..20 {
        register(&first.database, user.to_string()).await.unwrap();
    }
    all_sent(&first.database).await;
    first.stop().await;
    // What the kill left: stored, and not noted.
    server.run_as_owner("identity", "UPDATE identity.outbox SET acked_at = NULL, ack_stream = NULL, ack_stream_created = NULL, ack_sequence = NULL WHERE id > 10").await;

    let second = Instance::start(&server, &nats).await;
    all_sent(&second.database).await;

    assert_eq!(nats.messages("EVENTS").await.len(), 20);
    assert_eq!(nats.messages("AUDIT").await.len(), 20);
    let of_duplicates: i64 =
        sqlx::query_scalar("SELECT max(ack_sequence) FROM outbox").fetch_one(second.database.pool()).await.unwrap();
    assert_eq!(of_duplicates, 20);
    second.stop().await;
}

#[tokio::test]
async fn batch_that_holds_a_stored_message_is_sent_one_by_one_and_the_surprise_is_counted() {
    let (server, nats) = (shared().migrated_database().await, Nats::start().await);
    let database = open(&server).await;
    for user in 0..20 {
        register(&database, user.to_string()).await.unwrap();
    }
    let id: String =
        sqlx::query_scalar("SELECT event_id::text FROM outbox WHERE stream = 'EVENTS' ORDER BY id OFFSET 7 LIMIT 1")
            .fetch_one(database.pool())
            .await
            .unwrap();
    let mut headers = async_nats::HeaderMap::new();
    headers.append(NATS_MESSAGE_ID, id.parse::<async_nats::HeaderValue>().unwrap());
    let foreign = async_nats::jetstream::new(nats.client("identity").await);
    let stored = foreign.publish_with_headers("evt.identity.user.registered", headers, r#"{"userId":"forged"}"#.into());
    stored.await.unwrap().await.unwrap();

    let instance = Instance::start(&server, &nats).await;
    all_sent(&instance.database).await;

    let users = users(&nats.messages("EVENTS").await);
    assert_eq!(users.len(), 20);
    assert_eq!((users[0].as_str(), users[1].as_str(), users[19].as_str()), ("forged", "0", "19"));
    let counted =
        |family: &prometheus_client::metrics::family::Family<_, prometheus_client::metrics::counter::Counter>,
         stream| { family.get_or_create(&ByStream { stream }).get() };
    assert_eq!(counted(&instance.measures.suspicious_duplicates, "EVENTS"), 1);
    assert_eq!(counted(&instance.measures.published, "EVENTS"), 19);
    assert_eq!(counted(&instance.measures.published, "AUDIT"), 20);
    instance.stop().await;
}

#[tokio::test]
async fn two_instances_share_the_outbox_without_doubling_or_reordering() {
    let (server, nats) = (shared().migrated_database().await, Nats::start().await);
    let instances = [Instance::start(&server, &nats).await, Instance::start(&server, &nats).await];

    // One writer after the other over both instances: what it does later must come later.
    for number in 0..300 {
        register(&instances[number % 2].database, format!("{number:03}")).await.unwrap();
    }
    let together = futures::stream::iter(0..200).for_each_concurrent(10, |number| {
        let database = &instances[number % 2].database;
        async move { register(database, format!("x{number}")).await.unwrap() }
    });
    together.await;
    all_sent(&instances[0].database).await;

    let users = users(&nats.messages("EVENTS").await);
    assert_eq!(users.len(), 500);
    assert!(users[..300].is_sorted(), "{users:?}");
    for instance in instances {
        let counted = instance.measures.suspicious_duplicates.get_or_create(&ByStream { stream: "EVENTS" }).get();
        assert_eq!(counted, 0);
        instance.stop().await;
    }
}

#[tokio::test]
async fn broker_killed_and_paused_under_load_loses_and_doubles_nothing() {
    let (server, mut nats) = (shared().migrated_database().await, Nats::start().await);
    let instance = Instance::start(&server, &nats).await;
    let done = CancellationToken::new();

    let load = async {
        let mut number = 0;
        while !done.is_cancelled() {
            for outcome in join_all((0..10).map(|lane| register(&instance.database, format!("{number}-{lane}")))).await
            {
                outcome.expect("the broker is no part of a commit");
            }
            number += 1;
        }
        number * 10
    };
    let faults = async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(400)).await;
            nats.kill();
            tokio::time::sleep(Duration::from_millis(300)).await;
            nats.resume();
        }
        nats.pause(true);
        tokio::time::sleep(Duration::from_secs(7)).await;
        nats.pause(false);
        tokio::time::sleep(Duration::from_millis(300)).await;
        done.cancel();
    };
    let (registered, ()) = tokio::join!(load, faults);
    all_sent(&instance.database).await;

    for stream in ["EVENTS", "AUDIT"] {
        let messages = nats.messages(stream).await;
        assert_eq!(messages.len(), registered, "{stream}");
        assert_eq!(ids(&messages).len(), registered, "{stream}");
    }
    instance.stop().await;
}

#[tokio::test]
async fn full_stream_keeps_its_own_messages_waiting_and_nobody_elses() {
    let (server, nats) = (shared().migrated_database().await, Nats::start().await);
    nats.configure("AUDIT", json!({ "max_bytes": 2_000 })).await;
    let instance = Instance::start(&server, &nats).await;

    for user in 0..30 {
        register(&instance.database, user.to_string()).await.unwrap();
    }
    let deadline = Instant::now() + WAIT_MAX;
    while nats.messages("EVENTS").await.len() < 30 {
        assert!(Instant::now() < deadline, "the full stream holds up the other");
    }
    assert!(unsent(&instance.database).await > 20);
    nats.configure("AUDIT", json!({})).await;
    all_sent(&instance.database).await;

    assert_eq!(nats.messages("AUDIT").await.len(), 30);
    instance.stop().await;
}

#[tokio::test]
async fn relay_heals_after_the_database_was_killed() {
    let mut postgres = Postgres::start();
    let (server, nats) = (postgres.migrated_database().await, Nats::start().await);
    let instance = Instance::start(&server, &nats).await;
    register(&instance.database, "before").await.unwrap();
    all_sent(&instance.database).await;

    postgres.kill();
    assert_eq!(register(&instance.database, "meanwhile").await.unwrap_err().status(), 503);
    postgres.resume();
    while register(&instance.database, "after").await.is_err() {}
    all_sent(&instance.database).await;

    assert_eq!(users(&nats.messages("EVENTS").await), ["before", "after"]);
    instance.stop().await;
}

#[tokio::test]
async fn lock_of_a_killed_holder_is_free_at_once() {
    let (server, nats) = (shared().migrated_database().await, Nats::start().await);
    let instance = Instance::start(&server, &nats).await;
    // A holder that does nothing; its process is gone, and its session with it.
    let mut holder = PgConnection::connect(server.service_url("identity").expose()).await.unwrap();
    let class = kernel::data::relay::LOCK_CLASS;
    let lock = format!("SELECT pg_advisory_lock({class}, 'identity'::regnamespace::oid::int)");
    sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut holder).await.unwrap();

    register(&instance.database, "held up").await.unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(unsent(&instance.database).await, 2);
    drop(holder);
    let freed = Instant::now();
    all_sent(&instance.database).await;

    assert!(freed.elapsed() < Duration::from_secs(20), "no time-out ended it: {:?}", freed.elapsed());
    instance.stop().await;
}

#[tokio::test]
async fn what_was_in_a_stream_that_was_made_anew_is_sent_again() {
    let (server, nats) = (shared().migrated_database().await, Nats::start().await);
    let instance = Instance::start(&server, &nats).await;
    register(&instance.database, "before").await.unwrap();
    register(&instance.database, "before").await.unwrap();
    all_sent(&instance.database).await;

    // Behind the back of a connection that stays.
    nats.wipe("EVENTS").await;
    register(&instance.database, "after").await.unwrap();
    stored(&nats, "EVENTS", 3).await;
    all_sent(&instance.database).await;

    assert_eq!(users(&nats.messages("EVENTS").await), ["after", "before", "before"]);
    assert_eq!(nats.messages("AUDIT").await.len(), 3);
    let noted: Vec<(i64, bool)> = sqlx::query_as(
        "SELECT ack_sequence, ack_stream_created = max(ack_stream_created) OVER () FROM outbox WHERE stream = 'EVENTS' ORDER BY id",
    )
    .fetch_all(instance.database.pool())
    .await
    .unwrap();
    assert_eq!(noted, [(2, true), (3, true), (1, true)]);
    assert_eq!(republished(&instance, "EVENTS"), 2);
    instance.stop().await;
}

#[tokio::test]
async fn store_wiped_while_running_is_filled_again_in_order() {
    let (server, mut nats) = (shared().migrated_database().await, Nats::start().await);
    let instance = Instance::start(&server, &nats).await;
    for number in 0..40 {
        register(&instance.database, format!("{number:03}")).await.unwrap();
    }
    all_sent(&instance.database).await;

    let load = async {
        for number in 40..80 {
            register(&instance.database, format!("{number:03}")).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::join!(load, nats.wipe_store());
    for stream in ["EVENTS", "AUDIT"] {
        stored(&nats, stream, 80).await;
    }
    all_sent(&instance.database).await;

    let events = nats.messages("EVENTS").await;
    // The client keeps what it was just writing when the broker went away, and sends it first to whoever comes back.
    let sent = users(&events);
    let on_its_way = sent.iter().position(|user| user == "000").expect("all came");
    assert!(on_its_way <= 1 && sent[on_its_way..].is_sorted(), "{sent:?}");
    for stream in ["EVENTS", "AUDIT"] {
        let messages = nats.messages(stream).await;
        assert_eq!((messages.len(), ids(&messages).len()), (80, 80), "{stream}");
        assert!((40..=80).contains(&republished(&instance, stream)), "{}", republished(&instance, stream));
    }
    instance.stop().await;
}

#[tokio::test]
async fn what_an_older_copy_of_the_store_lacks_is_sent_again() {
    let (server, mut nats) = (shared().migrated_database().await, Nats::start().await);
    let instance = Instance::start(&server, &nats).await;
    for number in 0..20 {
        register(&instance.database, format!("{number:03}")).await.unwrap();
    }
    all_sent(&instance.database).await;
    nats.copy_store();
    for number in 20..45 {
        register(&instance.database, format!("{number:03}")).await.unwrap();
    }
    all_sent(&instance.database).await;
    assert_eq!(nats.messages("EVENTS").await.len(), 45);

    nats.replace_store_by_copy();
    for stream in ["EVENTS", "AUDIT"] {
        stored(&nats, stream, 45).await;
    }
    register(&instance.database, "045").await.unwrap();
    all_sent(&instance.database).await;

    let events = nats.messages("EVENTS").await;
    assert_eq!((events.len(), ids(&events).len()), (46, 46));
    assert!(users(&events).is_sorted(), "{:?}", users(&events));
    assert_eq!([republished(&instance, "EVENTS"), republished(&instance, "AUDIT")], [25, 25]);
    instance.stop().await;
}

#[tokio::test]
async fn loss_is_seen_although_others_have_filled_the_places_again() {
    let (server, mut nats) = (shared().migrated_database().await, Nats::start().await);
    let first = Instance::start(&server, &nats).await;
    for number in 0..3 {
        register(&first.database, format!("{number:03}")).await.unwrap();
    }
    all_sent(&first.database).await;
    nats.copy_store();
    for number in 3..8 {
        register(&first.database, format!("{number:03}")).await.unwrap();
    }
    all_sent(&first.database).await;
    first.stop().await;

    nats.replace_store_by_copy();
    let other = async_nats::jetstream::new(nats.client("auth").await);
    stored(&nats, "AUDIT", 3).await;
    for _ in 0..20 {
        other.publish("audit.auth.session.created", "{}".into()).await.unwrap().await.unwrap();
    }
    let second = Instance::start(&server, &nats).await;
    stored(&nats, "AUDIT", 28).await;
    all_sent(&second.database).await;

    let messages = nats.messages("AUDIT").await;
    let own: Vec<_> = messages.into_iter().filter(|message| message.subject.starts_with("audit.identity.")).collect();
    assert_eq!((own.len(), ids(&own).len()), (8, 8));
    assert_eq!([republished(&second, "EVENTS"), republished(&second, "AUDIT")], [5, 5]);
    second.stop().await;
}

#[tokio::test]
async fn message_that_was_taken_for_lost_and_is_there_is_not_stored_again() {
    let (server, nats) = (shared().migrated_database().await, Nats::start().await);
    let first = Instance::start(&server, &nats).await;
    for user in 0..20 {
        register(&first.database, user.to_string()).await.unwrap();
    }
    all_sent(&first.database).await;
    first.stop().await;
    server.run_as_owner("identity", "UPDATE identity.outbox SET acked_at = NULL, ack_stream = NULL, ack_stream_created = NULL, ack_sequence = NULL, lost_at = now() WHERE id > 10").await;

    let second = Instance::start(&server, &nats).await;
    all_sent(&second.database).await;

    assert_eq!(nats.messages("EVENTS").await.len(), 20);
    assert_eq!(republished(&second, "EVENTS"), 0);
    second.stop().await;
}

#[tokio::test]
async fn days_of_the_outbox_are_made_ahead_and_dropped_when_all_in_them_was_acknowledged_a_day_ago() {
    let server = shared().migrated_database().await;
    let database = open(&server).await;
    let old = |day: &str, acked: &str| {
        format!(
            "CREATE TABLE identity.outbox_{day} PARTITION OF identity.outbox FOR VALUES FROM (to_date('{day}', 'YYYYMMDD')) TO (to_date('{day}', 'YYYYMMDD') + 1);
             INSERT INTO identity.outbox (event_id, stream, subject, headers, payload, created_at, acked_at, ack_stream, ack_stream_created, ack_sequence)
             SELECT gen_random_uuid(), 'EVENTS', 'evt.identity.user.registered', '{{}}', '', to_date('{day}', 'YYYYMMDD') + interval '1 hour', {acked};"
        )
    };
    let acknowledged = "to_date('20200102', 'YYYYMMDD'), 'EVENTS', now(), 1";
    server.run_as_owner("identity", &old("20200101", acknowledged)).await;
    server.run_as_owner("identity", &old("20200102", "NULL, NULL, NULL, NULL")).await;
    server.run_as_owner("identity", &old("20200103", acknowledged)).await;
    server.run_as_owner("identity", "INSERT INTO identity.outbox_late VALUES ('2020-01-03', now())").await;
    register(&database, "today").await.unwrap();

    let keep = || async {
        sqlx::query("SELECT outbox_keep_partitions()").execute(database.pool()).await.unwrap();
        let partitions: Vec<(String,)> = server
            .rows_as_owner("identity", "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'identity.outbox'::regclass ORDER BY 1")
            .await;
        partitions.into_iter().map(|(name,)| name.trim_start_matches("identity.").to_owned()).collect::<Vec<_>>()
    };
    let kept = keep().await;
    assert!(!kept.contains(&"outbox_20200101".to_owned()), "{kept:?}");
    assert!(kept.contains(&"outbox_20200102".to_owned()), "something in it is unsent: {kept:?}");
    assert!(kept.contains(&"outbox_20200103".to_owned()), "something in it was acknowledged just now: {kept:?}");
    assert_eq!(kept.len(), 2 + 3 + 1, "today, two days and the rest: {kept:?}");
    let strays: Vec<(i64,)> = server.rows_as_owner("identity", "SELECT count(*) FROM identity.outbox_rest").await;
    assert_eq!(strays, [(0,)], "what is committed now has its partition");

    // Relayed late, the day is kept for another one, and then goes.
    let nats = Nats::start().await;
    let instance = Instance::start(&server, &nats).await;
    all_sent(&instance.database).await;
    instance.stop().await;
    assert!(keep().await.contains(&"outbox_20200102".to_owned()));
    server.run_as_owner("identity", "UPDATE identity.outbox_late SET acked_at = now() - interval '25 hours'").await;
    assert_eq!(keep().await.len(), 3 + 1);
    let users = users(&nats.messages("EVENTS").await[1..]);
    assert_eq!(users, ["today"]);
}

#[tokio::test]
async fn service_cannot_remove_what_is_in_its_outbox() {
    let server = shared().migrated_database().await;
    let database = open(&server).await;
    register(&database, "kept").await.unwrap();

    for forbidden in ["DELETE FROM outbox", "TRUNCATE outbox", "DELETE FROM outbox_rest"] {
        let refused = sqlx::raw_sql(forbidden).execute(database.pool()).await.unwrap_err();
        assert!(refused.to_string().contains("permission denied"), "{forbidden}: {refused}");
    }
}

#[tokio::test]
async fn what_finds_no_partition_is_committed_and_sent_all_the_same() {
    let (server, nats) = (shared().migrated_database().await, Nats::start().await);
    server.run_as_owner("identity", "DO $$ DECLARE day text; BEGIN FOR day IN SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'identity.outbox'::regclass AND inhrelid <> 'identity.outbox_rest'::regclass LOOP EXECUTE 'DROP TABLE ' || day; END LOOP; END $$").await;
    let database = open(&server).await;
    register(&database, "stray").await.unwrap();

    let instance = Instance::start(&server, &nats).await;
    all_sent(&instance.database).await;
    sqlx::query("SELECT outbox_keep_partitions()").execute(database.pool()).await.unwrap();
    register(&database, "again").await.unwrap();
    all_sent(&instance.database).await;

    assert_eq!(users(&nats.messages("EVENTS").await), ["stray", "again"]);
    instance.stop().await;
}

#[tokio::test]
async fn heartbeat_tells_the_age_of_the_oldest_unsent_message() {
    let (server, nats) = (shared().migrated_database().await, Nats::start().await);
    nats.configure("EVENTS", json!({ "max_bytes": 1 })).await;
    let observer = nats.client(OBSERVER).await;
    let mut beats = observer.subscribe("beat.identity").await.unwrap();
    observer.flush().await.unwrap();
    let instance = Instance::start(&server, &nats).await;
    register(&instance.database, "stuck").await.unwrap();

    let mut next = async || -> Value {
        let beat = tokio::time::timeout(WAIT_MAX, beats.next()).await.unwrap().unwrap();
        serde_json::from_slice(&beat.payload).unwrap()
    };
    while next().await["oldestUnsentAgeMs"].as_u64().unwrap() < 1_000 {}
    assert_eq!(instance.measures.depth.get(), 1);
    nats.configure("EVENTS", json!({})).await;
    while next().await != json!({ "service": "identity", "oldestUnsentAgeMs": 0 }) {}

    assert_eq!(users(&nats.messages("EVENTS").await), ["stuck"]);
    instance.stop().await;
}
