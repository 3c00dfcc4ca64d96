//! Jobs as producers, workers and people see them: published in JSON, done by whoever answers, looked at over HTTP.

use std::time::Duration;

use async_nats::{HeaderMap, HeaderName, HeaderValue, Message, Subscriber};
use futures::StreamExt;
use serde_json::Value;

use crate::{broker::Broker, http::Http, wait};

/// What happens to jobs, as it happens.
pub struct Watch {
    events: Subscriber,
    /// In the order of arrival.
    pub seen: Vec<Value>,
}

impl Watch {
    /// Watches all jobs of the platform from now on.
    pub async fn open(ops: &Broker) -> Watch {
        let events = ops.client.subscribe("live.jobs.*").await.expect("ops watches what is live");
        // A request on the same connection proves that the subscription is in force.
        ops.client.request("$JS.API.INFO", "".into()).await.expect("the broker answers");
        Watch { events, seen: Vec::new() }
    }

    /// Watches until a job comes into a state, and gives what was told of it then.
    pub async fn until(&mut self, job: &str, state: &str) -> Value {
        let found = async {
            loop {
                let message = self.events.next().await.expect("connected");
                let told: Value = serde_json::from_slice(&message.payload).expect("JSON");
                self.seen.push(told.clone());
                if told["jobId"] == job && told["state"] == state {
                    return told;
                }
            }
        };
        tokio::time::timeout(wait::WAIT_MAX, found).await.unwrap_or_else(|_| panic!("{job} does not become {state}"))
    }

    /// The states of one job so far.
    pub fn states(&self, job: &str) -> Vec<String> {
        let told = self.seen.iter().filter(|told| told["jobId"] == job);
        told.map(|told| told["state"].as_str().expect("a word").to_owned()).collect()
    }
}

/// Publishes a job straight to the stream; the broker's acknowledgement, or `None` where nobody took it.
pub async fn publish(producer: &Broker, subject: &str, headers: &[(&str, &str)], body: &str) -> Option<Value> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let value: HeaderValue = value.parse().expect("a header value of the test's own");
        map.append(name.parse::<HeaderName>().expect("a header name of the test's own"), value);
    }
    let request = async_nats::Request::new().headers(map).payload(body.to_owned().into());
    let answer = producer.client.send_request(subject.to_owned(), request).await.ok()?;
    Some(serde_json::from_slice(&answer.payload).expect("the broker answers in JSON"))
}

/// Waits until a job is in a state, and gives it.
pub async fn job_in(http: &Http, id: &str, state: &str) -> Value {
    job_in_within(http, id, state, wait::WAIT_MAX).await
}

/// Waits at most so long until a job is in a state, and gives it.
pub async fn job_in_within(http: &Http, id: &str, state: &str, max: Duration) -> Value {
    wait::within(max, &format!("job {id} is {state}"), async || {
        let reply = http.get(&format!("/api/v1/jobs/{id}")).await;
        // Not heard of yet; or whoever is asked is too busy to say, or just coming back.
        if [404, 503, 504].contains(&reply.status) {
            return None;
        }
        let job = reply.json(200);
        (job["state"] == state).then_some(job)
    })
    .await
}

/// Submits a job over HTTP and gives its id.
pub async fn submit(http: &Http, job: &Value) -> String {
    http.post("/api/v1/jobs", job).await.json(202)["jobId"].as_str().expect("an id").to_owned()
}

/// Answers a request for work.
pub async fn answer(worker: &Broker, work: &Message, headers: &[(&str, &str)], body: &str) {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let value: HeaderValue = value.parse().expect("a header value of the test's own");
        map.append(name.parse::<HeaderName>().expect("a header name of the test's own"), value);
    }
    let reply = work.reply.clone().expect("work wants an answer");
    worker.client.publish_with_headers(reply, map, body.to_owned().into()).await.expect("connected");
    worker.client.flush().await.expect("connected");
}
