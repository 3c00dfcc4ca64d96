//! kill -9 of each part in turn under a small load (reliability.md §2, faults 1, 5 and 13; invariants I1 and I2): what
//! was acknowledged is there once, with one audit record, in an unbroken chain, and the platform serves again by itself.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use platform_tests::{Platform, Setup, http::Reply, load::Load, people::Person, wait};
use reqwest::Method;

use crate::say;

/// The longest the platform may take to serve again on a machine that others keep busy.
const SERVES_AGAIN_WITHIN: Duration = Duration::from_mins(1);

/// And what it is held to; one kill of each test must show it.
const SERVES_AGAIN_SOON: Duration = Duration::from_secs(10);

/// Kills more than there are victims, at most, before none has shown it: a machine that stands still for a while proves nothing.
const MORE_KILLS_MAX: usize = 3;

/// Concurrent clients, and how long each rests between two registrations: tens of registrations a second.
const CLIENTS: usize = 4;
const REST: Duration = Duration::from_millis(20);

/// Acknowledged registrations before each kill.
const ROUNDS: usize = 15;

#[tokio::test]
async fn killing_each_service_loses_and_doubles_nothing() {
    let platform = Setup::new().own_servers().start().await;
    kill_in_turn(&platform, &["identity", "auth", "authz", "audit", "gateway"]).await;
}

#[tokio::test]
async fn killing_nats_server_loses_and_doubles_nothing() {
    let platform = Setup::new().own_servers().start().await;
    kill_in_turn(&platform, &["nats-server", "nats-server"]).await;
}

#[tokio::test]
async fn killing_postgres_loses_and_doubles_nothing() {
    let platform = Setup::new().own_servers().start().await;
    kill_in_turn(&platform, &["postgres", "postgres"]).await;
}

async fn kill_in_turn(platform: &Platform, victims: &[&str]) {
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let load = registrations(platform, Arc::clone(&acknowledged));

    let mut fastest = Duration::MAX;
    for (number, victim) in victims.iter().cycle().take(victims.len() + MORE_KILLS_MAX).enumerate() {
        if number >= victims.len() && fastest <= SERVES_AGAIN_SOON {
            break;
        }
        load.proceed(ROUNDS).await;
        let process = platform.process(victim, 1);
        let before = process.state().starts;
        process.signal(platform_tests::Signal::KILL).await.unwrap();
        let killed = Instant::now();
        wait::within(SERVES_AGAIN_WITHIN, &format!("{victim} starts again"), async || {
            (process.state().starts > before).then_some(())
        })
        .await;
        let left = SERVES_AGAIN_WITHIN.saturating_sub(killed.elapsed());
        wait::within(left, &format!("the platform serves after the kill of {victim}"), async || serves(platform).await)
            .await;
        let took = killed.elapsed();
        say(&format!("{victim} was killed; the platform served again after {took:?}"));
        fastest = fastest.min(took);
    }
    assert!(fastest <= SERVES_AGAIN_SOON, "{fastest:?} at best");
    load.proceed(ROUNDS).await;
    let (_, _bounded_errors) = load.stop().await;

    platform.check_audit_log().await;
    let acknowledged = std::mem::take(&mut *acknowledged.lock().unwrap());
    check_registrations(platform, &acknowledged).await;
}

/// One registration and one sign-in of a new person, through every service.
async fn serves(platform: &Platform) -> Option<()> {
    let (http, person) = (platform.http(), Person::new());
    let steps = [
        (http.request(Method::POST, "/api/v1/registrations").json(&person.registration()), 202),
        (
            http.request(Method::POST, "/api/v1/auth/login")
                .json(&serde_json::json!({ "email": person.email, "password": person.password })),
            200,
        ),
    ];
    for (request, expected) in steps {
        let reply = Reply::try_of(request.timeout(Duration::from_secs(2))).await.ok()?;
        (reply.status == expected).then_some(())?;
    }
    Some(())
}

/// Registers one new person after another and remembers those whose registration was acknowledged. What was not is
/// unknown and sent again under the same address, as a person would.
fn registrations(platform: &Platform, acknowledged: Arc<Mutex<Vec<Person>>>) -> Load {
    let http = platform.http();
    Load::start(CLIENTS, REST, move |_, _| {
        let (http, acknowledged) = (http.clone(), Arc::clone(&acknowledged));
        async move {
            let person = Person::new();
            let request = http.request(Method::POST, "/api/v1/registrations").json(&person.registration());
            let reply = Reply::try_of(request).await.map_err(|error| format!("{error:?}"))?;
            match reply.status {
                202 => acknowledged.lock().unwrap().push(person),
                502..=504 => return Err(format!("{reply:?}")),
                _ => panic!("only bounded errors are answered: {reply:?}"),
            }
            Ok(())
        }
    })
}

/// Every acknowledged person is there once, can sign in, and has one record; nobody is there twice.
async fn check_registrations(platform: &Platform, acknowledged: &[Person]) {
    let mut database = platform.superuser().await;
    let emails: Vec<&str> = acknowledged.iter().map(|person| person.email.as_str()).collect();
    let found: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT u.email, count(DISTINCT u.id), count(e.id) FROM identity.users u
         LEFT JOIN audit.entries e ON e.target_id = u.id::text AND e.action = 'identity.user.registered'
         WHERE u.email = ANY($1) GROUP BY u.email",
    )
    .bind(&emails)
    .fetch_all(&mut database)
    .await
    .unwrap();

    let there: BTreeSet<&str> = found.iter().map(|(email, _, _)| email.as_str()).collect();
    let lost: Vec<&&str> = emails.iter().filter(|email| !there.contains(**email)).collect();
    assert!(lost.is_empty(), "{} of {} acknowledged registrations are lost: {lost:?}", lost.len(), emails.len());
    for (email, users, records) in &found {
        assert_eq!((*users, *records), (1, 1), "{email} is there once with one record");
    }
    // One that nobody waited for any more may be committed only now.
    wait::until("registrations that were not acknowledged have their record too, or neither", async || {
        let (registered, recorded): (i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM identity.users u WHERE NOT EXISTS
                      (SELECT FROM identity.user_roles r WHERE r.user_id = u.id AND r.role = 'admin')),
                    (SELECT count(*) FROM audit.entries WHERE action = 'identity.user.registered')",
        )
        .fetch_one(&mut database)
        .await
        .unwrap();
        (registered == recorded).then_some(())
    })
    .await;
    for person in acknowledged.iter().step_by(acknowledged.len() / 5 + 1) {
        platform.http().login(&person.email, &person.password).await;
    }
}
