//! Jobs at the times of cron expressions: submitted once each by the broker's own schedules, whoever is restarted meanwhile.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt;
use kernel::Clock;
use platform_tests::{Platform, Setup, Signal, http::Http, jobs, wait};
use serde_json::{Value, json};
use sqlx::PgConnection;

/// How long the schedules of every second run, and the longest that everything may take to come to an end behind it.
const MINUTE: i64 = 60;
const END_MAX: Duration = Duration::from_mins(2);

/// What was decided at each second.
type Ticks = BTreeMap<i64, String>;

fn now() -> DateTime<Utc> {
    Clock::system().now()
}

async fn create(admin: &Http, schedule: &Value) -> String {
    admin.post("/api/v1/schedules", schedule).await.json(201)["id"].as_str().unwrap().to_owned()
}

fn every_second(name: &str, more: &Value) -> Value {
    let mut schedule = json!({ "name": name, "cron": "* * * * * *", "queue": "clock", "kind": name });
    schedule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    schedule
}

/// What was decided at whole seconds; run by hand is between them.
async fn ticks(database: &mut PgConnection, schedule: &str) -> Ticks {
    let rows: Vec<(DateTime<Utc>, String)> = sqlx::query_as(
        "SELECT due_at, outcome FROM jobs.ticks WHERE schedule_id = $1 AND due_at = date_trunc('second', due_at)",
    )
    .bind(schedule)
    .fetch_all(database)
    .await
    .unwrap();
    rows.into_iter().map(|(due_at, outcome)| (due_at.timestamp(), outcome)).collect()
}

/// Waits until something was decided for this second or a later one, and gives all of it.
async fn ticks_until(database: &mut PgConnection, schedule: &str, second: i64) -> Ticks {
    wait::within(END_MAX, "the schedule goes on", async || {
        let ticks = ticks(database, schedule).await;
        ticks.last_key_value().is_some_and(|(last, _)| *last >= second).then_some(ticks)
    })
    .await
}

/// Serves a queue until the platform ends: every job succeeds at once.
async fn serve(platform: &Platform, queue: &str) {
    let worker = platform.user("worker").connect().await;
    let mut work = worker.client.queue_subscribe(format!("work.{queue}.>"), "workers".into()).await.unwrap();
    worker.client.flush().await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "a worker of the test's own")]
    tokio::spawn(async move {
        while let Some(message) = work.next().await {
            // What cannot be sent just now is asked for again.
            let _ = worker.client.publish(message.reply.expect("work wants an answer"), "".into()).await;
        }
    });
}

/// Checks that the seconds between the first and the last are all there and each but those of `passed` was started.
fn check_dense(ticks: &Ticks) {
    let (first, last) = (*ticks.first_key_value().unwrap().0, *ticks.last_key_value().unwrap().0);
    let missing: Vec<i64> = (first..=last).filter(|second| !ticks.contains_key(second)).collect();
    assert!(missing.is_empty(), "nothing was decided for {missing:?} of {first} to {last}");
}

fn with(ticks: &Ticks, outcome: &str) -> Vec<i64> {
    ticks.iter().filter(|(_, known)| *known == outcome).map(|(second, _)| *second).collect()
}

#[tokio::test]
async fn every_second_of_a_minute_fires_once_while_the_jobs_service_and_the_broker_are_restarted() {
    let setup = Setup::new().own_servers().set("jobs.late_after_ms", "4000").set("jobs.schedule_interval_ms", "2000");
    let platform = setup.start().await;
    let admin = platform.admin().await;
    let mut database = platform.superuser().await;
    serve(&platform, "clock").await;
    let all = create(&admin, &every_second("all", &json!({ "catchUp": "ALL" }))).await;
    let last = create(&admin, &every_second("last", &json!({ "catchUp": "LAST" }))).await;
    let skip = create(&admin, &every_second("skip", &json!({ "catchUp": "SKIP" }))).await;
    let first = *ticks_until(&mut database, &all, 0).await.first_key_value().unwrap().0;
    let (nats, service) = (platform.process("nats-server", 1), platform.process("jobs", 1));

    // Killed, and started again by the supervisor.
    ticks_until(&mut database, &all, first + 10).await;
    restart(&platform, "jobs").await;
    ticks_until(&mut database, &all, first + 17).await;
    restart(&platform, "nats-server").await;
    // The broker sleeps.
    ticks_until(&mut database, &all, first + 27).await;
    let down = now().timestamp();
    nats.stop().await.unwrap();
    wait::until("ten seconds have passed", async || (now().timestamp() >= down + 10).then_some(())).await;
    nats.start().await.unwrap();
    nats.ready(wait::WAIT_MAX).await.unwrap();
    let up = now().timestamp();
    // The jobs service is away while the broker goes on.
    ticks_until(&mut database, &all, up + 3).await;
    service.stop().await.unwrap();
    let away = now().timestamp();
    wait::until("six seconds have passed", async || (now().timestamp() >= away + 6).then_some(())).await;
    service.start().await.unwrap();
    service.ready(wait::WAIT_MAX).await.unwrap();
    let end = (first + MINUTE).max(away + 10);

    let ticks = [
        ticks_until(&mut database, &all, end).await,
        ticks_until(&mut database, &last, end).await,
        ticks_until(&mut database, &skip, end).await,
    ];
    ticks.iter().for_each(check_dense);
    let [all_ticks, last_ticks, skip_ticks] = &ticks;
    assert_eq!(with(all_ticks, "STARTED").len(), all_ticks.len(), "everything is caught up");
    let missed = with(skip_ticks, "MISSED");
    assert!(!missed.is_empty() && missed.iter().all(|second| (down..up).contains(second)), "{missed:?} {down} {up}");
    assert_eq!(with(skip_ticks, "STARTED").len() + missed.len(), skip_ticks.len());
    let missed = with(last_ticks, "MISSED");
    assert!(missed.iter().all(|second| (down..up).contains(second)), "{missed:?} {down} {up}");
    // The newest that was slept through counts; which is the first that did not is the broker's moment of waking.
    assert!(missed.len() < with(skip_ticks, "MISSED").len() + 2 && !missed.is_empty(), "{missed:?}");
    check_jobs(&mut database, &admin, &all, &with(all_ticks, "STARTED")).await;
    check_jobs(&mut database, &admin, &skip, &with(skip_ticks, "STARTED")).await;
}

/// Each second has its job, of this name, and no job is of another second.
async fn check_jobs(database: &mut PgConnection, admin: &Http, schedule: &str, seconds: &[i64]) {
    admin.post(&format!("/api/v1/schedules/{schedule}/pause"), &json!({})).await.json(200);
    let seconds = ticks(database, schedule)
        .await
        .into_keys()
        .filter(|second| seconds.contains(second) || *second > *seconds.last().unwrap());
    let expected: Vec<String> = seconds.map(|second| format!("{schedule}-{second}")).collect();
    wait::within(END_MAX, "every job of the schedule has succeeded", async || {
        let jobs: Vec<(String, String)> =
            sqlx::query_as("SELECT id, state FROM jobs.jobs WHERE id LIKE $1 ORDER BY id")
                .bind(format!("{schedule}-%"))
                .fetch_all(&mut *database)
                .await
                .ok()?;
        assert!(jobs.iter().all(|(_, state)| state != "DEAD_LETTER"), "{jobs:?}");
        let done: Vec<&String> = jobs.iter().filter(|(_, state)| state == "SUCCEEDED").map(|(id, _)| id).collect();
        (done.len() == jobs.len() && done.len() >= expected.len() && expected.iter().all(|id| done.contains(&id)))
            .then_some(())
    })
    .await;
}

async fn restart(platform: &Platform, name: &str) {
    let process = platform.process(name, 1);
    let before = process.state().starts;
    process.signal(Signal::KILL).await.unwrap();
    wait::until(&format!("{name} starts again"), async || (process.state().starts > before).then_some(())).await;
    process.ready(wait::WAIT_MAX).await.unwrap();
}

#[tokio::test]
async fn a_schedule_goes_on_when_the_brokers_store_was_lost() {
    let setup = Setup::new().own_servers().set("jobs.schedule_interval_ms", "500");
    let platform = setup.start().await;
    let admin = platform.admin().await;
    let mut database = platform.superuser().await;
    let schedule = create(&admin, &every_second("all", &json!({ "catchUp": "ALL" }))).await;
    ticks_until(&mut database, &schedule, 0).await;
    let nats = platform.process("nats-server", 1);
    let starts = nats.state().starts;

    wait::until("the store is deleted", async || std::fs::remove_dir_all(platform.stream_store()).ok()).await;
    nats.signal(Signal::KILL).await.unwrap();
    wait::until("the broker is back", async || (nats.state().starts > starts).then_some(())).await;
    nats.ready(wait::WAIT_MAX).await.unwrap();
    platform.make_streams().await;

    let ticks = ticks_until(&mut database, &schedule, now().timestamp() + 3).await;
    check_dense(&ticks);
    assert_eq!(with(&ticks, "STARTED").len(), ticks.len());
}

#[tokio::test]
async fn a_time_that_finds_a_job_of_the_schedule_under_way_is_passed_over_or_waits() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let mut database = platform.superuser().await;
    let worker = platform.user("worker").connect().await;
    let mut skipping = worker.client.subscribe("work.clock.skip").await.unwrap();
    let mut queueing = worker.client.subscribe("work.clock.queue").await.unwrap();
    let mut allowing = worker.client.subscribe("work.clock.allow").await.unwrap();
    worker.client.flush().await.unwrap();
    let skip = create(&admin, &every_second("skip", &json!({ "overlap": "SKIP" }))).await;
    let queue = create(&admin, &every_second("queue", &json!({ "overlap": "QUEUE_ONE" }))).await;
    create(&admin, &every_second("allow", &json!({ "overlap": "ALLOW" }))).await;

    let (first_skipping, first_queueing) = (next(&mut skipping).await, next(&mut queueing).await);
    // Two more of the one that does not care come meanwhile.
    for _ in 0..3 {
        next(&mut allowing).await;
    }
    let mut is_passed_over = async |schedule: &str| {
        wait::until("times are passed over", async || {
            Some(ticks(&mut database, schedule).await).filter(|ticks| with(ticks, "OVERLAPPED").len() >= 2)
        })
        .await
    };
    let (skipped, queued) = (is_passed_over(&skip).await, is_passed_over(&queue).await);

    assert_eq!((with(&skipped, "STARTED").len(), with(&skipped, "QUEUED").len()), (1, 0), "{skipped:?}");
    assert_eq!((with(&queued, "STARTED").len(), with(&queued, "QUEUED").len()), (1, 1), "{queued:?}");
    let started = with(&skipped, "STARTED")[0];
    assert_eq!(id(&first_skipping), format!("{skip}-{started}"));
    let shown = admin.get(&format!("/api/v1/schedules/{skip}")).await.json(200);
    assert_eq!((&shown["lastJobId"], &shown["lastOutcome"]), (&json!(id(&first_skipping)), &json!("OVERLAPPED")));

    let waiting = with(&queued, "QUEUED")[0];
    jobs::answer(&worker, &first_queueing, &[], "").await;
    let second_queueing = next(&mut queueing).await;
    assert_eq!(id(&second_queueing), format!("{queue}-{waiting}"), "the one that waited");
    jobs::answer(&worker, &first_skipping, &[], "").await;
    let second_skipping = next(&mut skipping).await;
    let later: i64 = id(&second_skipping).rsplit_once('-').unwrap().1.parse().unwrap();
    assert!(later > *skipped.last_key_value().unwrap().0, "none of those that were passed over");
}

async fn next(work: &mut async_nats::Subscriber) -> async_nats::Message {
    tokio::time::timeout(wait::WAIT_MAX, work.next()).await.expect("work comes").expect("connected")
}

fn id(work: &async_nats::Message) -> String {
    work.headers.as_ref().unwrap().get("Job-Id").unwrap().to_string()
}

#[tokio::test]
async fn a_schedule_is_made_shown_changed_held_run_by_hand_and_deleted() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let schedule = json!({
        "name": "Report", "cron": "30 2 * * MON-FRI", "timeZone": "Europe/Berlin", "queue": "reports", "kind": "daily",
        "args": { "price": 1.50 }, "overlap": "SKIP", "maxAttempts": 2,
    });

    let made = admin.post("/api/v1/schedules", &schedule).await.json(201);

    let id = made["id"].as_str().unwrap();
    let path = format!("/api/v1/schedules/{id}");
    assert_eq!(
        (&made["overlap"], &made["catchUp"], &made["catchUpMax"]),
        (&json!("SKIP"), &json!("LAST"), &json!(100))
    );
    let preview = json!({ "cron": "30 2 * * MON-FRI", "timeZone": "Europe/Berlin", "count": 3 });
    let preview = admin.post("/api/v1/schedules/preview", &preview).await.json(200);
    assert_eq!((&preview["items"][0], preview["items"].as_array().unwrap().len()), (&made["nextAt"], 3));
    admin.post("/api/v1/schedules", &schedule).await.problem(409, "name_taken");
    // The broker has its times.
    let ops = platform.user("ops").connect().await;
    let planned = async || {
        let request = json!({ "subjects_filter": format!("schedules.tick.{id}.*") }).to_string();
        let answer = ops.client.request("$JS.API.STREAM.INFO.SCHEDULES", request.into()).await.unwrap();
        let info: Value = serde_json::from_slice(&answer.payload).unwrap();
        info["state"]["subjects"].as_object().map_or(0, serde_json::Map::len)
    };
    wait::until("its times are with the broker", async || (planned().await == 8).then_some(())).await;

    let paused = admin.post(&format!("{path}/pause"), &json!({})).await.json(200);
    assert_eq!((&paused["paused"], &paused["nextAt"]), (&json!(true), &Value::Null));
    wait::until("its times are taken back", async || (planned().await == 0).then_some(())).await;
    let run = admin.post(&format!("{path}/run-now"), &json!({})).await.json(202)["jobId"].as_str().unwrap().to_owned();
    let job = jobs::job_in(&admin, &run, "WAITING").await;
    assert_eq!((&job["queue"], &job["kind"], &job["maxAttempts"]), (&json!("reports"), &json!("daily"), &json!(2)));
    assert_eq!(job["args"], json!({ "price": 1.50 }));
    admin.post(&format!("{path}/resume"), &json!({})).await.json(200);
    wait::until("its times are with the broker again", async || (planned().await == 8).then_some(())).await;
    let changed = admin.patch(&path, &json!({ "cron": "0 4 * * *", "timeZone": "UTC" })).await.json(200);
    assert!(changed["nextAt"].as_str().unwrap().ends_with("T04:00:00Z"), "{changed}");
    assert_eq!((&changed["name"], &changed["lastJobId"]), (&json!("Report"), &json!(run)));
    let listed = admin.get("/api/v1/schedules?queue=reports").await.json(200);
    assert_eq!((&listed["items"][0]["id"], &listed["items"][0]["args"]), (&json!(id), &Value::Null));

    assert_eq!(admin.delete(&path).await.status, 204);
    admin.get(&path).await.problem(404, "schedule_not_found");
    wait::until("the broker knows nothing of it", async || (planned().await == 0).then_some(())).await;
}

#[tokio::test]
async fn a_schedule_that_is_held_fires_no_more_and_catches_nothing_up() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let mut database = platform.superuser().await;
    let schedule = create(&admin, &every_second("all", &json!({ "catchUp": "ALL" }))).await;
    ticks_until(&mut database, &schedule, 0).await;

    admin.post(&format!("/api/v1/schedules/{schedule}/pause"), &json!({})).await.json(200);
    let held = now();
    wait::until("three seconds have passed", async || (now() > held + TimeDelta::seconds(3)).then_some(())).await;
    let gone_on = now();
    admin.post(&format!("/api/v1/schedules/{schedule}/resume"), &json!({})).await.json(200);

    let ticks = ticks_until(&mut database, &schedule, gone_on.timestamp() + 2).await;
    let between: Vec<_> = ticks.range(held.timestamp() + 1..=gone_on.timestamp()).collect();
    assert!(between.is_empty(), "{between:?}");
    let listed = admin.get("/api/v1/jobs?queue=clock&pageSize=500").await.json(200);
    assert_eq!(
        listed["items"].as_array().unwrap().len(),
        with(&self::ticks(&mut database, &schedule).await, "STARTED").len()
    );
}

#[tokio::test]
async fn a_schedule_that_cannot_be_is_refused_with_what_is_wrong() {
    let platform = Setup::new().set("jobs.crons_max", "1").start().await;
    let admin = platform.admin().await;
    let schedule = |field: &str, value: Value| {
        let mut schedule = json!({ "name": "n", "cron": "* * * * *", "queue": "q", "kind": "k" });
        schedule[field] = value;
        schedule
    };
    for (field, value) in [
        ("name", json!("")),
        ("name", json!("@mine")),
        ("cron", json!("")),
        ("cron", json!("* * * *")),
        ("cron", json!("61 * * * *")),
        ("cron", json!("0 0 30 2 *")),
        ("timeZone", json!("Mars/Olympus")),
        ("queue", json!("schedules")),
        ("queue", json!("a.b")),
        ("kind", json!("*")),
        ("catchUpMax", json!(1_001)),
        ("jitterMs", json!(3_600_001)),
        ("maxAttempts", json!(1_001)),
        ("timeoutMs", json!(86_400_001)),
    ] {
        let problem =
            admin.post("/api/v1/schedules", &schedule(field, value.clone())).await.problem(422, "validation_failed");
        assert_eq!(problem["errors"][0]["pointer"], format!("/{field}"), "{value}: {problem}");
    }
    let wrong = json!({ "cron": "x", "timeZone": "y", "count": 1_001 });
    let problem = admin.post("/api/v1/schedules/preview", &wrong).await.problem(422, "validation_failed");
    assert_eq!(problem["errors"].as_array().unwrap().len(), 3, "{problem}");

    let id = create(&admin, &schedule("name", json!("only"))).await;
    admin.post("/api/v1/schedules", &schedule("name", json!("more"))).await.problem(409, "too_many_schedules");
    let path = format!("/api/v1/schedules/{id}");
    admin.patch(&path, &json!({ "cron": "nonsense" })).await.problem(422, "validation_failed");
    for (method, path) in [("run-now", "x"), ("pause", "x"), ("resume", "x")] {
        admin.post(&format!("/api/v1/schedules/{path}/{method}"), &json!({})).await.problem(404, "schedule_not_found");
    }
}
