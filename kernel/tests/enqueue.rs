//! A job that is submitted with a change leaves with its commit or not at all, once, whatever the broker goes through.

mod servers;

use std::time::{Duration, Instant};

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::{self, message::StreamMessage};
use chrono::TimeDelta;
use kernel::data::measures::{ByStream, RelayMeasures};
use kernel::data::relay::Relay;
use kernel::jobs::Submission;
use kernel::{Clock, Context, Database, Ids, Random, settings};
use servers::nats::{Nats, OBSERVER};
use servers::postgres::{self, shared};
use subjects::identity::v1::SendMail;
use subjects::identity::v1::send_mail::Purpose;
use subjects::job::{Lane, Place};
use subjects::subject::Token;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

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
        let (measures, stop) = (RelayMeasures::default(), CancellationToken::new());
        let relay = Relay::new(database.clone(), nats.client("identity").await, Random::system(), measures.clone());
        let relay = tokio::spawn(relay.run(stop.clone()));
        Self { database, measures, stop, relay }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.relay.await.expect("the relay ends in good order");
    }

    fn republished(&self, stream: &'static str) -> u64 {
        self.measures.republished.get_or_create(&ByStream { stream }).get()
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

fn new_id() -> Uuid {
    Ids::new(Clock::system(), Random::system()).new_id()
}

fn mail(id: Uuid) -> Submission {
    let arguments = SendMail { user_id: "u-1".to_owned(), purpose: Purpose::RolesChanged.into() };
    Submission::of(&arguments, id)
}

async fn enqueue(database: &Database, jobs: Vec<Submission>) {
    let mut transaction = database.begin(&context()).await.expect("it lets us in");
    for job in jobs {
        transaction.enqueue(job).await.expect("the contract declares it");
    }
    transaction.commit().await.expect("it is stored");
}

/// Waits until a query of the outbox says so.
async fn until(database: &Database, what: &str, query: &'static str) {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let holds: Result<bool, sqlx::Error> = sqlx::query_scalar(query).fetch_one(database.pool()).await;
        if holds.expect("the outbox can be read") {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn all_sent(database: &Database) {
    until(database, "all is sent", "SELECT NOT EXISTS (SELECT FROM outbox WHERE acked_at IS NULL)").await;
}

/// The ids of the jobs in the work queue, in its order.
async fn queued(nats: &Nats) -> Vec<String> {
    let id = |message: &StreamMessage| message.headers.get(NATS_MESSAGE_ID).expect("an id").to_string();
    nats.messages("JOBS").await.iter().map(id).collect()
}

/// Does a job as far as the queue is concerned.
async fn finish(nats: &Nats, sequence: u64) {
    let context = jetstream::new(nats.client(OBSERVER).await);
    let stream = context.get_stream("JOBS").await.expect("the stream exists");
    stream.delete_message(sequence).await.expect("it is there");
}

#[tokio::test]
async fn a_job_is_stored_under_its_id_when_its_change_is_committed_and_not_before() {
    let (server, nats) = (shared().migrated_database().await, Nats::start().await);
    let instance = Instance::start(&server, &nats).await;
    let (first, second, never) = (new_id(), new_id(), new_id());

    let mut undone = instance.database.begin(&context()).await.unwrap();
    undone.enqueue(mail(never)).await.unwrap();
    drop(undone);
    enqueue(&instance.database, vec![mail(first)]).await;
    enqueue(&instance.database, vec![mail(second)]).await;
    all_sent(&instance.database).await;

    assert_eq!(queued(&nats).await, [format!("mail.send:{first}"), format!("mail.send:{second}")]);
    let jobs = nats.messages("JOBS").await;
    assert_eq!(jobs[0].subject.as_str(), "jobs.mail.send");
    assert_eq!(jobs[0].payload.as_ref(), br#"{"userId":"u-1","purpose":"ROLES_CHANGED"}"#);
    assert!(jobs[0].headers.get("traceparent").is_some());
    instance.stop().await;
}

#[tokio::test]
async fn a_backlog_of_jobs_keeps_its_order_and_an_id_that_is_used_twice_is_one_job() {
    let (server, nats) = (shared().migrated_database().await, Nats::start().await);
    let database = open(&server).await;
    let ids: Vec<Uuid> = (0..100).map(|_| new_id()).collect();
    let run_at = context().now() + TimeDelta::days(1);
    for some in ids.chunks(10) {
        enqueue(&database, some.iter().map(|id| mail(*id)).collect()).await;
        enqueue(&database, some.iter().map(|id| mail(*id).at(run_at)).collect()).await;
    }
    enqueue(&database, vec![mail(ids[3]), mail(ids[5]).at(run_at)]).await;

    let instance = Instance::start(&server, &nats).await;
    all_sent(&instance.database).await;

    let expected: Vec<String> = ids.iter().map(|id| format!("mail.send:{id}")).collect();
    assert_eq!(queued(&nats).await, expected);
    assert_eq!(nats.messages("SCHEDULES").await.len(), ids.len());
    let suspicious = instance.measures.suspicious_duplicates.get_or_create(&ByStream { stream: "JOBS" }).get();
    assert_eq!(suspicious, 0, "who submits a job twice is no thief");
    instance.stop().await;
}

#[tokio::test]
async fn a_job_for_later_comes_into_its_queue_at_its_time() {
    let (server, nats) = (shared().migrated_database().await, Nats::start().await);
    let instance = Instance::start(&server, &nats).await;
    let (soon, later) = (new_id(), new_id());
    let run_at = context().now() + TimeDelta::seconds(3);

    enqueue(&instance.database, vec![mail(soon).at(run_at), mail(later).at(run_at + TimeDelta::days(1))]).await;
    all_sent(&instance.database).await;

    let deadline = Instant::now() + Duration::from_mins(1);
    let job = loop {
        if let Some(job) = nats.messages("JOBS").await.pop() {
            break job;
        }
        assert!(Instant::now() < deadline, "the job comes");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(context().now() >= run_at);
    let header = |name: &str| job.headers.get(name).map(|value| value.as_str().to_owned());
    assert_eq!(job.subject.as_str(), "jobs.mail.send");
    assert_eq!(header("Job-Id"), Some(soon.to_string()));
    assert_eq!(header("Nats-Scheduler"), Some(format!("schedules.job.mail.send.{soon}")));
    assert_eq!(nats.messages("JOBS").await.len(), 1);
    let marks: Vec<String> = sqlx::query_scalar("SELECT subject FROM outbox_marks WHERE stream = 'SCHEDULES'")
        .fetch_all(instance.database.pool())
        .await
        .unwrap();
    assert_eq!(marks, ["schedules.job.>"], "one for all, or they would grow without end");
    instance.stop().await;
}

#[tokio::test]
async fn a_job_that_was_done_is_not_sent_again_unless_its_stream_is_another() {
    let (server, mut nats) = (shared().migrated_database().await, Nats::start().await);
    let instance = Instance::start(&server, &nats).await;
    let ids: Vec<Uuid> = (0..3).map(|_| new_id()).collect();
    let later = new_id();
    enqueue(&instance.database, ids.iter().map(|id| mail(*id)).collect()).await;
    enqueue(&instance.database, vec![mail(later).at(context().now() + TimeDelta::days(1))]).await;
    all_sent(&instance.database).await;
    for sequence in [1, 3] {
        finish(&nats, sequence).await;
    }

    // On a new connection everything is looked at before anything is sent.
    nats.kill();
    nats.resume();
    let fourth = new_id();
    enqueue(&instance.database, vec![mail(fourth)]).await;
    all_sent(&instance.database).await;

    let name = |id: &Uuid| format!("mail.send:{id}");
    assert_eq!(queued(&nats).await, [name(&ids[1]), name(&fourth)]);
    assert_eq!(instance.republished("JOBS"), 0);

    nats.wipe_store().await;
    let fifth = new_id();
    enqueue(&instance.database, vec![mail(fifth)]).await;
    until(&instance.database, "all is sent to the new stream", "SELECT count(*) FILTER (WHERE lost_at IS NOT NULL) = 5 AND bool_and(acked_at IS NOT NULL) FROM outbox WHERE stream IN ('JOBS', 'SCHEDULES')").await;

    let mut stored = queued(&nats).await;
    let mut expected: Vec<String> = ids.iter().chain([&fourth, &fifth]).map(name).collect();
    stored.sort();
    expected.sort();
    assert_eq!(stored, expected, "what was done already is its runner's to know");
    assert_eq!(nats.messages("SCHEDULES").await.len(), 1);
    assert_eq!((instance.republished("JOBS"), instance.republished("SCHEDULES")), (4, 1));
    instance.stop().await;
}

#[tokio::test]
async fn a_full_queue_keeps_its_jobs_waiting_and_no_event() {
    let (server, nats) = (shared().migrated_database().await, Nats::start().await);
    nats.configure("JOBS", serde_json::json!({ "max_bytes": 1 })).await;
    let instance = Instance::start(&server, &nats).await;
    let waits = new_id();

    let mut transaction = instance.database.begin(&context()).await.unwrap();
    transaction.enqueue(mail(waits)).await.unwrap();
    transaction.publish(&subjects::identity::v1::UserRegistered { user_id: "u-1".to_owned() }).await.unwrap();
    transaction.commit().await.unwrap();
    until(&instance.database, "the event is sent", "SELECT count(*) = 1 FROM outbox WHERE acked_at IS NULL").await;
    assert_eq!(nats.messages("EVENTS").await.len(), 1);

    nats.configure("JOBS", serde_json::json!({})).await;
    all_sent(&instance.database).await;
    assert_eq!(queued(&nats).await, [format!("mail.send:{waits}")]);
    instance.stop().await;
}

#[tokio::test]
async fn only_what_the_contract_declares_can_be_enqueued() {
    let server = shared().migrated_database().await;
    let database = open(&server).await;
    let token = |text: &str| Token::parse(text).unwrap();
    let job = |queue: &str, kind: &str, arguments: &'static str| Submission {
        place: Place { queue: token(queue), kind: token(kind), lane: Lane::Normal },
        id: token("1"),
        arguments: arguments.into(),
        run_at: None,
        headers: Vec::new(),
    };

    for (queue, kind, arguments) in [
        ("auth", "prune", "{}"),
        ("shop", "order", "{}"),
        ("mail", "burn", "{}"),
        ("mail", "send", r#"{"password":"secret"}"#),
        ("mail", "send", "{"),
    ] {
        let mut transaction = database.begin(&context()).await.unwrap();
        let refused = transaction.enqueue(job(queue, kind, arguments)).await.unwrap_err();
        assert_eq!(refused.status(), 500, "{queue}.{kind} {arguments}");
    }
}
