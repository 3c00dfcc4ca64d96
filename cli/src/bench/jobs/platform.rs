//! The whole platform: submitted over HTTP, run by the jobs service, and brought into the history meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_nats::Client;
use bytes::Bytes;
use serde_json::{Value, json};
use subjects::job::{self, Lane};

use super::queue::Side;
use crate::bench::bed::Bed;
use crate::bench::cost;
use crate::bench::load::{self, Shot};
use crate::bench::report::Round;
use crate::platform::nats::client;

/// A queue of the jobs service's own, with jobs that do nothing.
const QUEUE: &str = "diagnostics";

/// Connections that submit one job at a time, and many.
const CONNECTIONS: usize = 32;
const BATCH_CONNECTIONS: usize = 3;

/// Jobs of one call.
const BATCH: usize = 1_000;

/// How long what was submitted may take to be done.
const DONE_WITHIN: Duration = Duration::from_mins(3);

const LOOK_INTERVAL: Duration = Duration::from_millis(10);

pub(super) struct Whole<'a> {
    bed: &'a Bed,
    ops: Client,
}

impl<'a> Whole<'a> {
    pub(super) async fn open(bed: &'a Bed) -> Result<Self> {
        let account = bed.servers.accounts().first().context("the platform has an account")?;
        let ops = subjects::broker::OPS;
        let ops = client::connect(bed.servers.nats_url(), &account.key_file(ops), ops).await?;
        let whole = Self { bed, ops };
        whole.hold(true).await?;
        Ok(whole)
    }

    /// Submits one job at a time for `duration`.
    pub(super) async fn submit(&self, duration: Duration) -> Result<Round> {
        let body = json!({ "queue": QUEUE, "kind": "echo", "args": {} });
        self.load("/api/v1/jobs", &body, CONNECTIONS, duration, 1).await
    }

    /// Submits a thousand in each call for `duration`.
    pub(super) async fn submit_batches(&self, duration: Duration) -> Result<Round> {
        let jobs = vec![json!({ "queue": QUEUE, "kind": "echo", "args": {} }); BATCH];
        self.load("/api/v1/jobs/batch", &json!({ "jobs": jobs }), BATCH_CONNECTIONS, duration, BATCH).await
    }

    async fn load(
        &self,
        path: &str,
        body: &Value,
        connections: usize,
        duration: Duration,
        jobs: usize,
    ) -> Result<Round> {
        let body = Bytes::from(body.to_string());
        // Anew each time: a token does not last as long as a drain may.
        let token = self.bed.sign_in().await?.access_token;
        let shot = Shot { method: http::Method::POST, path: path.to_owned(), token: Some(token), body };
        let before = self.cpu_us()?;
        let outcome = load::run(self.bed.gateway, &shot, connections, duration).await?;
        let round = Round::of(&outcome, self.cpu_us()? - before);
        Ok(Round { rate: round.rate * jobs as f64, cpu_us: round.cpu_us / jobs as f64, ..round })
    }

    /// Lets the jobs service do what was submitted. Also gives how many seconds later the history had it all.
    pub(super) async fn drain(&self) -> Result<(Round, f64)> {
        let count = self.left(job::STREAM, &job::consumer(QUEUE, Lane::Normal)).await?;
        let (before, start) = (self.cpu_us()?, Instant::now());
        self.hold(false).await?;
        self.await_empty(job::STREAM, &job::consumer(QUEUE, Lane::Normal), start).await?;
        let took = start.elapsed();
        self.await_empty(job::LOG, "history", start).await?;
        let recorded = start.elapsed().saturating_sub(took);
        let cpu_us = self.cpu_us()? - before;
        self.hold(true).await?;
        Ok((Side { count, took, lags_us: Vec::new() }.round(cpu_us), recorded.as_secs_f64()))
    }

    async fn await_empty(&self, stream: &str, consumer: &str, start: Instant) -> Result<()> {
        loop {
            let left = self.left(stream, consumer).await?;
            if left == 0 {
                return Ok(());
            }
            ensure!(start.elapsed() < DONE_WITHIN, "{consumer} has {left} left");
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// What a consumer has not acknowledged.
    async fn left(&self, stream: &str, consumer: &str) -> Result<u64> {
        let info = self.ops.request(format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}"), Bytes::new()).await?;
        let info: Value = serde_json::from_slice(&info.payload)?;
        let number = |name: &str| info[name].as_u64().with_context(|| format!("{consumer}: {info}"));
        Ok(number("num_pending")? + number("num_ack_pending")?)
    }

    async fn hold(&self, hold: bool) -> Result<()> {
        let verb = if hold { "pause" } else { "resume" };
        let url = format!("http://{}/api/v1/queues/{QUEUE}/{verb}", self.bed.gateway);
        let token = self.bed.sign_in().await?.access_token;
        let request = reqwest::Client::new().post(url).bearer_auth(token).body("{}");
        request.header("Content-Type", "application/json").send().await?.error_for_status()?;
        Ok(())
    }

    fn cpu_us(&self) -> Result<f64> {
        let services = cost::cpu_us(&self.bed.pids(&["gateway", "jobs"])?)?;
        let database = match self.bed.servers.postgres().and_then(|postgres| postgres.state().pid) {
            Some(pid) => cost::tree_us(pid)?,
            None => 0.0,
        };
        Ok(services + database)
    }
}
