//! Scenario 8: a cron trigger enqueues a job, a worker takes it and runs it against a service, which changes its data and
//! publishes events; where it fails the queue schedules a retry. Step by step, in what the platform shows and in its trace.

use futures::StreamExt;
use platform_tests::{
    Setup,
    broker::Broker,
    jobs,
    jobs::Watch,
    traces::{Span, outline},
    wait,
};
use reqwest::Method;
use serde_json::{Value, json};

/// Where the job passes, in order: service and part of the span's name.
const HOPS: [(&str, &str); 5] = [
    ("jobs", "schedule.job.submit"),
    ("jobs", "job.crew.hire.run"),
    ("gateway", "http.identity.create_group"),
    ("identity", "endpoint.identity.create_group"),
    ("identity", "outbox.message.publish"),
];

/// The jobs on subjects of a stream.
async fn stored(ops: &Broker, stream: &str, subjects: &str) -> usize {
    let request = json!({ "subjects_filter": subjects }).to_string();
    let answer = ops.client.request(format!("$JS.API.STREAM.INFO.{stream}"), request.into()).await.unwrap();
    let info: Value = serde_json::from_slice(&answer.payload).unwrap();
    info["state"]["subjects"].as_object().map_or(0, serde_json::Map::len)
}

fn header(work: &async_nats::Message, name: &str) -> String {
    work.headers.as_ref().unwrap().get(name).unwrap().to_string()
}

#[tokio::test]
async fn a_schedule_enqueues_a_job_that_is_tried_again_until_it_has_changed_something() {
    let platform = Setup::new().traces().start().await;
    let admin = platform.admin().await;
    let ops = platform.user("ops").connect().await;
    let worker = platform.user("worker").connect().await;
    let mut work = worker.client.queue_subscribe("work.crew.hire", "workers".into()).await.unwrap();
    worker.client.flush().await.unwrap();
    let mut watch = Watch::open(&ops).await;
    admin.put("/api/v1/queues/crew", &json!({ "backoffBaseMs": 200 })).await.json(200);

    // The trigger: each second, passed over while a job has not ended.
    let schedule = json!({
        "name": "Hire", "cron": "* * * * * *", "queue": "crew", "kind": "hire", "args": { "group": "night shift" },
        "overlap": "SKIP",
    });
    let schedule = admin.post("/api/v1/schedules", &schedule).await.json(201)["id"].as_str().unwrap().to_owned();

    // A worker takes the job, by the definition that the queue has stored.
    let first = tokio::time::timeout(wait::WAIT_MAX, work.next()).await.expect("a job comes").unwrap();
    admin.post(&format!("/api/v1/schedules/{schedule}/pause"), &json!({})).await.json(200);
    let id = header(&first, "Job-Id");
    assert!(id.starts_with(&format!("{schedule}-")), "{id}");
    assert_eq!(
        (header(&first, "Job-Attempt"), first.payload.as_ref()),
        ("1".into(), &br#"{"group":"night shift"}"#[..])
    );
    let shown = admin.get(&format!("/api/v1/schedules/{schedule}")).await.json(200);
    assert_eq!(shown["lastJobId"], id.as_str());
    // It has locked it: the queue holds it, and gives it to nobody else.
    jobs::job_in(&admin, &id, "RUNNING").await;
    let queue = async || {
        let queues = admin.get("/api/v1/queues").await.json(200);
        queues["items"].as_array().unwrap().iter().find(|queue| queue["name"] == "crew").cloned().unwrap()
    };
    let held = queue().await;
    assert_eq!((&held["running"], &held["pending"]), (&json!(1), &json!(0)));
    assert_eq!(stored(&ops, "JOBS", "jobs.crew.>").await, 1);

    // It fails: the worker says so, and the queue schedules a retry.
    let failed = [("Nats-Service-Error-Code", "503"), ("Nats-Service-Error", "nobody is there")];
    jobs::answer(&worker, &first, &failed, "").await;
    let put_off = watch.until(&id, "RETRY_SCHEDULED").await;
    assert!(put_off["runAt"].is_string(), "{put_off}");
    let second = tokio::time::timeout(wait::WAIT_MAX, work.next()).await.expect("it comes again").unwrap();
    assert_eq!((header(&second, "Job-Id"), header(&second, "Job-Attempt")), (id.clone(), "2".into()));

    // It runs against a service, which changes its data and publishes an event.
    let arguments: Value = serde_json::from_slice(&second.payload).unwrap();
    let request = admin.request(Method::POST, "/api/v1/groups").header("traceparent", header(&second, "traceparent"));
    let answer = request.json(&json!({ "name": arguments["group"] })).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let group: Value = answer.json().await.unwrap();
    jobs::answer(&worker, &second, &[], &json!({ "group": group["id"] }).to_string()).await;

    // The worker marks it complete, and the queue removes it.
    watch.until(&id, "SUCCEEDED").await;
    let job = jobs::job_in(&admin, &id, "SUCCEEDED").await;
    assert_eq!((&job["attempt"], &job["result"]["group"]), (&json!(2), &group["id"]));
    assert_eq!(job["errors"][0]["message"], "nobody is there");
    wait::until("the queue has removed it", async || {
        (stored(&ops, "JOBS", "jobs.crew.>").await == 0 && queue().await["running"] == 0).then_some(())
    })
    .await;
    let states = watch.states(&id);
    // That it is there is shown by another than that it runs, so the one may be heard of before the other.
    assert!(states.contains(&"PENDING".to_owned()), "{states:?}");
    let told: Vec<&str> = states.iter().map(String::as_str).filter(|state| *state != "PENDING").collect();
    assert_eq!(told, ["RUNNING", "FAILED", "RETRY_SCHEDULED", "RUNNING", "SUCCEEDED"]);
    let groups = admin.get("/api/v1/groups").await.json(200);
    assert!(groups["items"].as_array().unwrap().iter().any(|known| known["id"] == group["id"]), "{groups}");
    let is_it = |entry: &Value| entry["target"]["id"] == group["id"];
    platform.audit_entry(&admin, "identity.group.created", is_it).await;

    // All of it is one trace, from the schedule to the event.
    let begins = |span: &Span| span.is(&("jobs", "job.crew.hire.run"));
    // Of each run there is a span once it is over.
    let trace = wait::until("the spans of both runs", async || {
        let trace = platform.traces().trace_with(begins, &HOPS).await;
        (trace.iter().filter(|span| span.is(&HOPS[1])).count() >= 2).then_some(trace)
    })
    .await;
    let hop = |hop: &(&str, &str)| trace.iter().find(|span| span.is(hop)).expect("waited for");
    let submitted = hop(&HOPS[0]);
    assert_eq!(submitted.parent_span_id, "", "{}", outline(&trace));
    let runs: Vec<&Span> = trace.iter().filter(|span| span.is(&HOPS[1])).collect();
    assert_eq!(runs.len(), 2, "{}", outline(&trace));
    assert!(runs.iter().all(|run| run.is_under(submitted, &trace)), "{}", outline(&trace));
    let changed = hop(&HOPS[2]);
    assert_eq!(runs.iter().filter(|run| changed.is_under(run, &trace)).count(), 1, "{}", outline(&trace));
    for pair in HOPS[2..].windows(2) {
        assert!(hop(&pair[1]).is_under(hop(&pair[0]), &trace), "{pair:?}: {}", outline(&trace));
    }
}
