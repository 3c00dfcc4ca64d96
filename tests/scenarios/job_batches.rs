//! Many jobs in one call: stored together, each with its own place, and each once.

use platform_tests::{Setup, jobs};
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

fn echo(key: &str) -> Value {
    json!({ "queue": "diagnostics", "kind": "echo", "args": { "key": key }, "idempotencyKey": key })
}

fn results(reply: &Value) -> Vec<(String, bool)> {
    let results = reply["results"].as_array().expect("one for each job");
    let result =
        |result: &Value| (result["jobId"].as_str().unwrap().to_owned(), result["duplicate"].as_bool().unwrap());
    results.iter().map(result).collect()
}
