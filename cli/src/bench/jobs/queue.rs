//! One queue of the work queue as JetStream has it: filled, held, emptied by hand or by a runner.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, anyhow, ensure};
use async_nats::jetstream::consumer::pull;
use async_nats::{Client, HeaderMap, Subscriber, jetstream};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::join_all;
use kernel::{Clock, Ids, Random};
use serde::Deserialize;
use serde_json::{Value, json};
use subjects::job::{self, Lane};

use crate::bench::report::Round;
use crate::platform::nats::client;
use crate::platform::nats::users::Account;

/// Messages of an atomic batch (ADR-50).
const BATCH: u64 = 1_000;

/// Single publishes under way at once.
const UNDER_WAY: usize = 100;

/// How long something that must come may take.
const WITHIN: Duration = Duration::from_mins(2);

/// How long nothing may be shown while jobs are published.
const SHOWN_WITHIN: Duration = Duration::from_secs(10);

/// How long a single job is watched for.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// How often it is looked whether a queue is empty.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// What came of one side in one round.
pub(super) struct Side {
    pub(super) count: u64,
    pub(super) took: Duration,
    /// In microseconds; none where there is no such thing.
    pub(super) lags_us: Vec<f64>,
}

/// How a job that was published comes to be begun.
#[derive(Clone, Copy)]
pub(super) enum Pickup {
    /// Taken by hand.
    Consumed,
    /// Run by a runner.
    Run,
}

/// A queue and who publishes to it.
pub(super) struct Queue {
    client: Client,
    /// Who may see what happens to jobs.
    watcher: Client,
    name: &'static str,
    consumer: String,
    clock: Clock,
    ids: Ids,
}

#[derive(Deserialize)]
struct ConsumerInfo {
    #[serde(default)]
    num_pending: u64,
    #[serde(default)]
    num_ack_pending: u64,
}

impl Side {
    pub(super) fn round(mut self, cpu_us: f64) -> Round {
        self.lags_us.sort_by(f64::total_cmp);
        let at = |quantile: f64| {
            self.lags_us.get((self.lags_us.len() as f64 * quantile) as usize).copied().unwrap_or(f64::NAN)
        };
        Round {
            rate: self.count as f64 / self.took.as_secs_f64(),
            p50_us: at(0.5),
            p99_us: at(0.99),
            cpu_us: cpu_us / self.count as f64,
        }
    }
}

impl Queue {
    /// A queue with its consumers, made as the jobs service makes them.
    pub(super) async fn open(url: &str, account: &Account, name: &'static str, pending_max: u32) -> Result<Self> {
        let client = client::connect(url, &account.key_file(job::MANAGER), job::MANAGER).await?;
        let watcher = client::connect(url, &account.key_file(subjects::broker::OPS), subjects::broker::OPS).await?;
        for lane in Lane::ALL {
            let consumer = job::consumer(name, lane);
            let config = json!({
                "durable_name": consumer, "deliver_policy": "all", "ack_policy": "explicit", "replay_policy": "instant",
                "ack_wait": 30_000_000_000_u64, "max_deliver": -1, "max_ack_pending": pending_max,
                "filter_subjects": [job::filter(name, lane)],
            });
            let body = json!({ "stream_name": job::STREAM, "config": config });
            ask(&client, &format!("CONSUMER.CREATE.{}.{consumer}", job::STREAM), &body).await?;
        }
        let (clock, consumer) = (Clock::system(), job::consumer(name, Lane::Normal));
        let ids = Ids::new(clock.clone(), Random::system());
        Ok(Self { client, watcher, name, consumer, clock, ids })
    }

    fn now(&self) -> SystemTime {
        self.clock.now().into()
    }

    fn subject(&self) -> String {
        format!("jobs.{}.noop", self.name)
    }

    /// Publishes for `duration`, each by itself and acknowledged; as jobs that have ids, where asked.
    pub(super) async fn publish(&self, duration: Duration, with_ids: bool) -> Result<Side> {
        let context = jetstream::new(self.client.clone());
        let start = Instant::now();
        let publishers = (0..UNDER_WAY).map(|_| async {
            let mut lags_us = Vec::new();
            while start.elapsed() < duration {
                let sent = Instant::now();
                let mut headers = HeaderMap::new();
                if with_ids {
                    headers.append(job::header::MESSAGE_ID, format!("{}.noop:{}", self.name, self.ids.new_id()));
                    context.publish_with_headers(self.subject(), headers, "{}".into()).await?.await?;
                } else {
                    context.publish(self.subject(), "{}".into()).await?.await?;
                }
                lags_us.push(sent.elapsed().as_secs_f64() * 1e6);
            }
            anyhow::Ok(lags_us)
        });
        let lags_us: Vec<f64> = join_all(publishers).await.into_iter().collect::<Result<Vec<_>>>()?.concat();
        Ok(Side { count: lags_us.len() as u64, took: start.elapsed(), lags_us })
    }

    /// One atomic batch after the other.
    pub(super) async fn publish_batches(&self, duration: Duration) -> Result<Side> {
        let start = Instant::now();
        let mut side = Side { count: 0, took: Duration::ZERO, lags_us: Vec::new() };
        while start.elapsed() < duration {
            let sent = Instant::now();
            self.publish_batch(BATCH).await?;
            side.lags_us.push(sent.elapsed().as_secs_f64() * 1e6);
            side.count += BATCH;
        }
        Ok(Side { took: start.elapsed(), ..side })
    }

    /// Puts jobs into the queue until it has so many.
    pub(super) async fn fill(&self, jobs: u64) -> Result<()> {
        let mut missing = jobs.saturating_sub(self.info().await?.num_pending);
        while missing > 0 {
            let batch = missing.min(BATCH);
            self.publish_batch(batch).await?;
            missing -= batch;
        }
        Ok(())
    }

    async fn publish_batch(&self, messages: u64) -> Result<()> {
        let batch = self.ids.new_id().simple().to_string();
        for number in 1..=messages {
            let mut headers = HeaderMap::new();
            headers.append("Nats-Batch-Id", batch.as_str());
            headers.append("Nats-Batch-Sequence", number.to_string());
            if number < messages {
                self.client.publish_with_headers(self.subject(), headers, "{}".into()).await?;
                continue;
            }
            headers.append("Nats-Batch-Commit", "1");
            let answer = self.client.request_with_headers(self.subject(), headers, "{}".into()).await?;
            let answer: Value = serde_json::from_slice(&answer.payload)?;
            ensure!(answer["count"] == messages, "the batch was not stored: {answer}");
        }
        Ok(())
    }

    /// Takes and acknowledges all that is there.
    pub(super) async fn consume(&self) -> Result<Side> {
        let waiting = self.info().await?.num_pending;
        let start = Instant::now();
        let messages = self.pull().await?;
        let mut messages = messages.take(usize::try_from(waiting)?);
        for _ in 0..waiting {
            let next = tokio::time::timeout(WITHIN, messages.next()).await.context("a message does not come")?;
            let message = next.context("the pull ended")??;
            message.ack().await.map_err(|error| anyhow!("acknowledging: {error}"))?;
        }
        self.drained().await?;
        Ok(Side { count: waiting, took: start.elapsed(), lags_us: Vec::new() })
    }

    async fn pull(&self) -> Result<pull::Stream> {
        let context = jetstream::new(self.client.clone());
        let consumer: jetstream::consumer::PullConsumer =
            context.get_consumer_from_stream(&self.consumer, job::STREAM).await.context("the consumer")?;
        Ok(consumer.stream().max_messages_per_batch(500).messages().await?)
    }

    /// Lets a runner do the jobs that wait.
    pub(super) async fn run_all(&self) -> Result<Side> {
        let jobs = self.info().await?.num_pending;
        let start = Instant::now();
        self.pause(false).await?;
        self.drained().await?;
        Ok(Side { count: jobs, took: start.elapsed(), lags_us: Vec::new() })
    }

    /// How many jobs wait to be taken.
    pub(super) async fn waiting(&self) -> Result<u64> {
        Ok(self.info().await?.num_pending)
    }

    /// Waits until so many jobs wait.
    pub(super) async fn filled(&self, count: u64) -> Result<()> {
        let start = Instant::now();
        loop {
            let waiting = self.waiting().await?;
            if waiting >= count {
                return Ok(());
            }
            ensure!(start.elapsed() < WITHIN, "{waiting} of {count} jobs are in the queue");
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Waits until nothing waits and all is acknowledged.
    pub(super) async fn drained(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            let info = self.info().await?;
            if info.num_pending == 0 && info.num_ack_pending == 0 {
                return Ok(());
            }
            ensure!(start.elapsed() < WITHIN, "{} jobs are left", info.num_pending + info.num_ack_pending);
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    async fn info(&self) -> Result<ConsumerInfo> {
        let info = ask(&self.client, &format!("CONSUMER.INFO.{}.{}", job::STREAM, self.consumer), &json!({})).await?;
        Ok(serde_json::from_value(info)?)
    }

    /// Holds the queue, or lets it go on.
    pub(super) async fn pause(&self, paused: bool) -> Result<()> {
        let body = if paused { json!({ "pause_until": "2100-01-01T00:00:00Z" }) } else { json!({}) };
        ask(&self.client, &format!("CONSUMER.PAUSE.{}.{}", job::STREAM, self.consumer), &body).await?;
        Ok(())
    }

    /// Publishes `rate` jobs a second, and notes how long after the call each was begun.
    pub(super) async fn pickup(&self, how: Pickup, duration: Duration, rate: u64) -> Result<Side> {
        let watching = match how {
            Pickup::Run => {
                self.until_shown().await?;
                Some(self.watcher.subscribe("live.jobs.*").await?)
            }
            Pickup::Consumed => None,
        };
        self.watcher.flush().await?;
        let count = duration.as_secs().max(1) * rate;
        let start = Instant::now();
        let publish = self.publish_steadily(count, rate);
        let begun = async {
            match watching {
                Some(watching) => watch_begun(watching, count).await,
                None => self.consume_begun(count).await,
            }
        };
        let (published, begun) = tokio::try_join!(publish, begun)?;
        let lags_us = begun.iter().filter_map(|(id, begun)| {
            let published = published.get(id)?;
            Some(begun.duration_since(*published).unwrap_or_default().as_secs_f64() * 1e6)
        });
        let lags_us: Vec<f64> = lags_us.collect();
        ensure!(lags_us.len() as u64 == count, "{} of {count} jobs were seen to begin", lags_us.len());
        Ok(Side { count, took: start.elapsed(), lags_us })
    }

    /// Waits until jobs are shown again, which they are not for a moment after very many.
    async fn until_shown(&self) -> Result<()> {
        let mut watching = self.watcher.subscribe("live.jobs.*").await?;
        self.watcher.flush().await?;
        let start = Instant::now();
        loop {
            let id = self.publish_one().await?;
            let seen = async {
                while let Some(told) = watching.next().await {
                    if told.subject.ends_with(id.as_str()) {
                        break;
                    }
                }
            };
            if tokio::time::timeout(LOOK_AGAIN, seen).await.is_ok() {
                return self.drained().await;
            }
            ensure!(start.elapsed() < WITHIN, "jobs are not shown");
        }
    }

    async fn publish_one(&self) -> Result<String> {
        let id = self.ids.new_id().to_string();
        let mut headers = HeaderMap::new();
        headers.append(job::header::MESSAGE_ID, format!("{}.noop:{id}", self.name));
        self.client.publish_with_headers(self.subject(), headers, Bytes::from_static(b"{}")).await?;
        Ok(id)
    }

    /// When each was published, by id.
    async fn publish_steadily(&self, count: u64, rate: u64) -> Result<HashMap<String, SystemTime>> {
        let mut published = HashMap::new();
        let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / rate as f64));
        for _ in 0..count {
            ticks.tick().await;
            let now = self.now();
            published.insert(self.publish_one().await?, now);
        }
        self.client.flush().await?;
        Ok(published)
    }

    async fn consume_begun(&self, count: u64) -> Result<Vec<(String, SystemTime)>> {
        let mut messages = self.pull().await?;
        let mut begun = Vec::new();
        for _ in 0..count {
            let next = tokio::time::timeout(WITHIN, messages.next()).await.context("a message does not come")?;
            let message = next.context("the pull ended")??;
            let id = message.headers.as_ref().and_then(|headers| headers.get(job::header::MESSAGE_ID));
            let id = id.and_then(|id| id.as_str().split_once(':')).map(|(_, id)| id.to_owned());
            begun.push((id.context("an id")?, self.now()));
            message.ack().await.map_err(|error| anyhow!("acknowledging: {error}"))?;
        }
        Ok(begun)
    }
}

/// When each was begun, as the runner tells.
async fn watch_begun(mut watching: Subscriber, count: u64) -> Result<Vec<(String, SystemTime)>> {
    let mut begun = HashMap::new();
    while (begun.len() as u64) < count {
        let next = tokio::time::timeout(SHOWN_WITHIN, watching.next()).await.context("a job is not begun")?;
        let told: subjects::jobs::v1::Transition =
            subjects::json::decode(&next.context("connected")?.payload).map_err(|error| anyhow!("{error:?}"))?;
        if let Some(at) = told.started_at {
            let since = Duration::new(u64::try_from(at.seconds)?, u32::try_from(at.nanos)?);
            begun.insert(told.job_id, SystemTime::UNIX_EPOCH + since);
        }
    }
    Ok(begun.into_iter().collect())
}

async fn ask(client: &Client, api: &str, body: &Value) -> Result<Value> {
    let answer = client.request(format!("$JS.API.{api}"), body.to_string().into()).await?;
    let answer: Value = serde_json::from_slice(&answer.payload)?;
    ensure!(answer["error"].is_null(), "{api}: {}", answer["error"]);
    Ok(answer)
}
