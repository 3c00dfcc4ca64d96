//! kill -9 under a load of jobs: every job that was acknowledged ends, succeeded or as a dead letter, its effect is had once, and
//! the history agrees with the queue. A job that takes its process down each time is given up, and its neighbours run on.
//!
//! A short run by default; `FAULTS_JOBS=20000` runs the whole. The seed is printed; `FAULTS_SEED` repeats the choice of victims
//! and moments.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use futures::StreamExt;
use kernel::Random;
use platform_tests::{Platform, Setup, Signal, jobs, jobs::Watch, python, wait};
use serde_json::{Value, json};
use tokio::process::Child;

use crate::{number, say};

/// Jobs of the load without being told otherwise, and how many are submitted at once.
const JOBS: usize = 1_000;
const BATCH: usize = 50;

/// So many jobs are acknowledged before the next kill, about.
const JOBS_A_KILL: f64 = 250.0;

/// One in so many fails each time.
const FAILING: usize = 40;

const WORKERS: usize = 2;

/// The longest that everything may take to come to an end after the last kill, on a machine that is busy: the broker gives what a
/// killed runner held to another after 30 s.
const END_MAX: Duration = Duration::from_mins(4);

/// Killed one in so many times each.
const VICTIMS: [&str; 4] = ["jobs", "worker", "nats-server", "worker"];

/// Worker processes that have their effects in a folder.
struct Workers<'a> {
    platform: &'a Platform,
    folder: PathBuf,
    processes: Vec<Child>,
    started: usize,
}

impl<'a> Workers<'a> {
    async fn start(platform: &'a Platform) -> Workers<'a> {
        let folder = platform.folder().join("work");
        std::fs::create_dir_all(folder.join("effects")).unwrap();
        std::fs::create_dir_all(folder.join("runs")).unwrap();
        let mut workers = Workers { platform, folder, processes: Vec::new(), started: 0 };
        for _ in 0..WORKERS {
            let process = workers.one_more().await;
            workers.processes.push(process);
        }
        workers
    }

    async fn one_more(&mut self) -> Child {
        self.started += 1;
        let (effects, runs) = (self.folder.join("effects"), self.folder.join(format!("runs/{}", self.started)));
        let arguments = ["load", "add", effects.to_str().unwrap(), runs.to_str().unwrap()];
        python::start(&self.platform.cache(), &self.platform.user("worker"), "effects_worker.py", &arguments).await
    }

    /// Kills one, and has another begin in its place.
    async fn kill(&mut self, which: usize) {
        self.processes[which].kill().await.unwrap();
        self.processes[which] = self.one_more().await;
    }

    /// Those that went by themselves, since the broker was not there when they came, begin anew.
    async fn revive(&mut self) {
        for which in 0..self.processes.len() {
            if self.processes[which].try_wait().unwrap().is_some() {
                self.processes[which] = self.one_more().await;
            }
        }
    }

    fn effects(&self) -> BTreeSet<String> {
        let files = std::fs::read_dir(self.folder.join("effects")).unwrap();
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn runs(&self) -> BTreeMap<String, usize> {
        let mut runs = BTreeMap::new();
        for file in std::fs::read_dir(self.folder.join("runs")).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            text.lines().for_each(|id| *runs.entry(id.to_owned()).or_default() += 1);
        }
        runs
    }
}

#[tokio::test]
async fn kills_at_random_points_lose_no_job_and_double_no_effect() {
    let jobs = number("FAULTS_JOBS").unwrap_or(JOBS);
    let seed = number("FAULTS_SEED").unwrap_or_else(|| u64::from_le_bytes(Random::system().bytes()));
    say(&format!("{jobs} jobs with FAULTS_SEED={seed}"));
    let random = Random::seeded(seed);
    let platform = Setup::new().own_servers().start().await;
    let mut workers = Workers::start(&platform).await;
    let began = Instant::now();
    let acknowledged = AtomicUsize::new(0);

    // Half of them over the API, half of them straight into the stream.
    let half = jobs / 2 / BATCH * BATCH;
    let submitting = async {
        tokio::join!(submit(&platform, 0..half, &acknowledged), publish(&platform, half..jobs, &acknowledged));
    };
    let killing = async {
        let mut next = 0.0;
        loop {
            next += JOBS_A_KILL * (0.5 + random.fraction());
            // Those who submit have a bound, and it may be that none of what is left to them reaches this number.
            wait::within(Duration::MAX, "jobs are acknowledged", async || {
                #[expect(clippy::cast_precision_loss, reason = "some thousands")]
                let is_time = acknowledged.load(Ordering::Relaxed) as f64 >= next;
                is_time.then_some(())
            })
            .await;
            tokio::time::sleep(Duration::from_secs_f64(random.fraction())).await;
            let victim = VICTIMS[u64::from_le_bytes(random.bytes()) as usize % VICTIMS.len()];
            if victim == "worker" {
                workers.kill(u64::from_le_bytes(random.bytes()) as usize % WORKERS).await;
            } else {
                // One that is just being started again cannot be killed.
                _ = platform.process(victim, 1).signal(Signal::KILL).await;
            }
            workers.revive().await;
            say(&format!("{victim} was killed, {} are acknowledged", acknowledged.load(Ordering::Relaxed)));
        }
    };
    tokio::select! {
        () = submitting => {}
        () = killing => {}
    }
    for service in ["jobs", "nats-server"] {
        platform.process(service, 1).ready(wait::WAIT_MAX).await.expect("it is started again");
    }
    say(&format!("all are acknowledged after {:?}", began.elapsed()));

    let ids: BTreeSet<String> = (0..jobs).map(id).collect();
    let failing: BTreeSet<String> = (0..jobs).filter(|n| fails(*n)).map(id).collect();
    let mut database = platform.superuser().await;
    wait::within(END_MAX, "every job has ended", async || {
        workers.revive().await;
        let ended = "SELECT count(*) FROM jobs.jobs WHERE queue = 'load' AND finished_at IS NOT NULL";
        let ended: i64 = sqlx::query_scalar(ended).fetch_one(&mut database).await.unwrap();
        (usize::try_from(ended).unwrap() >= jobs).then_some(())
    })
    .await;
    let runs = workers.runs();
    say(&format!(
        "{} runs of {} jobs, all ended after {:?}",
        runs.values().sum::<usize>(),
        runs.len(),
        began.elapsed()
    ));
    let ended: BTreeMap<String, String> = sqlx::query_as("SELECT id, state FROM jobs.jobs WHERE queue = 'load'")
        .fetch_all(&mut database)
        .await
        .unwrap()
        .into_iter()
        .collect();
    assert_eq!(
        ended.keys().cloned().collect::<BTreeSet<_>>(),
        ids,
        "the history has every acknowledged job and no other"
    );
    let wrong: Vec<_> = ended
        .iter()
        .filter(|(id, state)| **state != if failing.contains(*id) { "DEAD_LETTER" } else { "SUCCEEDED" })
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    let effects = workers.effects();
    assert_eq!(&effects | &failing, ids, "each had its effect");
    assert!(effects.is_disjoint(&failing), "what fails has none");
    wait::until("dead letters agree with the history", async || {
        let letters = "SELECT id FROM jobs.dead_letters WHERE queue = 'load' ORDER BY id";
        let letters: Vec<String> = sqlx::query_scalar(letters).fetch_all(&mut database).await.unwrap();
        letters.into_iter().eq(failing.iter().cloned()).then_some(())
    })
    .await;
    let ops = platform.user("ops").connect().await.client;
    wait::until("the queue agrees with the history", async || {
        let mut left = 0;
        for (stream, filter) in [("JOBS", "jobs.load.>"), ("SCHEDULES", "schedules.retry.jobs.load.>")] {
            let request = json!({ "subjects_filter": filter }).to_string();
            let answer = ops.request(format!("$JS.API.STREAM.INFO.{stream}"), request.into()).await.ok()?;
            let info: Value = serde_json::from_slice(&answer.payload).ok()?;
            left += info["state"]["subjects"].as_object().map_or(0, serde_json::Map::len);
        }
        (left == 0).then_some(())
    })
    .await;
}

fn id(n: usize) -> String {
    format!("n-{n}")
}

fn fails(n: usize) -> bool {
    n % FAILING == FAILING - 1
}

/// A worker that was killed costs an attempt, so those that are to succeed have many.
fn attempts(n: usize) -> u32 {
    if fails(n) { 2 } else { 500 }
}

/// Until each is acknowledged: an answer that does not come leaves open whether the jobs are there.
async fn submit(platform: &Platform, numbers: std::ops::Range<usize>, acknowledged: &AtomicUsize) {
    let admin = platform.admin().await;
    for batch in numbers.step_by(BATCH) {
        let list: Vec<Value> = (batch..batch + BATCH)
            .map(|n| {
                json!({ "queue": "load", "kind": "add", "args": { "fails": fails(n) }, "idempotencyKey": id(n),
                        "backoffBaseMs": 100, "timeoutMs": 5_000, "maxAttempts": attempts(n) })
            })
            .collect();
        let jobs = json!({ "jobs": list });
        wait::within(END_MAX, "a batch is acknowledged", async || {
            (admin.post("/api/v1/jobs/batch", &jobs).await.status == 202).then_some(())
        })
        .await;
        acknowledged.fetch_add(BATCH, Ordering::Relaxed);
    }
}

/// The same, by the acknowledgement of the stream.
async fn publish(platform: &Platform, numbers: std::ops::Range<usize>, acknowledged: &AtomicUsize) {
    let producer = platform.user("producer").connect().await;
    for n in numbers {
        let (id, attempts, args) =
            (format!("load.add:{}", id(n)), attempts(n).to_string(), json!({ "fails": fails(n) }));
        let headers = [
            ("Nats-Msg-Id", id.as_str()),
            ("Job-Backoff-Base-Ms", "100"),
            ("Job-Timeout-Ms", "5000"),
            ("Job-Max-Attempts", &attempts),
        ];
        wait::within(END_MAX, "a job is acknowledged", async || {
            let answer = jobs::publish(&producer, "jobs.load.add", &headers, &args.to_string()).await?;
            answer["error"].is_null().then_some(())
        })
        .await;
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_job_that_takes_its_process_down_each_time_is_given_up_and_its_neighbours_run_on() {
    let platform = Setup::new().own_servers().start().await;
    let admin = platform.admin().await;
    let ops = platform.user("ops").connect().await;
    let mut watch = Watch::open(&ops).await;
    // The broker's patience in place of 30 s; the runner tells it every 10 s that it holds a job.
    patience(&platform, "normal_diagnostics", Duration::from_secs(12)).await;
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

#[tokio::test]
async fn a_kill_takes_the_only_attempt_of_what_ran_and_of_nothing_else() {
    let platform = Setup::new().own_servers().start().await;
    let admin = platform.admin().await;
    let mut database = platform.superuser().await;
    for consumer in ["normal_diagnostics", "low_diagnostics"] {
        patience(&platform, consumer, Duration::from_secs(12)).await;
    }
    // As many as run at once, and behind them one of another priority, which is taken all the same.
    let sleep = json!({ "queue": "diagnostics", "kind": "sleep", "args": { "ms": 60_000 }, "maxAttempts": 1 });
    let busy: Vec<Value> = (0..100).map(|_| sleep.clone()).collect();
    let busy = admin.post("/api/v1/jobs/batch", &json!({ "jobs": busy })).await.json(202);
    wait::until("it is noted that they run", async || {
        let noted: i64 =
            sqlx::query_scalar("SELECT count(*) FROM jobs.job_ledger").fetch_one(&mut database).await.unwrap();
        (noted >= 100).then_some(())
    })
    .await;
    let echo = json!({ "queue": "diagnostics", "kind": "echo", "priority": "LOW", "maxAttempts": 1 });
    let echo = jobs::submit(&admin, &echo).await;
    wait::until("it is taken", async || {
        let queue = admin.get("/api/v1/queues/diagnostics").await.json(200);
        (queue["running"] == 101).then_some(())
    })
    .await;

    kill(&platform, "jobs").await;

    let job = jobs::job_in_within(&admin, &echo, "SUCCEEDED", END_MAX).await;
    assert_eq!((&job["attempt"], &job["errors"]), (&json!(1), &json!([])), "{job}");
    for result in busy["results"].as_array().unwrap() {
        let id = result["jobId"].as_str().unwrap();
        let job = jobs::job_in_within(&admin, id, "DEAD_LETTER", END_MAX).await;
        assert_eq!(job["attempt"], 1);
    }
}

#[tokio::test]
async fn a_key_whose_runner_was_killed_is_free_again() {
    let platform = Setup::new().own_servers().start().await;
    let admin = platform.admin().await;
    let worker = platform.user("worker").connect().await;
    let mut work = worker.client.queue_subscribe("work.keyed.call", "workers".into()).await.unwrap();
    worker.client.flush().await.unwrap();
    let call = json!({ "queue": "keyed", "kind": "call", "concurrencyKey": "one" });

    let first = jobs::submit(&admin, &call).await;
    work.next().await.expect("connected");
    let second = jobs::submit(&admin, &call).await;
    jobs::job_in(&admin, &second, "WAITING").await;
    kill(&platform, "jobs").await;

    for _ in 0..2 {
        let request = tokio::time::timeout(END_MAX, work.next()).await.expect("the key is free").expect("connected");
        let other = tokio::time::timeout(Duration::from_millis(300), work.next()).await;
        assert!(other.is_err(), "one at a time: {other:?}");
        jobs::answer(&worker, &request, &[], "").await;
    }
    for id in [first, second] {
        let job = jobs::job_in_within(&admin, &id, "SUCCEEDED", END_MAX).await;
        assert_eq!(job["attempt"], 1, "{job}");
    }
}

#[tokio::test]
async fn unique_ids_outlive_the_store_of_the_broker_and_what_was_lost_with_it_is_run_again() {
    let platform = Setup::new().own_servers().start().await;
    let admin = platform.admin().await;
    let producer = platform.user("producer").connect().await;
    let worker = platform.user("worker").connect().await;
    let mut work = worker.client.queue_subscribe("work.once.call", "workers".into()).await.unwrap();
    worker.client.flush().await.unwrap();
    let store = async |id: &str| {
        let headers = [("Nats-Msg-Id", id), ("Job-Unique", "true")];
        wait::until("it is stored", async || {
            jobs::publish(&producer, "jobs.once.call", &headers, "{}").await?["error"].is_null().then_some(())
        })
        .await;
    };
    store("once.call:ended").await;
    let request = work.next().await.expect("connected");
    jobs::answer(&worker, &request, &[], "").await;
    jobs::job_in(&admin, "ended", "SUCCEEDED").await;
    store("once.call:open").await;
    let _unanswered = work.next().await.expect("connected");

    let folder = platform.stream_store();
    wait::until("the store is deleted", async || std::fs::remove_dir_all(&folder).ok()).await;
    kill(&platform, "nats-server").await;
    platform.make_streams().await;
    store("once.call:ended").await;
    store("once.call:open").await;

    let request = tokio::time::timeout(END_MAX, work.next()).await.expect("one is run again").expect("connected");
    assert_eq!(request.headers.as_ref().unwrap().get("Job-Id").unwrap().as_str(), "open");
    jobs::answer(&worker, &request, &[], "").await;
    jobs::job_in_within(&admin, "open", "SUCCEEDED", END_MAX).await;
    wait::until("the other is told apart", async || {
        (platform.metric("jobs", "outcome=\"duplicate\"").await >= 1.0).then_some(())
    })
    .await;
    let other = tokio::time::timeout(Duration::from_millis(300), work.next()).await;
    assert!(other.is_err(), "{other:?}");
}

async fn kill(platform: &Platform, name: &str) {
    let process = platform.process(name, 1);
    let before = process.state().starts;
    process.signal(Signal::KILL).await.unwrap();
    wait::until(&format!("{name} starts again"), async || (process.state().starts > before).then_some(())).await;
    process.ready(wait::WAIT_MAX).await.unwrap();
}

async fn patience(platform: &Platform, consumer: &str, ack_wait: Duration) {
    let provision = platform.user(subjects::broker::PROVISION).connect().await.client;
    let answer = provision.request(format!("$JS.API.CONSUMER.INFO.JOBS.{consumer}"), "".into()).await.unwrap();
    let mut config = serde_json::from_slice::<Value>(&answer.payload).unwrap()["config"].take();
    config["ack_wait"] = json!(u64::try_from(ack_wait.as_nanos()).unwrap());
    let request = json!({ "stream_name": "JOBS", "config": config, "action": "update" });
    let subject = format!("$JS.API.CONSUMER.CREATE.JOBS.{consumer}");
    let answer = provision.request(subject, request.to_string().into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer["error"].is_null(), "{answer}");
}
