//! Many jobs in one call: stored together, each with its own place, and each once.

use std::collections::BTreeSet;

use platform_tests::{Setup, jobs, wait};
use serde_json::{Value, json};

/// More than what is stored by itself one by one.
const MANY: usize = 20;

#[tokio::test]
async fn jobs_of_one_call_are_stored_together_and_each_is_cancelled_by_itself() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    admin.post("/api/v1/queues/diagnostics/pause", &json!({})).await.json(200);
    let keys: Vec<String> = (0..MANY).map(|number| format!("batch-{number}")).collect();
    let batch = json!({ "jobs": keys.iter().map(|key| echo(key)).collect::<Vec<_>>() });

    let first = admin.post("/api/v1/jobs/batch", &batch).await.json(202);
    let again = admin.post("/api/v1/jobs/batch", &batch).await.json(202);
    let cancelled = admin.post(&format!("/api/v1/jobs/{}/cancel", keys[7]), &json!({})).await.json(200);
    admin.post("/api/v1/queues/diagnostics/resume", &json!({})).await.json(200);

    let expected =
        |duplicate: bool| -> Vec<(String, bool)> { keys.iter().map(|key| (key.clone(), duplicate)).collect() };
    assert_eq!(results(&first), expected(false));
    assert_eq!(results(&again), expected(true));
    assert_eq!(cancelled["state"], "CANCELLED", "{cancelled}");
    for (number, key) in keys.iter().enumerate() {
        if number == 7 {
            jobs::job_in(&admin, key, "CANCELLED").await;
        } else {
            let job = jobs::job_in(&admin, key, "SUCCEEDED").await;
            assert_eq!((&job["result"], &job["attempt"]), (&json!({ "key": key }), &json!(1)));
        }
    }
}

#[tokio::test]
async fn jobs_of_one_call_that_are_known_already_do_not_keep_the_others() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let producer = platform.user("producer").connect().await;
    let stored =
        jobs::publish(&producer, "jobs.diagnostics.echo", &[("Nats-Msg-Id", "diagnostics.echo:known")], "{}").await;
    assert_eq!(stored.expect("acknowledged")["stream"], "JOBS");

    let mut keys: Vec<String> = (0..MANY).map(|number| format!("other-{number}")).collect();
    keys[3] = "known".to_owned();
    keys[9] = keys[8].clone();
    let batch = json!({ "jobs": keys.iter().map(|key| echo(key)).collect::<Vec<_>>() });
    let reply = admin.post("/api/v1/jobs/batch", &batch).await.json(202);

    let expected: Vec<(String, bool)> =
        keys.iter().enumerate().map(|(number, key)| (key.clone(), number == 3 || number == 9)).collect();
    assert_eq!(results(&reply), expected);
    for key in &keys {
        jobs::job_in(&admin, key, "SUCCEEDED").await;
    }
}

#[tokio::test]
async fn the_same_jobs_in_two_calls_at_once_are_new_in_one_of_them() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    for round in 0..3 {
        let keys: Vec<String> = (0..MANY).map(|number| format!("both-{round}-{number}")).collect();
        let forwards: Vec<Value> = keys.iter().map(|key| echo(key)).collect();
        // In another order, each call may hold what the other waits for.
        let backwards: Vec<Value> = forwards.iter().rev().cloned().collect();
        let (one, other) = (json!({ "jobs": forwards }), json!({ "jobs": backwards }));

        let (one, other) =
            tokio::join!(admin.post("/api/v1/jobs/batch", &one), admin.post("/api/v1/jobs/batch", &other));

        let new = |reply: &Value| -> Vec<String> {
            results(reply).into_iter().filter_map(|(key, duplicate)| (!duplicate).then_some(key)).collect()
        };
        let (one, other) = (new(&one.json(202)), new(&other.json(202)));
        let both: BTreeSet<&String> = one.iter().chain(&other).collect();
        assert_eq!((both.len(), one.len() + other.len()), (MANY, MANY), "{one:?} and {other:?}");
        for key in &keys {
            assert_eq!(jobs::job_in(&admin, key, "SUCCEEDED").await["attempt"], 1);
        }
    }
}

#[tokio::test]
async fn jobs_that_ended_are_forgotten_after_their_time_and_their_batches_with_them() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let keys: Vec<String> = (0..MANY).map(|number| format!("old-{number}")).collect();
    let batch = json!({ "jobs": keys.iter().map(|key| echo(key)).collect::<Vec<_>>() });
    admin.post("/api/v1/jobs/batch", &batch).await.json(202);
    for key in &keys {
        jobs::job_in(&admin, key, "SUCCEEDED").await;
    }
    let mut database = platform.superuser().await;
    let batches = "SELECT count(*) FROM jobs.batches WHERE sequence IS NOT NULL";
    let count: i64 = sqlx::query_scalar(batches).fetch_one(&mut database).await.unwrap();
    assert_eq!(count, 1, "it is noted where they began");

    // All but one are of last month; the one shows what is still to be kept.
    for age in [
        "UPDATE jobs.jobs SET created_at = created_at - interval '30 days'",
        "UPDATE jobs.jobs SET finished_at = finished_at - interval '30 days' WHERE id <> 'old-3'",
        "UPDATE jobs.batches SET created_at = created_at - interval '30 days'",
    ] {
        sqlx::query(age).execute(&mut database).await.unwrap();
    }
    let left = wait::until("those of last month are forgotten", async || {
        let left = sqlx::query_scalar("SELECT id FROM jobs.jobs WHERE id LIKE 'old-%'").fetch_all(&mut database).await;
        let left: Vec<String> = left.unwrap();
        (left.len() == 1).then_some(left)
    })
    .await;
    assert_eq!(left, ["old-3"]);
    admin.get("/api/v1/jobs/old-4").await.problem(404, "job_not_found");
    let count: i64 = sqlx::query_scalar(batches).fetch_one(&mut database).await.unwrap();
    assert_eq!(count, 1, "a batch is kept while one of its jobs is");

    sqlx::query("UPDATE jobs.jobs SET created_at = now(), finished_at = now()").execute(&mut database).await.unwrap();
    wait::until("the batch that none is left of is forgotten", async || {
        let count: i64 = sqlx::query_scalar(batches).fetch_one(&mut database).await.unwrap();
        (count == 0).then_some(())
    })
    .await;
    assert_eq!(admin.get("/api/v1/jobs/old-3").await.json(200)["state"], "SUCCEEDED");
}

fn echo(key: &str) -> Value {
    json!({ "queue": "diagnostics", "kind": "echo", "args": { "key": key }, "idempotencyKey": key })
}

fn results(reply: &Value) -> Vec<(String, bool)> {
    let results = reply["results"].as_array().expect("one for each job");
    let result =
        |result: &Value| (result["jobId"].as_str().unwrap().to_owned(), result["duplicate"].as_bool().unwrap());
    results.iter().map(result).collect()
}
