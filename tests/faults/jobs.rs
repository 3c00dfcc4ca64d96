//! kill -9 under a load of jobs: every job that was acknowledged ends, succeeded or as a dead letter, its effect is had, and the
//! history agrees with the queue. A job that takes its process down each time is given up, and its neighbours run on.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::StreamExt;
use platform_tests::{Platform, Setup, Signal, jobs, jobs::Watch, wait};
use serde_json::{Value, json};

/// Jobs of the load, and how many are submitted at once.
const JOBS: usize = 1_000;
const BATCH: usize = 50;

/// The longest that everything may take to come to an end after the last kill: the broker gives what a killed runner held to
/// another after 30 s.
const END_MAX: Duration = Duration::from_mins(2);

#[tokio::test]
async fn killing_the_jobs_service_and_nats_server_loses_no_job() {
    let platform = Setup::new().own_servers().start().await;
    let admin = platform.admin().await;
    let effects = Arc::new(Mutex::new(BTreeMap::<u64, usize>::new()));
    let _worker = work(&platform, Arc::clone(&effects)).await;
    let mut acknowledged = BTreeSet::new();

    for batch in 0..JOBS / BATCH {
        let numbers: Vec<usize> = (batch * BATCH..(batch + 1) * BATCH).collect();
        let list: Vec<Value> = numbers
            .iter()
            .map(|n| json!({ "queue": "load", "kind": "add", "args": n, "idempotencyKey": format!("n-{n}"), "backoffBaseMs": 100 }))
            .collect();
        // Until it is acknowledged: an answer that does not come leaves open whether the jobs are there.
        wait::within(END_MAX, "a batch is acknowledged", async || {
            let reply = admin.post("/api/v1/jobs/batch", &json!({ "jobs": list })).await;
            (reply.status == 202).then_some(())
        })
        .await;
        acknowledged.extend(numbers.iter().map(|n| format!("n-{n}")));
        match batch {
            3 | 12 => kill(&platform, "jobs").await,
            7 | 15 => kill(&platform, "nats-server").await,
            _ => {}
        }
    }

    wait::within(END_MAX, "every job has ended", async || {
        let mut database = platform.superuser().await;
        let open: i64 = sqlx::query_scalar("SELECT count(*) FROM jobs.jobs WHERE finished_at IS NULL")
            .fetch_one(&mut database)
            .await
            .ok()?;
        (open == 0).then_some(())
    })
    .await;
    let mut database = platform.superuser().await;
    let ended: Vec<(String, String)> =
        sqlx::query_as("SELECT id, state FROM jobs.jobs WHERE queue = 'load'").fetch_all(&mut database).await.unwrap();
    let ids: BTreeSet<String> = ended.iter().map(|(id, _)| id.clone()).collect();
    assert_eq!(ids, acknowledged, "the history has every acknowledged job and no other");
    let unsuccessful: Vec<_> = ended.iter().filter(|(_, state)| state != "SUCCEEDED").collect();
    assert!(unsuccessful.is_empty(), "{unsuccessful:?}");
    assert_eq!(effects.lock().unwrap().len(), JOBS, "each had its effect");
    wait::until("the queue agrees", async || {
        let queues = admin.get("/api/v1/queues").await.json(200);
        let load = queues["items"].as_array().unwrap().iter().find(|queue| queue["name"] == "load").cloned()?;
        (load["pending"] == 0 && load["running"] == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_job_that_takes_its_process_down_each_time_is_given_up_and_its_neighbours_run_on() {
    let platform = Setup::new().own_servers().start().await;
    let admin = platform.admin().await;
    let ops = platform.user("ops").connect().await;
    let mut watch = Watch::open(&ops).await;
    // The broker's patience in place of 30 s; the runner tells it every 10 s that it holds a job.
    patience(&platform, Duration::from_secs(12)).await;
    let sleep = |ms: u32, attempts: u32| json!({ "queue": "diagnostics", "kind": "sleep", "args": { "ms": ms }, "maxAttempts": attempts });
    let killer = jobs::submit(&admin, &sleep(60_000, 2)).await;
    let neighbour = jobs::submit(&admin, &sleep(2_000, 2)).await;

    for _ in 0..2 {
        watch.until(&killer, "RUNNING").await;
        kill(&platform, "jobs").await;
    }

    let job = jobs::job_in_within(&admin, &killer, "DEAD_LETTER", END_MAX).await;
    assert_eq!(job["attempt"], 2);
    let letter = wait::until("the letter", async || {
        let letter = admin.get(&format!("/api/v1/dead-letters/{killer}")).await;
        (letter.status == 200).then(|| letter.json(200))
    })
    .await;
    assert_eq!(letter["reason"], "CRASH_LOOP");
    jobs::job_in_within(&admin, &neighbour, "SUCCEEDED", END_MAX).await;
}

/// A worker that counts how often it did what.
async fn work(platform: &Platform, effects: Arc<Mutex<BTreeMap<u64, usize>>>) -> tokio::task::JoinHandle<()> {
    let worker = platform.user("worker").connect().await;
    let mut work = worker.client.queue_subscribe("work.load.add", "workers".into()).await.unwrap();
    worker.client.flush().await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "a worker of the test's own")]
    tokio::spawn(async move {
        while let Some(message) = work.next().await {
            let n: u64 = serde_json::from_slice(&message.payload).expect("a number");
            *effects.lock().unwrap().entry(n).or_default() += 1;
            let reply = message.reply.expect("work wants an answer");
            // What cannot be sent just now is asked for again.
            let _ = worker.client.publish(reply, "".into()).await;
        }
    })
}

async fn kill(platform: &Platform, name: &str) {
    let process = platform.process(name, 1);
    let before = process.state().starts;
    process.signal(Signal::KILL).await.unwrap();
    wait::until(&format!("{name} starts again"), async || (process.state().starts > before).then_some(())).await;
    process.ready(wait::WAIT_MAX).await.unwrap();
}

async fn patience(platform: &Platform, ack_wait: Duration) {
    let provision = platform.user(subjects::broker::PROVISION).connect().await.client;
    let info = |subject: &'static str| provision.request(subject, "".into());
    let answer = info("$JS.API.CONSUMER.INFO.JOBS.normal_diagnostics").await.unwrap();
    let mut config = serde_json::from_slice::<Value>(&answer.payload).unwrap()["config"].take();
    config["ack_wait"] = json!(u64::try_from(ack_wait.as_nanos()).unwrap());
    let request = json!({ "stream_name": "JOBS", "config": config, "action": "update" });
    let subject = "$JS.API.CONSUMER.CREATE.JOBS.normal_diagnostics";
    let answer = provision.request(subject, request.to_string().into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer["error"].is_null(), "{answer}");
}
