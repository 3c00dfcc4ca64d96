//! Scenario 9: Created → Pending → Running → Succeeded, or Failed → RetryScheduled → Pending again when its time has come;
//! after the last attempt → DeadLetter. State by state, with the real times of the backoff.

use platform_tests::{Setup, jobs, jobs::Watch, wait};
use serde_json::{Value, json};

fn millis(told: &Value, field: &str) -> i64 {
    let time = told[field].as_str().unwrap_or_else(|| panic!("{field}: {told}"));
    subjects::Timestamp::parse(time).map(|time| time.seconds * 1_000 + i64::from(time.nanos) / 1_000_000).unwrap()
}

#[tokio::test]
async fn a_job_that_fails_is_tried_again_at_growing_intervals_until_it_succeeds() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let ops = platform.user("ops").connect().await;
    let mut watch = Watch::open(&ops).await;

    let fails = json!({ "queue": "diagnostics", "kind": "fail", "args": { "attempts": 2 }, "backoffBaseMs": 400 });
    let id = jobs::submit(&admin, &fails).await;
    watch.until(&id, "SUCCEEDED").await;

    let states = watch.states(&id);
    let retried = ["RUNNING", "FAILED", "RETRY_SCHEDULED"];
    let told: Vec<&str> = states.iter().map(String::as_str).filter(|state| *state != "PENDING").collect();
    assert_eq!(told, [&retried[..], &retried, &["RUNNING", "SUCCEEDED"]].concat());
    assert!(states.contains(&"PENDING".to_owned()), "{states:?}");
    let of = |state: &str| -> Vec<&Value> {
        watch.seen.iter().filter(|told| told["jobId"] == id && told["state"] == state).collect()
    };
    for (attempt, (put_off, next)) in
        of("RETRY_SCHEDULED").into_iter().zip(of("RUNNING").into_iter().skip(1)).enumerate()
    {
        let pause = millis(put_off, "runAt") - millis(put_off, "at");
        let longest = 400 * 2_i64.pow(u32::try_from(attempt).unwrap());
        assert!((-50..=longest).contains(&pause), "attempt {}: {pause} ms of {longest}", attempt + 1);
        assert!(millis(next, "startedAt") >= millis(put_off, "runAt"), "not before its time: {put_off} {next}");
    }
    let job = jobs::job_in(&admin, &id, "SUCCEEDED").await;
    assert_eq!(
        (&job["attempt"], &job["maxAttempts"], &job["result"]),
        (&json!(3), &json!(10), &json!({ "attempt": 3 }))
    );
    let errors: Vec<_> =
        job["errors"].as_array().unwrap().iter().map(|error| error["attempt"].as_u64().unwrap()).collect();
    assert_eq!(errors, [1, 2]);
    assert_eq!(job["args"], json!({ "attempts": 2 }));
}

#[tokio::test]
async fn after_the_last_attempt_a_job_is_a_dead_letter_and_can_be_put_back() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let fails = json!({ "queue": "diagnostics", "kind": "fail", "args": { "attempts": 5 }, "maxAttempts": 2, "backoffBaseMs": 100 });

    let id = jobs::submit(&admin, &fails).await;

    let job = jobs::job_in(&admin, &id, "DEAD_LETTER").await;
    assert_eq!((&job["attempt"], job["errors"].as_array().unwrap().len()), (&json!(2), 2));
    let letter = wait::until("the letter is listed", async || {
        let letters = admin.get("/api/v1/dead-letters?queue=diagnostics&reason=EXHAUSTED").await.json(200);
        letters["items"].as_array().unwrap().iter().find(|letter| letter["id"] == id.as_str()).cloned()
    })
    .await;
    assert_eq!((&letter["reason"], &letter["attempt"]), (&json!("EXHAUSTED"), &json!(2)));
    let shown = admin.get(&format!("/api/v1/dead-letters/{id}")).await.json(200);
    assert_eq!((&shown["args"], &shown["headers"]["Job-Max-Attempts"]), (&json!({ "attempts": 5 }), &json!("2")));
    assert_eq!(shown["errors"].as_array().unwrap().len(), 2);
    let entry =
        platform.audit_entry(&admin, "jobs.job.dead_lettered", |entry| entry["target"]["id"] == id.as_str()).await;
    assert_eq!(entry["details"]["reason"], "EXHAUSTED");

    // Put back, it has its attempts anew, and fails again.
    let put_back = admin.post(&format!("/api/v1/dead-letters/{id}/replay"), &json!({})).await.json(200);
    assert_eq!((&put_back["state"], &put_back["attempt"]), (&json!("PENDING"), &json!(0)));
    let job = jobs::job_in(&admin, &id, "DEAD_LETTER").await;
    assert_eq!((&job["attempt"], job["errors"].as_array().unwrap().len()), (&json!(2), 4));
    wait::until("there is a letter again", async || {
        (admin.get(&format!("/api/v1/dead-letters/{id}")).await.status == 200).then_some(())
    })
    .await;

    // Purging says what it is to purge.
    admin.delete("/api/v1/dead-letters").await.problem(422, "validation_failed");
    assert_eq!(admin.delete("/api/v1/dead-letters?queue=other").await.json(200)["purged"], 0);
    assert!(admin.delete("/api/v1/dead-letters?queue=diagnostics").await.json(200)["purged"].as_u64().unwrap() >= 1);
    admin.get(&format!("/api/v1/dead-letters/{id}")).await.problem(404, "dead_letter_not_found");
}
