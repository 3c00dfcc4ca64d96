//! Jobs at the times of cron expressions: submitted once each by the broker's own schedules, whoever is restarted meanwhile.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt;
use kernel::Clock;
use platform_tests::{Platform, Setup, Signal, http::Http, jobs, wait};
use serde_json::{Value, json};
use sqlx::PgConnection;

/// The longest that a schedule may take to go on, and everything to come to an end behind it, on a busy machine.
const END_MAX: Duration = Duration::from_mins(3);

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
    let ahead = u64::try_from(second - now().timestamp()).unwrap_or_default();
    wait::within(END_MAX + Duration::from_secs(ahead), "the schedule goes on", async || {
        let ticks = ticks(database, schedule).await;
        ticks.last_key_value().is_some_and(|(last, _)| *last >= second).then_some(ticks)
    })
    .await
}

/// Waits in addition until none in between is left out, and gives all of it: what somebody held who was killed comes later.
async fn dense_until(database: &mut PgConnection, schedule: &str, second: i64) -> Ticks {
    ticks_until(database, schedule, second).await;
    let began = now();
    loop {
        let ticks = ticks(database, schedule).await;
        let (first, last) = (*ticks.first_key_value().unwrap().0, *ticks.last_key_value().unwrap().0);
        let missing: Vec<i64> = (first..=last).filter(|second| !ticks.contains_key(second)).collect();
        if missing.is_empty() {
            return ticks;
        }
        let waited = (now() - began).to_std().unwrap_or_default();
        assert!(waited < END_MAX, "nothing was decided for {missing:?} of {first} to {last}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// When the work of each job was done, in seconds; once, as a rule.
type Done = Arc<Mutex<BTreeMap<String, Vec<i64>>>>;

/// Serves a queue until the platform ends: every job succeeds at once.
async fn serve(platform: &Platform, queue: &str) -> Done {
    let worker = platform.user("worker").connect().await;
    let mut work = worker.client.queue_subscribe(format!("work.{queue}.>"), "workers".into()).await.unwrap();
    worker.client.flush().await.unwrap();
    let done = Done::default();
    let noted = Arc::clone(&done);
    #[expect(clippy::disallowed_methods, reason = "a worker of the test's own")]
    tokio::spawn(async move {
        while let Some(message) = work.next().await {
            noted.lock().unwrap().entry(id(&message)).or_default().push(now().timestamp());
            // What cannot be sent just now is asked for again.
            let _ = worker.client.publish(message.reply.expect("work wants an answer"), "".into()).await;
        }
    });
    done
}

fn with(ticks: &Ticks, outcome: &str) -> Vec<i64> {
    ticks.iter().filter(|(_, known)| *known == outcome).map(|(second, _)| *second).collect()
}

/// How long the schedules of every second run, in seconds: a minute, or what `SCHEDULE_MINUTES` says.
fn length() -> i64 {
    let minutes = std::env::var("SCHEDULE_MINUTES").ok().map(|minutes| minutes.parse::<i64>().expect("minutes"));
    60 * minutes.unwrap_or(1)
}

/// How late the broker gives out what it did not sleep through: it may be killed, and the machine may be busy.
const LATE_AFTER_S: i64 = 10;

#[tokio::test]
async fn every_second_fires_once_while_the_jobs_service_and_the_broker_are_restarted() {
    let late_after = (LATE_AFTER_S * 1_000).to_string();
    let setup = Setup::new().own_servers().set("jobs.late_after_ms", &late_after);
    let platform = setup.set("jobs.schedule_interval_ms", "2000").start().await;
    let admin = platform.admin().await;
    let mut database = platform.superuser().await;
    let done = serve(&platform, "clock").await;
    let all = create(&admin, &every_second("all", &json!({ "catchUp": "ALL", "catchUpMax": 1_000 }))).await;
    let last = create(&admin, &every_second("last", &json!({ "catchUp": "LAST" }))).await;
    let skip = create(&admin, &every_second("skip", &json!({ "catchUp": "SKIP" }))).await;
    let first = *ticks_until(&mut database, &all, 0).await.first_key_value().unwrap().0;
    let (nats, service) = (platform.process("nats-server", 1), platform.process("jobs", 1));
    let part = length() / 6;

    // Killed, and started again by the supervisor.
    ticks_until(&mut database, &all, first + part).await;
    let crashed = restart(&platform, "jobs").await;
    ticks_until(&mut database, &all, now().timestamp() + part / 2).await;
    let killed = restart(&platform, "nats-server").await;
    // The broker sleeps.
    ticks_until(&mut database, &all, now().timestamp() + part).await;
    let down = now().timestamp();
    nats.stop().await.unwrap();
    passed(down + LATE_AFTER_S + 5).await;
    nats.start().await.unwrap();
    nats.ready(wait::WAIT_MAX).await.unwrap();
    let up = now().timestamp();
    // The jobs service is away while the broker goes on.
    ticks_until(&mut database, &all, up + part / 2).await;
    service.stop().await.unwrap();
    let away = now().timestamp();
    passed(away + 5).await;
    service.start().await.unwrap();
    service.ready(wait::WAIT_MAX).await.unwrap();
    let away = away..now().timestamp();
    let end = (first + length()).max(away.end + 5);

    let ticks = [
        dense_until(&mut database, &all, end).await,
        dense_until(&mut database, &last, end).await,
        dense_until(&mut database, &skip, end).await,
    ];
    let [all_ticks, last_ticks, skip_ticks] = &ticks;
    assert_eq!(with(all_ticks, "STARTED").len(), all_ticks.len(), "everything is caught up");
    // What is passed over is that for which the broker was not there, and nothing else.
    let asleep = down..up;
    let slept = |second: &i64| [&killed, &asleep].iter().any(|away| (away.start - 5..away.end).contains(second));
    let (skipped, of_last) = (with(skip_ticks, "MISSED"), with(last_ticks, "MISSED"));
    assert!(!skipped.is_empty() && skipped.iter().all(slept), "{skipped:?} {killed:?} {down} {up}");
    assert!(!of_last.is_empty() && of_last.iter().all(slept), "{of_last:?} {killed:?} {down} {up}");
    assert_eq!(with(skip_ticks, "STARTED").len() + skipped.len(), skip_ticks.len());
    assert_eq!(with(last_ticks, "STARTED").len() + of_last.len(), last_ticks.len());
    // The token of the beginning may have expired.
    let admin = platform.admin().await;
    check_jobs(&mut database, &admin, &all).await;
    check_jobs(&mut database, &admin, &last).await;
    check_jobs(&mut database, &admin, &skip).await;
    // Nothing was done twice but what was under way when somebody was killed or stopped.
    let cut = |second: i64| {
        [&crashed, &killed, &asleep, &away].iter().any(|cut| (cut.start - 10..cut.end + 10).contains(&second))
    };
    for (id, times) in done.lock().unwrap().iter().filter(|(_, times)| times.len() > 1) {
        assert!(cut(times[0]), "{id} was done at {times:?}");
    }
    tell(&format!(
        "{} seconds, the broker away for {}: {} caught up, {} left out with LAST, {} with SKIP",
        all_ticks.len(),
        up - down,
        up - down - LATE_AFTER_S,
        of_last.len(),
        skipped.len()
    ));
}

#[expect(clippy::print_stdout, reason = "figures are for people")]
fn tell(line: &str) {
    println!("{line}");
}

async fn passed(second: i64) {
    wait::until("it is time to go on", async || (now().timestamp() >= second).then_some(())).await;
}

/// Holds the schedule, and waits until the job of each second that was started has succeeded; there are no others.
async fn check_jobs(database: &mut PgConnection, admin: &Http, schedule: &str) {
    admin.post(&format!("/api/v1/schedules/{schedule}/pause"), &json!({})).await.json(200);
    wait::within(END_MAX, "every job of the schedule has succeeded", async || {
        let expected = with(&ticks(&mut *database, schedule).await, "STARTED");
        let expected: Vec<String> = expected.into_iter().map(|second| format!("{schedule}-{second}")).collect();
        let jobs: Vec<(String, String)> =
            sqlx::query_as("SELECT id, state FROM jobs.jobs WHERE id LIKE $1 ORDER BY id")
                .bind(format!("{schedule}-%"))
                .fetch_all(&mut *database)
                .await
                .ok()?;
        let wrong: Vec<_> = jobs.iter().filter(|(_, state)| state == "DEAD_LETTER").collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        let done: Vec<&String> = jobs.iter().filter(|(_, state)| state == "SUCCEEDED").map(|(id, _)| id).collect();
        (done.len() == jobs.len() && expected.iter().eq(done)).then_some(())
    })
    .await;
}

/// Kills a process, which its supervisor starts again; the seconds in between.
async fn restart(platform: &Platform, name: &str) -> Range<i64> {
    let killed = now().timestamp();
    let process = platform.process(name, 1);
    let before = process.state().starts;
    process.signal(Signal::KILL).await.unwrap();
    wait::until(&format!("{name} starts again"), async || (process.state().starts > before).then_some(())).await;
    process.ready(wait::WAIT_MAX).await.unwrap();
    killed..now().timestamp()
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

    let ticks = dense_until(&mut database, &schedule, now().timestamp() + 3).await;
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
    let allow = create(&admin, &every_second("allow", &json!({ "overlap": "ALLOW" }))).await;

    let (first_skipping, first_queueing) = (next(&mut skipping).await, next(&mut queueing).await);
    // Two more of the one that does not care come meanwhile.
    for _ in 0..3 {
        next(&mut allowing).await;
    }
    // It would fill the queue with what nobody answers.
    admin.post(&format!("/api/v1/schedules/{allow}/pause"), &json!({})).await.json(200);
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

#[tokio::test]
async fn a_time_that_waits_for_others_outlasts_a_pause_of_its_schedule_and_of_its_queue() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let mut database = platform.superuser().await;
    let worker = platform.user("worker").connect().await;
    let mut work = worker.client.subscribe("work.clock.wait").await.unwrap();
    worker.client.flush().await.unwrap();
    let schedule = create(&admin, &every_second("wait", &json!({ "overlap": "QUEUE_ONE" }))).await;
    let path = format!("/api/v1/schedules/{schedule}");
    let mut waits = async |known: &[i64]| {
        wait::until("a time waits", async || {
            let ticks = ticks(&mut database, &schedule).await;
            with(&ticks, "QUEUED").into_iter().find(|second| !known.contains(second))
        })
        .await
    };

    // Held while it waits, and the others end meanwhile.
    let first = next(&mut work).await;
    let waiting = waits(&[]).await;
    admin.post(&format!("{path}/pause"), &json!({})).await.json(200);
    jobs::answer(&worker, &first, &[], "").await;
    jobs::job_in(&admin, &id(&first), "SUCCEEDED").await;
    assert_eq!(waits(&[]).await, waiting, "it still does");
    let listed = admin.get("/api/v1/jobs?queue=clock&kind=wait").await.json(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");

    admin.post(&format!("{path}/resume"), &json!({})).await.json(200);
    let second = next(&mut work).await;
    assert_eq!(id(&second), format!("{schedule}-{waiting}"));

    // The queue is held: the next goes into it when the others have ended, and is begun when it goes on.
    let waiting = waits(&[waiting]).await;
    admin.post("/api/v1/queues/clock/pause", &json!({})).await.json(200);
    jobs::answer(&worker, &second, &[], "").await;
    jobs::job_in(&admin, &format!("{schedule}-{waiting}"), "PENDING").await;
    admin.post("/api/v1/queues/clock/resume", &json!({})).await.json(200);
    let third = next(&mut work).await;
    assert_eq!(id(&third), format!("{schedule}-{waiting}"));
    jobs::answer(&worker, &third, &[], "").await;
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
        "args": { "price": 1.50 }, "overlap": "SKIP", "maxAttempts": 2, "jitterMs": 5, "catchUpMax": 7,
    });

    let made = admin.post("/api/v1/schedules", &schedule).await.json(201);

    let id = made["id"].as_str().unwrap();
    let path = format!("/api/v1/schedules/{id}");
    assert_eq!((&made["overlap"], &made["catchUp"], &made["catchUpMax"]), (&json!("SKIP"), &json!("LAST"), &json!(7)));
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
    assert_eq!((&changed["maxAttempts"], &changed["overlap"]), (&json!(2), &json!("SKIP")), "what is absent stays");
    let reset = json!({
        "timeZone": "", "maxAttempts": 0, "jitterMs": 0, "catchUpMax": 0, "overlap": "UNSPECIFIED",
    });
    let reset = admin.patch(&path, &reset).await.json(200);
    assert_eq!(
        (&reset["maxAttempts"], &reset["catchUpMax"], &reset["overlap"], &reset["timeZone"]),
        (&json!(0), &json!(100), &json!("ALLOW"), &json!("UTC")),
        "what is empty is as if never said"
    );
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
    admin.post(&format!("/api/v1/schedules/{schedule}/pause"), &json!({})).await.json(200);
    // What was fired before the schedule was held may be on its way.
    wait::until("each time that was started has its job, and there are no others", async || {
        let listed = admin.get("/api/v1/jobs?queue=clock&pageSize=500").await.json(200);
        let started = with(&self::ticks(&mut database, &schedule).await, "STARTED").len();
        (listed["items"].as_array().unwrap().len() == started).then_some(())
    })
    .await;
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
        ("cron", json!("* * * * * * *")),
        ("cron", json!("* * * * * * * *")),
        ("cron", json!("60 * * * *")),
        ("cron", json!("61 * * * *")),
        ("cron", json!("*/0 * * * *")),
        ("cron", json!("5-1 * * * *")),
        ("cron", json!("@reboot")),
        ("cron", json!("*/1000000000000000000 * * * *")),
        ("cron", json!("\u{661} * * * *")),
        ("cron", json!(format!("{}0 * * * *", "0,".repeat(5_000)))),
        ("cron", json!("0 0 30 2 *")),
        ("cron", json!("* * 31 2 *")),
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
    // What is seldom is not what never comes.
    for seldom in ["0 0 29 2 *", "0 0 L * *", "0 0 15W * *", "0 0 * * MON#5"] {
        let preview = json!({ "cron": seldom, "count": 3 });
        let times = admin.post("/api/v1/schedules/preview", &preview).await.json(200);
        assert_eq!(times["items"].as_array().unwrap().len(), 3, "{seldom}: {times}");
    }
    let wrong = json!({ "cron": "x", "timeZone": "y", "count": 1_001 });
    let problem = admin.post("/api/v1/schedules/preview", &wrong).await.problem(422, "validation_failed");
    assert_eq!(problem["errors"].as_array().unwrap().len(), 3, "{problem}");

    let id = create(&admin, &schedule("name", json!("only"))).await;
    admin.post("/api/v1/schedules", &schedule("name", json!("more"))).await.problem(409, "too_many_schedules");
    let path = format!("/api/v1/schedules/{id}");
    for (field, value) in [
        ("cron", json!("nonsense")),
        ("cron", json!("")),
        ("name", json!("")),
        ("queue", json!("")),
        ("kind", json!("")),
        ("jitterMs", json!(3_600_001)),
        ("catchUpMax", json!(1_001)),
        ("maxAttempts", json!(1_001)),
        ("timeoutMs", json!(86_400_001)),
    ] {
        let problem = admin.patch(&path, &json!({ field: value })).await.problem(422, "validation_failed");
        assert_eq!(problem["errors"][0]["pointer"], format!("/{field}"), "{problem}");
        assert!(!problem["errors"][0]["detail"].as_str().unwrap().is_empty(), "{problem}");
    }
    for (method, path) in [("run-now", "x"), ("pause", "x"), ("resume", "x")] {
        admin.post(&format!("/api/v1/schedules/{path}/{method}"), &json!({})).await.problem(404, "schedule_not_found");
    }
}

#[tokio::test]
async fn jobs_come_later_than_due_by_chance_and_no_later_than_the_jitter_allows() {
    const JITTER_MS: i64 = 3_600_000;
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let ops = platform.user("ops").connect().await;
    let jobs_service = platform.user("jobs").connect().await;

    let daily = json!({ "name": "n", "cron": "0 3 * * *", "queue": "clock", "kind": "daily", "jitterMs": JITTER_MS });
    let daily = create(&admin, &daily).await;
    let soon = create(&admin, &every_second("soon", &json!({ "jitterMs": 1_500, "catchUp": "ALL" }))).await;

    // What the broker is to do with the days ahead: each at a time of its own within the hour.
    let request = json!({ "subjects_filter": format!("schedules.tick.{daily}.*") }).to_string();
    let subjects = wait::until("its times are with the broker", async || {
        let answer = ops.client.request("$JS.API.STREAM.INFO.SCHEDULES", request.clone().into()).await.ok()?;
        let info: Value = serde_json::from_slice(&answer.payload).ok()?;
        info["state"]["subjects"].as_object().filter(|subjects| subjects.len() == 8).cloned()
    })
    .await;
    let mut delays = Vec::new();
    for subject in subjects.keys() {
        let message = jobs_service.client.request(format!("$JS.API.DIRECT.GET.SCHEDULES.{subject}"), "".into()).await;
        let headers = message.unwrap().headers.unwrap();
        let at = headers.get("Nats-Schedule").unwrap().as_str().strip_prefix("@at ").unwrap().to_owned();
        let planned = DateTime::parse_from_rfc3339(&at).unwrap().to_utc();
        let due: i64 = subject.rsplit_once('.').unwrap().1.parse().unwrap();
        delays.push((planned - DateTime::from_timestamp(due, 0).unwrap()).num_milliseconds());
    }
    assert!(delays.iter().all(|delay| (0..=JITTER_MS).contains(delay)), "{delays:?}");
    delays.sort_unstable();
    delays.dedup();
    assert!(delays.len() > 1, "not all alike");

    // And each time of the other counts once, whatever order they come in, and not before it is due.
    let mut database = platform.superuser().await;
    let ticks = ticks_until(&mut database, &soon, now().timestamp() + 6).await;
    let started = with(&ticks, "STARTED");
    assert_eq!(started.len(), ticks.len());
    let rows: Vec<(String, DateTime<Utc>)> = sqlx::query_as("SELECT id, created_at FROM jobs.jobs WHERE id LIKE $1")
        .bind(format!("{soon}-%"))
        .fetch_all(&mut database)
        .await
        .unwrap();
    for (id, created_at) in rows {
        let due: i64 = id.rsplit_once('-').unwrap().1.parse().unwrap();
        assert!(created_at.timestamp() >= due, "{id} at {created_at}");
    }
}

#[tokio::test]
async fn what_services_declare_is_scheduled_can_be_held_and_run_and_nothing_else() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let mut declared: Vec<(String, &str, &str)> = subjects::job::contracts()
        .filter_map(|job| Some((format!("@{}.{}", job.queue, job.kind), job.service, job.cron?)))
        .collect();
    declared.sort();

    let listed = wait::until("what is declared is there", async || {
        let listed = admin.get("/api/v1/schedules").await.json(200)["items"].as_array().unwrap().clone();
        (listed.len() == declared.len()).then_some(listed)
    })
    .await;

    for (schedule, (name, service, cron)) in listed.iter().zip(&declared) {
        let text = |field: &str| schedule[field].as_str().unwrap();
        assert_eq!((text("name"), text("service"), text("cron")), (name.as_str(), *service, *cron));
        assert_eq!((text("timeZone"), text("overlap"), text("catchUp")), ("UTC", "SKIP", "LAST"));
        assert!(schedule["nextAt"].is_string(), "{schedule}");
        let path = format!("/api/v1/schedules/{}", text("id"));
        admin.patch(&path, &json!({ "cron": "* * * * *" })).await.problem(409, "declared_schedule");
        admin.delete(&path).await.problem(409, "declared_schedule");
        let held = admin.post(&format!("{path}/pause"), &json!({})).await.json(200);
        assert_eq!(held["paused"], true);
        let run = admin.post(&format!("{path}/run-now"), &json!({})).await.json(202);
        jobs::job_in(&admin, run["jobId"].as_str().unwrap(), "SUCCEEDED").await;
    }
    // Held it stays, also when the service starts anew.
    platform.restart_services().await;
    let admin = platform.admin().await;
    for schedule in admin.get("/api/v1/schedules").await.json(200)["items"].as_array().unwrap() {
        assert_eq!(schedule["paused"], true, "{schedule}");
    }
}
