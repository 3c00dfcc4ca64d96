//! kill -9 at random points under load (reliability.md §2, faults 1, 5, 8, 31 to 33): of every acknowledged change there is
//! exactly one effect of its event and exactly one audit entry; of a refused one there is none.
//!
//! A short run by default; `FAULTS_KILLS=200` runs the whole. The seed is printed; `FAULTS_SEED` repeats
//! the choice of victims and moments.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kernel::{Message, Random, Result, Transaction};
use platform_tests::{Platform, Setup, Signal, http::Reply, load::Load, people::Person, team::note_effect, wait};
use reqwest::Method;
use subjects::identity::v1::UserRegistered;
use subjects::{ConsumerContract, ServiceContract};

use crate::{number, say};

/// Takes every registration's event.
static WITNESS: ServiceContract = ServiceContract {
    watches: &[],
    buckets: &[],
    enqueues: &[],
    jobs: &[],
    name: "witness",
    version: "1.0.0",
    description: "Notes whose registration it heard of.",
    endpoints: &[],
    events: &[],
    calls: &[],
    consumers: &[ConsumerContract { stream: "EVENTS", durable: "witness", filters: &["evt.identity.user.registered"] }],
};

/// The acting service with its relay, the consumer, and the broker.
const VICTIMS: &[&str] = &["identity", "audit", "nats-server", "identity", "audit", "auth"];

/// Kills without being told otherwise.
const KILLS: usize = 12;

/// The longest pause before a kill.
const PAUSE_MAX_MS: f64 = 1_200.0;

const CLIENTS: usize = 4;
const REST: Duration = Duration::from_millis(20);

/// How long the platform may take to have settled everything afterwards: what a killed consumer held comes again after 30 s.
const SETTLED_WITHIN: Duration = Duration::from_mins(3);

/// What clients heard.
#[derive(Default)]
struct Heard {
    acknowledged: Vec<String>,
    refused: Vec<String>,
}

async fn witness(transaction: &mut Transaction, messages: &[Message]) -> Result<()> {
    for message in messages {
        let event: UserRegistered = message.decode()?;
        note_effect(transaction, &event.user_id).await?;
    }
    Ok(())
}

#[tokio::test]
async fn kills_at_random_points_lose_and_double_no_event_and_no_entry() {
    let kills = number("FAULTS_KILLS").unwrap_or(KILLS as u64);
    let seed = number("FAULTS_SEED").unwrap_or_else(|| u64::from_le_bytes(Random::system().bytes()));
    say(&format!("{kills} kills with FAULTS_SEED={seed}"));
    let random = Random::seeded(seed);

    under_load(async |platform, load| {
        let mut killed = 0;
        while killed < kills {
            // Mostly on a platform that works again, so that there is something to lose; sometimes while it is still down.
            if random.fraction() < 0.8 {
                load.proceed(2).await;
            }
            let pause = Duration::from_secs_f64(random.fraction() * PAUSE_MAX_MS / 1_000.0);
            tokio::time::sleep(pause).await;
            let victim = VICTIMS[u64::from_le_bytes(random.bytes()) as usize % VICTIMS.len()];
            // One that is just being started again cannot be killed.
            if platform.process(victim, 1).signal(Signal::KILL).await.is_ok() {
                killed += 1;
                say(&format!("{killed}: {victim} after {pause:?}, {} changes", load.done()));
            }
        }
        for victim in ["identity", "audit", "auth", "nats-server"] {
            let process = platform.process(victim, 1);
            process.ready(wait::WAIT_MAX).await.expect("it is started again");
        }
    })
    .await;
}

#[tokio::test]
async fn store_of_the_broker_wiped_while_running_loses_and_doubles_nothing() {
    under_load(async |platform, load| {
        load.proceed(40).await;
        let nats = platform.process("nats-server", 1);
        let starts = nats.state().starts;
        let store = platform.stream_store();
        // Gone from under the running server, which goes on acknowledging for a moment.
        wait::until("the store is deleted", async || std::fs::remove_dir_all(&store).ok()).await;
        load.proceed(5).await;
        nats.signal(Signal::KILL).await.expect("it runs");
        wait::until("the broker is back", async || (nats.state().starts > starts).then_some(())).await;
        load.proceed(10).await;
        platform.make_streams().await;
        platform.make_consumers(&[&WITNESS]).await;
        load.proceed(20).await;
    })
    .await;
}

async fn under_load(faults: impl AsyncFnOnce(&Platform, &Load)) {
    let platform = Setup::new().own_servers().start().await;
    platform.admit(&[&WITNESS]).await;
    let member = platform
        .start_member(&WITNESS, (), |consumers| {
            consumers.batch("EVENTS", "witness", |(), tx, messages| Box::pin(witness(tx, messages)));
        })
        .await;
    let heard = Arc::new(Mutex::new(Heard::default()));
    let load = registrations(&platform, Arc::clone(&heard));

    let began = Instant::now();
    faults(&platform, &load).await;
    load.proceed(10).await;
    let (done, _bounded_errors) = load.stop().await;
    say(&format!("{done} changes acknowledged within {:?}", began.elapsed()));

    wait::within(SETTLED_WITHIN, "outboxes and consumers are empty", async || settled(&platform).await).await;
    let heard = std::mem::take(&mut *heard.lock().unwrap());
    // A relay that has yet to notice what the broker lost looks settled, so that what is missing may be on its way.
    let began = Instant::now();
    while changes_without_effect(&platform).await > 0 && began.elapsed() < SETTLED_WITHIN {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let effects = member.effects().await;
    check(&platform, &heard, &effects).await;
    platform.check_audit_log().await;
    member.stop().await;
}

/// Registrations of which the witness or the log does not know.
async fn changes_without_effect(platform: &Platform) -> i64 {
    let mut database = platform.superuser().await;
    sqlx::query_scalar(
        "SELECT count(*) FROM identity.users u WHERE NOT EXISTS
             (SELECT FROM identity.user_roles r WHERE r.user_id = u.id AND r.role = 'admin')
         AND NOT (EXISTS (SELECT FROM witness.effects e WHERE e.name = u.id::text)
             AND EXISTS (SELECT FROM audit.entries e
                 WHERE e.target_id = u.id::text AND e.action = 'identity.user.registered'))",
    )
    .fetch_one(&mut database)
    .await
    .unwrap()
}

async fn settled(platform: &Platform) -> Option<()> {
    let mut database = platform.superuser().await;
    let unsent: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM identity.outbox WHERE acked_at IS NULL)
              + (SELECT count(*) FROM auth.outbox WHERE acked_at IS NULL)
              + (SELECT count(*) FROM audit.outbox WHERE acked_at IS NULL)",
    )
    .fetch_one(&mut database)
    .await
    .ok()?;
    let outstanding = platform.outstanding("EVENTS", "witness").await + platform.outstanding("AUDIT", "audit").await;
    (unsent == 0 && outstanding == 0).then_some(())
}

/// Registers one new person after another. Every fifth registration is one that must be refused: its password is too short.
fn registrations(platform: &Platform, heard: Arc<Mutex<Heard>>) -> Load {
    let http = platform.http();
    Load::start(CLIENTS, REST, move |_, round| {
        let (http, heard) = (http.clone(), Arc::clone(&heard));
        async move {
            let person = Person::new();
            let mut form = person.registration();
            if round % 5 == 4 {
                form["password"] = "x".into();
            }
            let request = http.request(Method::POST, "/api/v1/registrations").json(&form);
            let reply = Reply::try_of(request).await.map_err(|error| format!("{error:?}"))?;
            let mut heard = heard.lock().unwrap();
            match reply.status {
                202 => heard.acknowledged.push(person.email),
                422 => heard.refused.push(person.email),
                502..=504 => return Err(format!("{reply:?}")),
                _ => panic!("only bounded errors are answered: {reply:?}"),
            }
            Ok(())
        }
    })
}

async fn check(platform: &Platform, heard: &Heard, effects: &[String]) {
    let mut database = platform.superuser().await;
    let users: Vec<(String, String, i64)> = sqlx::query_as(
        "SELECT u.email, u.id::text, (SELECT count(*) FROM audit.entries e
             WHERE e.target_id = u.id::text AND e.action = 'identity.user.registered')
         FROM identity.users u WHERE NOT EXISTS
             (SELECT FROM identity.user_roles r WHERE r.user_id = u.id AND r.role = 'admin')",
    )
    .fetch_all(&mut database)
    .await
    .unwrap();

    let emails: BTreeSet<&str> = users.iter().map(|(email, _, _)| email.as_str()).collect();
    let lost: Vec<_> = heard.acknowledged.iter().filter(|email| !emails.contains(email.as_str())).collect();
    assert!(lost.is_empty(), "acknowledged changes are lost: {lost:?}");
    let made: Vec<_> = heard.refused.iter().filter(|email| emails.contains(email.as_str())).collect();
    assert!(made.is_empty(), "refused changes were made: {made:?}");
    assert!(!heard.refused.is_empty(), "some were refused");

    // Whatever was made, acknowledged or not, has one effect and one entry; nothing else has any.
    let ids: BTreeSet<&str> = users.iter().map(|(_, id, _)| id.as_str()).collect();
    let effects: BTreeSet<&str> = effects.iter().map(String::as_str).collect();
    let unheard: Vec<_> = ids.difference(&effects).collect();
    let invented: Vec<_> = effects.difference(&ids).collect();
    assert!(unheard.is_empty() && invented.is_empty(), "no effect: {unheard:?}; no change: {invented:?}");
    let wrong: Vec<_> = users.iter().filter(|(_, _, entries)| *entries != 1).collect();
    assert!(wrong.is_empty(), "not one entry each: {wrong:?}");
}
