//! Scenario 6: a change is published once and for all, and each subscriber takes it in its own time.

use std::sync::Arc;

use kernel::{Message, Result, Transaction};
use platform_tests::{
    Platform, Setup,
    http::Reply,
    people::Person,
    team::{Member, note_effect},
    wait,
};
use serde_json::{Value, json};
use subjects::identity::v1::UserRegistered;
use subjects::{ConsumerContract, ServiceContract};
use tokio::sync::Semaphore;

const REGISTERED: &str = "evt.identity.user.registered";

macro_rules! subscriber {
    ($contract:ident, $name:literal) => {
        static $contract: ServiceContract = ServiceContract {
            name: $name,
            version: "1.0.0",
            description: "Keeps a list of who registered.",
            endpoints: &[],
            events: &[],
            calls: &[],
            consumers: &[ConsumerContract { stream: "EVENTS", durable: $name, filters: &[REGISTERED] }],
            watches: &[],
            buckets: &[],
            enqueues: &[],
            jobs: &[],
        };
    };
}

subscriber!(MAILING, "mailing");
subscriber!(CENSUS, "census");
subscriber!(LATECOMER, "latecomer");

/// What a subscriber waits for before it takes a message.
struct Gate(Semaphore);

async fn take(gate: &Gate, transaction: &mut Transaction, messages: &[Message]) -> Result<()> {
    let _open = gate.0.acquire().await.expect("never closed");
    for message in messages {
        let event: UserRegistered = message.decode()?;
        note_effect(transaction, &event.user_id).await?;
    }
    Ok(())
}

async fn subscriber(platform: &Platform, contract: &'static ServiceContract, open: usize) -> Member<Gate> {
    let durable = contract.consumers[0].durable;
    platform
        .start_member(contract, Gate(Semaphore::new(open)), |consumers| {
            consumers.batch("EVENTS", durable, |gate, tx, messages| Box::pin(take(gate, tx, messages)));
        })
        .await
}

#[tokio::test]
async fn change_reaches_every_subscriber_in_its_own_time() {
    let platform = Setup::new().own_servers().traces().start().await;
    platform.admit(&[&MAILING, &CENSUS, &LATECOMER]).await;
    let quick = subscriber(&platform, &MAILING, 1).await;
    let held_up = subscriber(&platform, &CENSUS, 0).await;

    // The change: its event is in the same transaction, with id, time, source and trace, and its acknowledgement is noted.
    let person = Person::new();
    let request = platform.http().request(reqwest::Method::POST, "/api/v1/registrations").json(&person.registration());
    let reply = Reply::try_of(request).await.unwrap();
    assert_eq!(reply.status, 202, "{reply:?}");
    let stored = stored_event(&platform).await;
    let header = |name: &str| stored["headers"][name].as_str().unwrap_or_else(|| panic!("{name}: {stored}")).to_owned();
    assert_eq!((header("ce-type"), header("ce-specversion")), ("identity.user.registered".into(), "1.0".into()));
    assert_eq!(header("ce-source"), "urn:trunkline:service:identity");
    assert_eq!(header("ce-id"), header("Nats-Msg-Id"));
    assert!(header("ce-time").ends_with('Z'));
    assert!(stored["acknowledged"].as_bool().unwrap() && stored["sequence"].as_i64().unwrap() >= 1, "{stored}");
    let hops: &[(&str, &str)] = &[
        ("gateway", "http.identity.register"),
        ("identity", "endpoint.identity.register"),
        ("identity", "outbox.message.publish"),
    ];
    let trace = platform.traces().trace_with(|span| span.is(&hops[0]), hops).await;
    assert!(header("traceparent").contains(&trace[0].trace_id), "the event belongs to the request's trace");

    // Subscribers do not wait for each other.
    let user = stored["userId"].as_str().unwrap().to_owned();
    assert_eq!(quick.has_effects(1).await, std::slice::from_ref(&user));
    assert!(held_up.effects().await.is_empty());
    let event = header("ce-id");
    held_up.service.0.add_permits(1);
    assert_eq!(held_up.has_effects(1).await, std::slice::from_ref(&user));

    // One that was away gets it later, and each acknowledges for itself.
    let late = subscriber(&platform, &LATECOMER, 1).await;
    assert_eq!(late.has_effects(1).await, [user]);
    for durable in ["mailing", "census", "latecomer"] {
        wait::until(&format!("{durable} has acknowledged"), async || {
            (platform.outstanding("EVENTS", durable).await == 0).then_some(())
        })
        .await;
    }
    for member in [quick, held_up, late] {
        let known: Vec<String> =
            sqlx::query_scalar("SELECT message_id FROM inbox").fetch_all(member.database.pool()).await.unwrap();
        assert_eq!(known, std::slice::from_ref(&event), "its effect and its id are one transaction");
        member.stop().await;
    }
}

/// The registration as identity's outbox and the stream have it.
async fn stored_event(platform: &Platform) -> Value {
    let mut database = platform.superuser().await;
    let row: (sqlx::types::Json<Value>, String, bool, Option<i64>) =
        wait::until("the event is acknowledged", async || {
            let query = "SELECT headers, convert_from(payload, 'UTF8'), acked_at IS NOT NULL, ack_sequence \
                     FROM identity.outbox WHERE subject = $1 AND acked_at IS NOT NULL";
            sqlx::query_as(query).bind(REGISTERED).fetch_optional(&mut database).await.unwrap()
        })
        .await;
    let body: Value = serde_json::from_str(&row.1).unwrap();
    json!({ "headers": row.0.0, "userId": body["userId"], "acknowledged": row.2, "sequence": row.3 })
}

#[tokio::test]
async fn subscriber_that_fails_for_good_does_not_keep_the_others() {
    let platform = Setup::new().own_servers().start().await;
    platform.admit(&[&MAILING, &CENSUS]).await;
    let sound = subscriber(&platform, &MAILING, 1).await;
    let broken = platform
        .start_member(&CENSUS, Arc::new(()), |consumers| {
            consumers.batch("EVENTS", "census", |_, _, _| Box::pin(async { Err(kernel::Error::internal()) }));
        })
        .await;

    for _ in 0..3 {
        Person::registered(&platform.http()).await;
    }

    sound.has_effects(3).await;
    wait::until("three dead letters of the broken one", async || {
        (platform.outstanding("EVENTS", "census").await == 0).then_some(())
    })
    .await;
    let ops = platform.user("ops").connect().await.client;
    let letters = trunkline::platform::nats::dead_letters::DeadLetters::new(ops);
    let filter =
        trunkline::platform::nats::dead_letters::Filter { consumer: Some("census".into()), ..Default::default() };
    let letters = letters.list(&filter, 10, |_| true).await.unwrap();
    assert_eq!(letters.len(), 3);
    assert!(letters.iter().all(|letter| letter.subject == REGISTERED));
    sound.stop().await;
    broken.stop().await;
}
