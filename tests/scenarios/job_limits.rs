//! What holds over all workers and instances of a queue: how many of its jobs run at once, how often they begin, one at a time
//! per key; and ids that stay unique when the broker has forgotten them.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::{Message, Subscriber};
use futures::StreamExt;
use platform_tests::{Platform, Setup, broker::Broker, http::Http, jobs, wait};
use serde_json::{Value, json};

/// Work that comes to a worker, answered when the test says so.
struct Bench {
    worker: Broker,
    work: Subscriber,
}

impl Bench {
    async fn open(platform: &Platform, subject: &str) -> Bench {
        let worker = platform.user("worker").connect().await;
        let work = worker.client.queue_subscribe(subject.to_owned(), "workers".into()).await.unwrap();
        worker.client.flush().await.unwrap();
        Bench { worker, work }
    }

    async fn next(&mut self) -> Message {
        tokio::time::timeout(wait::WAIT_MAX, self.work.next()).await.expect("work comes").expect("connected")
    }

    /// Whether something comes that should not; the longer the wait, the surer.
    async fn is_quiet(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(300), self.work.next()).await.is_err()
    }

    async fn done(&self, work: &Message) {
        jobs::answer(&self.worker, work, &[], "").await;
    }

    /// Answers at once whatever comes.
    fn serve(mut self) -> tokio::task::JoinHandle<()> {
        #[expect(clippy::disallowed_methods, reason = "a worker of the test's own")]
        tokio::spawn(async move {
            while let Some(message) = self.work.next().await {
                self.done(&message).await;
            }
        })
    }
}

async fn submit_many(admin: &Http, queue: &str, number: usize) -> Vec<String> {
    let list: Vec<Value> = (0..number).map(|n| json!({ "queue": queue, "kind": "call", "args": n })).collect();
    let reply = admin.post("/api/v1/jobs/batch", &json!({ "jobs": list })).await.json(202);
    let results = reply["results"].as_array().unwrap();
    results.iter().map(|result| result["jobId"].as_str().unwrap().to_owned()).collect()
}

async fn queue(admin: &Http, name: &str) -> Value {
    let queues = admin.get("/api/v1/queues").await.json(200);
    queues["items"].as_array().unwrap().iter().find(|queue| queue["name"] == name).cloned().unwrap_or_default()
}

fn micros(job: &Value, field: &str) -> i64 {
    let time = subjects::Timestamp::parse(job[field].as_str().unwrap_or_else(|| panic!("{field}: {job}"))).unwrap();
    time.seconds * 1_000_000 + i64::from(time.nanos / 1_000)
}

#[tokio::test]
async fn no_more_jobs_of_a_queue_run_at_once_than_it_says_over_all_instances() {
    let platform = Setup::new().instances("jobs", 2).start().await;
    let admin = platform.admin().await;
    admin.put("/api/v1/queues/narrow", &json!({ "concurrency": 3 })).await.json(200);
    let mut bench = Bench::open(&platform, "work.narrow.call").await;

    let mut open = submit_many(&admin, "narrow", 9).await.len();

    while open > 0 {
        let running = [bench.next().await, bench.next().await, bench.next().await];
        assert!(bench.is_quiet().await, "three run, and no fourth");
        for work in &running {
            bench.done(work).await;
        }
        open -= running.len();
    }
    wait::until("all have ended", async || {
        let queue = queue(&admin, "narrow").await;
        (queue["pending"] == 0 && queue["running"] == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_queues_concurrency_is_one_for_all_priorities_and_comes_back_from_runners_that_were_killed() {
    let platform = Setup::new().instances("jobs", 2).start().await;
    let admin = platform.admin().await;
    admin.put("/api/v1/queues/strict", &json!({ "concurrency": 2 })).await.json(200);
    let mut bench = Bench::open(&platform, "work.strict.call").await;
    let mut ids = Vec::new();
    for n in 0..4 {
        for priority in ["LOW", "NORMAL", "HIGH"] {
            let job = json!({ "queue": "strict", "kind": "call", "args": n, "priority": priority });
            ids.push(jobs::submit(&admin, &job).await);
        }
    }

    for _ in 0..3 {
        let running = [bench.next().await, bench.next().await];
        assert!(bench.is_quiet().await, "two run, and no third");
        for work in &running {
            bench.done(work).await;
            // Else it may be that nobody was told when its runner is killed, and that it runs again.
            let id = work.headers.as_ref().unwrap().get("Job-Id").unwrap().as_str();
            jobs::job_in(&admin, id, "SUCCEEDED").await;
        }
    }
    for _ in 0..2 {
        bench.next().await;
    }
    // An acknowledgement that dies with its runner has a job run once more than is counted here.
    wait::until("the broker has heard of all that ended", async || {
        let queue = queue(&admin, "strict").await;
        (queue["pending"].as_u64()? + queue["running"].as_u64()? == 6).then_some(())
    })
    .await;
    for instance in 1..=2 {
        platform.process("jobs", instance).kill().await.unwrap();
    }
    for instance in 1..=2 {
        platform.process("jobs", instance).start().await.unwrap();
    }

    // Four have not begun, and two are given to somebody else when their runner has not been heard of.
    for _ in 0..3 {
        let running = [bench.next().await, bench.next().await];
        assert!(bench.is_quiet().await, "two run, and no third");
        for work in &running {
            bench.done(work).await;
        }
    }
    for id in &ids {
        jobs::job_in(&admin, id, "SUCCEEDED").await;
    }
}

#[tokio::test]
async fn jobs_that_run_count_when_a_queue_is_given_another_concurrency() {
    let platform = Setup::new().instances("jobs", 2).start().await;
    let admin = platform.admin().await;
    admin.put("/api/v1/queues/changed", &json!({ "concurrency": 2 })).await.json(200);
    let mut bench = Bench::open(&platform, "work.changed.call").await;
    let ids = submit_many(&admin, "changed", 6).await;

    let mut running = vec![bench.next().await, bench.next().await];
    admin.put("/api/v1/queues/changed", &json!({ "concurrency": 3 })).await.json(200);
    running.push(bench.next().await);
    assert!(bench.is_quiet().await, "three run, and no fourth");
    admin.put("/api/v1/queues/changed", &json!({ "concurrency": 1 })).await.json(200);
    let mut database = platform.superuser().await;
    wait::until("there is no room for another", async || {
        let slots = "SELECT slots FROM jobs.job_slots WHERE queue = 'changed' AND takes";
        let slots: Option<i32> = sqlx::query_scalar(slots).fetch_optional(&mut database).await.unwrap();
        (slots == Some(0)).then_some(())
    })
    .await;
    for work in &running {
        bench.done(work).await;
    }
    for _ in 0..3 {
        let work = bench.next().await;
        assert!(bench.is_quiet().await, "one runs, and no second");
        bench.done(&work).await;
    }

    for id in &ids {
        let job = jobs::job_in(&admin, id, "SUCCEEDED").await;
        assert_eq!(job["attempt"], 1, "{job}");
    }
}

#[tokio::test]
async fn jobs_of_a_queue_begin_no_more_often_than_its_rate_over_all_instances() {
    const RATE: i64 = 20;
    const BURST: i64 = 5;
    // What each instance may have let go and not begun when the machine stood still.
    const UNDER_WAY: i64 = 4;
    let platform = Setup::new().instances("jobs", 2).start().await;
    let admin = platform.admin().await;
    let declared = admin.put("/api/v1/queues/paced", &json!({ "ratePerSecond": RATE, "rateBurst": BURST })).await;
    let declared = declared.json(200);
    assert_eq!((declared["ratePerSecond"].as_f64(), &declared["rateBurst"]), (Some(20.0), &json!(BURST)));
    let _serving = Bench::open(&platform, "work.paced.call").await.serve();

    let ids = submit_many(&admin, "paced", 80).await;

    let mut began = Vec::new();
    for id in &ids {
        began.push(micros(&jobs::job_in(&admin, id, "SUCCEEDED").await, "startedAt"));
    }
    began.sort_unstable();
    for (first, from) in began.iter().enumerate() {
        for (last, to) in began.iter().enumerate().skip(first) {
            let number = i64::try_from(last - first + 1).unwrap();
            let beyond = number - BURST - UNDER_WAY;
            assert!(beyond * 1_000_000 <= RATE * (to - from + 1_000_000), "{number} in {} us: {began:?}", to - from);
        }
    }
}

#[tokio::test]
async fn a_queue_with_a_low_rate_holds_next_to_nothing_and_goes_on_at_once_when_it_is_raised() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    admin.put("/api/v1/queues/slow", &json!({ "ratePerSecond": 0.001 })).await.json(200);
    let mut bench = Bench::open(&platform, "work.slow.call").await;

    let ids = submit_many(&admin, "slow", 20).await;

    let first = bench.next().await;
    bench.done(&first).await;
    wait::until("the others wait in the queue", async || {
        let queue = queue(&admin, "slow").await;
        // One is taken, and one more may lie ready.
        (queue["pending"].as_u64()? >= 17).then_some(())
    })
    .await;
    assert!(bench.is_quiet().await, "the next is due in a quarter of an hour");
    let listed = admin.get("/api/v1/dead-letters?queue=slow").await.json(200);
    assert_eq!(listed["items"], json!([]));

    let _serving = bench.serve();
    admin.put("/api/v1/queues/slow", &json!({})).await.json(200);
    for id in &ids {
        let job = jobs::job_in(&admin, id, "SUCCEEDED").await;
        assert_eq!((&job["attempt"], &job["errors"]), (&json!(1), &json!([])));
    }
    assert_eq!(queue(&admin, "slow").await.get("ratePerSecond"), None, "it is limited no more");

    for (settings, pointer) in [
        (json!({ "ratePerSecond": -1 }), "/ratePerSecond"),
        (json!({ "ratePerSecond": 10_001 }), "/ratePerSecond"),
        (json!({ "ratePerSecond": "NaN" }), "/ratePerSecond"),
        (json!({ "rateBurst": 5 }), "/ratePerSecond"),
        (json!({ "ratePerSecond": 1, "rateBurst": 10_001 }), "/rateBurst"),
    ] {
        let problem = admin.put("/api/v1/queues/slow", &settings).await.problem(422, "validation_failed");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
}

#[tokio::test]
async fn of_the_jobs_with_one_key_one_runs_at_a_time_and_the_others_wait_without_an_attempt() {
    let platform = Setup::new().instances("jobs", 2).start().await;
    let admin = platform.admin().await;
    let producer = platform.user("producer").connect().await;
    // More of one key than the queue runs at once: they would stop it if they held their places.
    admin.put("/api/v1/queues/keyed", &json!({ "concurrency": 3 })).await.json(200);
    let mut bench = Bench::open(&platform, "work.keyed.call").await;
    let call =
        |args: Value, key: &str| json!({ "queue": "keyed", "kind": "call", "args": args, "concurrencyKey": key });

    let mut waiting = Vec::new();
    for n in 0..6 {
        waiting.push(jobs::submit(&admin, &call(json!({ "key": "a", "n": n }), "customer/a")).await);
    }
    let published = [("Nats-Msg-Id", "keyed.call:straight"), ("Job-Concurrency-Key", "customer/a")];
    jobs::publish(&producer, "jobs.keyed.call.high", &published, r#"{"key":"a","n":6}"#).await.unwrap();
    waiting.push("straight".to_owned());
    let of =
        |work: &Message| serde_json::from_slice::<Value>(&work.payload).unwrap()["key"].as_str().unwrap().to_owned();
    let mut running: BTreeMap<String, Message> = BTreeMap::new();
    let first = bench.next().await;
    running.insert(of(&first), first);
    let other = jobs::submit(&admin, &call(json!({ "key": "b" }), "customer/b")).await;
    let free = jobs::submit(&admin, &json!({ "queue": "keyed", "kind": "call", "args": { "key": "none" } })).await;
    for _ in 0..2 {
        let next = bench.next().await;
        assert!(running.insert(of(&next), next).is_none(), "one of each");
    }
    assert_eq!(running.keys().collect::<Vec<_>>(), ["a", "b", "none"]);
    let holder = running["a"].headers.as_ref().unwrap().get("Job-Id").unwrap().to_string();
    waiting.retain(|id| *id != holder);
    for id in &waiting {
        let job = jobs::job_in(&admin, id, "WAITING").await;
        assert_eq!((&job["attempt"], &job["errors"]), (&json!(1), &json!([])));
    }
    assert!(bench.is_quiet().await, "the key is taken");

    // One that waits is cancelled at once, and does not come any more.
    let cancelled = waiting.pop().unwrap();
    let job = admin.post(&format!("/api/v1/jobs/{cancelled}/cancel"), &json!({})).await.json(200);
    assert_eq!(job["state"], "CANCELLED", "{job}");

    for key in ["b", "none"] {
        bench.done(&running[key]).await;
    }
    let mut at_work = running.remove("a").unwrap();
    for _ in 0..waiting.len() {
        assert!(bench.is_quiet().await, "one at a time");
        bench.done(&at_work).await;
        at_work = bench.next().await;
        assert_eq!(of(&at_work), "a");
    }
    bench.done(&at_work).await;

    for id in waiting.iter().chain([&holder, &other, &free]) {
        let job = jobs::job_in(&admin, id, "SUCCEEDED").await;
        assert_eq!((&job["attempt"], &job["errors"]), (&json!(1), &json!([])), "{job}");
    }
    assert_eq!(admin.get(&format!("/api/v1/jobs/{cancelled}")).await.json(200)["state"], "CANCELLED");
    let mut database = platform.superuser().await;
    wait::until("nothing is left of it", async || {
        let left = "SELECT (SELECT count(*) FROM jobs.job_keys) + (SELECT count(*) FROM jobs.job_waiting)";
        let left: i64 = sqlx::query_scalar(left).fetch_one(&mut database).await.unwrap();
        (left == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_id_that_asks_for_it_stays_unique_when_the_broker_has_forgotten_it() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let producer = platform.user("producer").connect().await;
    let work = Bench::open(&platform, "work.once.call").await;
    forget_ids_soon(&platform).await;
    let runs = work.count();
    let unique = [("Nats-Msg-Id", "once.call:invoice-7"), ("Job-Unique", "true")];
    let plain = [("Nats-Msg-Id", "once.call:plain")];

    for headers in [&unique[..], &plain] {
        stored(&producer, headers).await;
        jobs::job_in(&admin, headers[0].1.split_once(':').unwrap().1, "SUCCEEDED").await;
        stored(&producer, headers).await;
    }

    wait::until("the second is told apart", async || {
        (platform.metric("jobs", "outcome=\"duplicate\"").await >= 1.0).then_some(())
    })
    .await;
    wait::until("one of the two ran again", async || (runs.borrow().get("plain") == Some(&2)).then_some(())).await;
    wait::until("nothing is left", async || {
        let queue = queue(&admin, "once").await;
        (queue["pending"] == 0 && queue["running"] == 0).then_some(())
    })
    .await;
    assert_eq!(runs.borrow().get("invoice-7"), Some(&1), "the other did not");
    let job = jobs::job_in(&admin, "invoice-7", "SUCCEEDED").await;
    assert_eq!(job["attempt"], 1);

    // An id has to be there to be unique.
    jobs::publish(&producer, "jobs.once.call", &[("Job-Unique", "true")], "{}").await.unwrap();
    wait::until("it is given up", async || {
        let letters = admin.get("/api/v1/dead-letters?queue=once&reason=UNDECODABLE").await.json(200);
        let letter = letters["items"].as_array().unwrap().first().cloned()?;
        letter["error"].as_str().unwrap().contains("Job-Unique").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_unique_job_that_was_lost_with_the_end_of_the_stream_is_run_when_it_is_sent_again() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let producer = platform.user("producer").connect().await;
    let mut database = platform.superuser().await;
    let runs = Bench::open(&platform, "work.once.call").await.count();
    // Noted behind the end that the stream has now, one that ended and one that did not.
    let noted = "INSERT INTO jobs.job_ids (queue, kind, job_id, published_at, sequence, ended_at) \
                 VALUES ('once', 'call', 'ended', clock_timestamp(), 1000000, clock_timestamp()), \
                        ('once', 'call', 'open', clock_timestamp(), 1000001, NULL)";
    sqlx::query(noted).execute(&mut database).await.unwrap();

    for id in ["once.call:ended", "once.call:open"] {
        let headers = [("Nats-Msg-Id", id), ("Job-Unique", "true")];
        jobs::publish(&producer, "jobs.once.call", &headers, "{}").await.unwrap();
    }

    jobs::job_in(&admin, "open", "SUCCEEDED").await;
    wait::until("the other is told apart", async || {
        (platform.metric("jobs", "outcome=\"duplicate\"").await >= 1.0).then_some(())
    })
    .await;
    assert_eq!((runs.borrow().get("open"), runs.borrow().get("ended")), (Some(&1), None));
}

#[tokio::test]
async fn a_job_that_waits_for_its_key_expires_while_the_key_is_taken() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let mut bench = Bench::open(&platform, "work.keyed.call").await;
    let mut call = json!({ "queue": "keyed", "kind": "call", "concurrencyKey": "one" });
    let first = jobs::submit(&admin, &call).await;
    let work = bench.next().await;
    let last = jobs::submit(&admin, &call).await;
    call["expiresAt"] =
        json!(subjects::Timestamp::from(kernel::Clock::system().now() + chrono::TimeDelta::seconds(20)));

    let expiring = jobs::submit(&admin, &call).await;
    jobs::job_in(&admin, &expiring, "WAITING").await;

    jobs::job_in(&admin, &expiring, "DEAD_LETTER").await;
    jobs::job_in(&admin, &last, "WAITING").await;
    bench.done(&work).await;
    let work = bench.next().await;
    bench.done(&work).await;
    for id in [first, last] {
        jobs::job_in(&admin, &id, "SUCCEEDED").await;
    }
}

#[tokio::test]
async fn dead_letters_go_back_by_queue_at_a_rate_and_those_that_fail_again_do_not_go_back_twice() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let fails = |n: u32| json!({ "queue": "diagnostics", "kind": "fail", "args": { "attempts": 9 }, "maxAttempts": 1, "idempotencyKey": format!("f-{n}") });
    for n in 0..5 {
        jobs::submit(&admin, &fails(n)).await;
    }
    let letters = wait::until("five are given up", async || {
        let letters = admin.get("/api/v1/dead-letters?queue=diagnostics").await.json(200)["items"].as_array()?.clone();
        (letters.len() == 5).then_some(letters)
    })
    .await;
    for n in 0..5 {
        jobs::job_in(&admin, &format!("f-{n}"), "DEAD_LETTER").await;
    }
    let mut before = letters
        .iter()
        .map(|letter| subjects::Timestamp::parse(letter["failedAt"].as_str().unwrap()).unwrap())
        .max_by_key(|time| (time.seconds, time.nanos))
        .unwrap();
    before.nanos += 1_000;
    let which = json!({ "queue": "diagnostics", "kind": "fail", "ratePerSecond": 2, "failedBefore": before });

    let nothing = admin.post("/api/v1/dead-letters/replay", &json!({ "queue": "other" })).await.json(200);
    let asked = kernel::Clock::system().now().timestamp_micros();
    let replayed = admin.post("/api/v1/dead-letters/replay", &which).await.json(200);

    assert_eq!((&nothing["replayed"], &nothing["remaining"]), (&json!(0), &json!(0)));
    assert_eq!((&replayed["replayed"], &replayed["remaining"]), (&json!(5), &json!(0)));
    let mut began = Vec::new();
    for n in 0..5 {
        let id = format!("f-{n}");
        wait::until("it is given up again", async || {
            let letter = admin.get(&format!("/api/v1/dead-letters/{id}")).await;
            (letter.status == 200).then_some(())
        })
        .await;
        began.push(micros(&jobs::job_in(&admin, &id, "DEAD_LETTER").await, "startedAt"));
    }
    began.sort_unstable();
    // Each has its own time, half a second behind the one before; none begins before its time, and any may be late.
    for (began, due) in began.iter().zip((asked..).step_by(500_000)) {
        assert!(*began >= due, "{began} before {due}");
    }
    let again = admin.post("/api/v1/dead-letters/replay", &which).await.json(200);
    assert_eq!(again["replayed"].as_u64().unwrap() + again["remaining"].as_u64().unwrap(), 0, "{again}");
    let faults = admin.post("/api/v1/dead-letters/replay", &json!({ "ratePerSecond": 1_001 })).await;
    faults.problem(422, "validation_failed");
}

impl Bench {
    /// Answers at once whatever comes, and counts it by the job's id.
    fn count(mut self) -> tokio::sync::watch::Receiver<BTreeMap<String, usize>> {
        let (counted, runs) = tokio::sync::watch::channel(BTreeMap::new());
        #[expect(clippy::disallowed_methods, reason = "a worker of the test's own")]
        tokio::spawn(async move {
            while let Some(message) = self.work.next().await {
                let id = message.headers.as_ref().unwrap().get("Job-Id").unwrap().to_string();
                counted.send_modify(|counted| *counted.entry(id).or_default() += 1);
                self.done(&message).await;
            }
        });
        runs
    }
}

/// Publishes until it is stored, and not known any more.
async fn stored(producer: &Broker, headers: &[(&str, &str)]) {
    wait::until("it is stored", async || {
        let answer = jobs::publish(producer, "jobs.once.call", headers, "{}").await?;
        answer["duplicate"].is_null().then_some(())
    })
    .await;
}

/// Has the broker forget ids after 100 ms in place of two minutes.
async fn forget_ids_soon(platform: &Platform) {
    let provision = platform.user(subjects::broker::PROVISION).connect().await.client;
    let answer = provision.request("$JS.API.STREAM.INFO.JOBS", "".into()).await.unwrap();
    let mut config = serde_json::from_slice::<Value>(&answer.payload).unwrap()["config"].take();
    config["duplicate_window"] = json!(100_000_000);
    let answer = provision.request("$JS.API.STREAM.UPDATE.JOBS", config.to_string().into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer["error"].is_null(), "{answer}");
}
