//! What `trunkline doctor` says of jobs: queues that nobody runs or that are held, what lags behind, what was given up, and
//! streams that are nearly full.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_nats::Client;
use serde_json::{Value, json};
use subjects::job;

use super::api::Session;
use super::options::Data;

/// Of its bound, what a stream may hold before it is said; beyond the bound it takes nothing more.
const FULL_PERCENT: u64 = 80;

/// Messages that a consumer of the jobs service may be behind: some seconds' work.
const BEHIND_MAX: u64 = 10_000;

/// Between two looks at what may only seem so for a moment.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Dead letters that are counted.
const LETTERS_MAX: usize = 500;

/// What was found.
pub(super) enum Finding {
    Right(String),
    Note(String),
    Wrong(String),
}

/// Looks at everything that the broker knows of jobs; `client` is that of `ops`.
pub(super) async fn check(client: &Client, data: &Data) -> Result<Vec<Finding>> {
    let mut found = full_streams(&list(client, "STREAM.LIST", "streams").await?);
    let queues = list(client, &format!("CONSUMER.LIST.{}", job::STREAM), "consumers").await?;
    let mut idle = not_run(&queues);
    if !idle.is_empty() {
        tokio::time::sleep(LOOK_AGAIN).await;
        let again = not_run(&list(client, &format!("CONSUMER.LIST.{}", job::STREAM), "consumers").await?);
        idle.retain(|consumer| again.contains(consumer));
    }
    found.extend(idle.into_iter().map(|consumer| {
        Finding::Wrong(format!(
            "jobs wait for the consumer {consumer} and nobody takes them: is the service that runs the queue there?"
        ))
    }));
    found.extend(queues.iter().filter(|queue| queue["paused"] == true).filter_map(|queue| {
        let (name, waiting) = (queue["name"].as_str()?, queue["num_pending"].as_u64()?);
        let (_, queue) = name.split_once('_')?;
        let said =
            format!("the queue {queue} is paused and {waiting} jobs wait; `trunkline jobs queues resume {queue}`");
        (waiting > 0).then_some(Finding::Note(said))
    }));
    for (stream, consumer, what) in [
        (job::LOG, "history", "the history of jobs"),
        (job::DEAD_LETTERS, "dead-letters", "the list of dead letters"),
        (job::SCHEDULES, "ticks", "the jobs of schedules"),
    ] {
        let info = ask(client, &format!("CONSUMER.INFO.{stream}.{consumer}"), &json!({})).await?;
        let behind = info["num_pending"].as_u64().unwrap_or_default();
        if behind > BEHIND_MAX {
            found.push(Finding::Wrong(format!("{what} is {behind} messages behind: is the jobs service there?")));
        }
    }
    let session = Session::open(data).await?;
    let (letters, are_more) = session.pages("/api/v1/dead-letters", &[], LETTERS_MAX).await?;
    match (letters.len(), if are_more { " or more" } else { "" }) {
        (0, _) => {}
        (count, more) => found.push(Finding::Note(format!(
            "{count}{more} jobs were given up; `trunkline jobs dead-letters list` says why",
        ))),
    }
    if found.is_empty() {
        found.push(Finding::Right("jobs: queues run, none was given up, streams have room".to_owned()));
    }
    Ok(found)
}

fn full_streams(streams: &[Value]) -> Vec<Finding> {
    let full = |stream: &Value| {
        let bound = u64::try_from(stream["config"]["max_bytes"].as_i64()?).ok().filter(|bound| *bound > 0)?;
        let (name, percent) = (stream["config"]["name"].as_str()?, stream["state"]["bytes"].as_u64()? * 100 / bound);
        let said = format!("the stream {name} holds {percent} % of what it may; full, it refuses what is more");
        (percent >= FULL_PERCENT).then_some(Finding::Wrong(said))
    };
    streams.iter().filter_map(full).collect()
}

/// Consumers that have jobs to give, and nobody who asks for them or holds any.
fn not_run(consumers: &[Value]) -> Vec<String> {
    let is_idle = |consumer: &&Value| {
        let number = |field: &str| consumer[field].as_u64().unwrap_or_default();
        number("num_pending") > 0
            && number("num_waiting") == 0
            && number("num_ack_pending") == 0
            && consumer["paused"] != true
    };
    consumers.iter().filter(is_idle).filter_map(|consumer| consumer["name"].as_str().map(str::to_owned)).collect()
}

/// All pages of a list.
async fn list(client: &Client, api: &str, field: &str) -> Result<Vec<Value>> {
    let mut all: Vec<Value> = Vec::new();
    loop {
        let mut page = ask(client, api, &json!({ "offset": all.len() })).await?;
        let items = page[field].as_array_mut().map(std::mem::take).unwrap_or_default();
        let are_none = items.is_empty();
        all.extend(items);
        if are_none || all.len() as u64 >= page["total"].as_u64().unwrap_or_default() {
            return Ok(all);
        }
    }
}

async fn ask(client: &Client, api: &str, body: &Value) -> Result<Value> {
    let answer = client.request(format!("$JS.API.{api}"), body.to_string().into()).await;
    let answer = answer.with_context(|| format!("{api} is not answered"))?;
    let answer: Value = serde_json::from_slice(&answer.payload).with_context(|| format!("the answer to {api}"))?;
    ensure!(answer["error"].is_null(), "{api}: {}", answer["error"]["description"]);
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_told_of_before_it_is_full() {
        let stream = |name: &str, max: i64, bytes: u64| json!({ "config": { "name": name, "max_bytes": max }, "state": { "bytes": bytes } });
        let found = full_streams(&[stream("A", 100, 79), stream("B", 100, 80), stream("C", -1, 1_000)]);
        assert!(matches!(&found[..], [Finding::Wrong(said)] if said.contains("stream B holds 80 %")));
    }

    #[test]
    fn a_queue_is_run_where_somebody_asks_or_holds_jobs() {
        let queue = |pending: u32, waiting: u32, held: u32, paused: bool| {
            json!({ "name": format!("{pending}{waiting}{held}{paused}"), "num_pending": pending, "num_waiting": waiting,
                    "num_ack_pending": held, "paused": paused })
        };
        let queues = [(0, 0, 0, false), (1, 1, 0, false), (1, 0, 1, false), (1, 0, 0, true), (1, 0, 0, false)];
        let queues = queues.map(|(pending, waiting, held, paused)| queue(pending, waiting, held, paused));
        assert_eq!(not_run(&queues), ["100false"]);
    }
}
