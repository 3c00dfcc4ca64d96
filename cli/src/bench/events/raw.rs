//! The floor: JetStream by itself, with messages of the size of audit records.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::consumer::pull;
use async_nats::{Client, HeaderMap, jetstream};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::join_all;
use serde_json::Value;
use subjects::audit::v1::{Actor, Outcome, Record, Target, actor};
use subjects::free::v1::RawJson;

use super::Side;
use crate::platform::nats::client;
use crate::platform::nats::users::Account;

/// A subject that identity may publish to and audit reads.
pub(super) const SUBJECT: &str = "audit.identity.user.registered";

/// Messages of an atomic batch (ADR-50).
const BATCH: usize = 1_000;

/// Single publishes under way at once.
const UNDER_WAY: usize = 64;

/// How long a message that must be there may take.
const PULL_WITHIN: Duration = Duration::from_secs(10);

pub(super) struct Raw {
    publisher: Client,
    consumer: jetstream::consumer::PullConsumer,
    puller: Client,
}

impl Raw {
    pub(super) async fn open(url: &str, account: &Account) -> Result<Self> {
        let publisher = client::connect(url, &account.key_file("identity"), "identity").await?;
        let puller = client::connect(url, &account.key_file("audit"), "audit").await?;
        let context = jetstream::new(puller.clone());
        let consumer = context.get_consumer_from_stream("audit", "AUDIT").await.context("the consumer of audit")?;
        Ok(Self { publisher, consumer, puller })
    }

    /// One batch after the other.
    pub(super) async fn publish_batches(&self, duration: Duration) -> Result<Side> {
        let body = Bytes::from(record("0198a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"));
        let start = Instant::now();
        let mut side = Side { count: 0, took: Duration::ZERO, lags_us: Vec::new() };
        while start.elapsed() < duration {
            let sent = Instant::now();
            publish_batch(&self.publisher, &vec![(None, body.clone()); BATCH]).await?;
            side.lags_us.push(sent.elapsed().as_secs_f64() * 1e6);
            side.count += BATCH as u64;
        }
        Ok(Side { took: start.elapsed(), ..side })
    }

    /// Each message by itself.
    pub(super) async fn publish_singly(&self, duration: Duration) -> Result<Side> {
        let body = Bytes::from(record("0198a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"));
        let context = jetstream::new(self.publisher.clone());
        let start = Instant::now();
        let publishers = (0..UNDER_WAY).map(|_| async {
            let mut lags_us = Vec::new();
            while start.elapsed() < duration {
                let sent = Instant::now();
                context.publish(SUBJECT, body.clone()).await?.await?;
                lags_us.push(sent.elapsed().as_secs_f64() * 1e6);
            }
            anyhow::Ok(lags_us)
        });
        let lags_us: Vec<f64> = join_all(publishers).await.into_iter().collect::<Result<Vec<_>>>()?.concat();
        Ok(Side { count: lags_us.len() as u64, took: start.elapsed(), lags_us })
    }

    /// Takes and acknowledges all that is there.
    pub(super) async fn pull_all(&self) -> Result<Side> {
        let mut consumer = self.consumer.clone();
        let waiting = consumer.info().await.context("the consumer of audit")?.num_pending;
        let start = Instant::now();
        let messages: pull::Stream = consumer.stream().max_messages_per_batch(500).messages().await?;
        let mut messages = messages.take(usize::try_from(waiting)?);
        let mut count = 0;
        while count < waiting {
            let next = tokio::time::timeout(PULL_WITHIN, messages.next()).await.context("a message does not come")?;
            let message = next.context("the pull ended")??;
            message.ack().await.map_err(|error| anyhow::anyhow!("acknowledging: {error}"))?;
            count += 1;
        }
        let took = start.elapsed();
        self.puller.flush().await?;
        Ok(Side { count, took, lags_us: Vec::new() })
    }
}

/// Publishes one atomic batch of bodies, each with its id where it has one, and waits until it is stored.
pub(super) async fn publish_batch(client: &Client, messages: &[(Option<String>, Bytes)]) -> Result<()> {
    let batch = client.new_inbox().rsplit('.').next().unwrap_or_default().to_owned();
    for (index, (id, body)) in messages.iter().enumerate() {
        let mut headers = HeaderMap::new();
        headers.append("Nats-Batch-Id", batch.as_str());
        headers.append("Nats-Batch-Sequence", (index + 1).to_string());
        if let Some(id) = id {
            headers.append("Nats-Msg-Id", id.as_str());
        }
        if index + 1 < messages.len() {
            client.publish_with_headers(SUBJECT, headers, body.clone()).await?;
            continue;
        }
        headers.append("Nats-Batch-Commit", "1");
        let answer = client.request_with_headers(SUBJECT, headers, body.clone()).await?;
        let answer: Value = serde_json::from_slice(&answer.payload)?;
        ensure!(answer["count"] == messages.len(), "the batch was not stored: {answer}");
    }
    Ok(())
}

/// A record as a service hands it over.
pub(super) fn record(id: &str) -> Vec<u8> {
    let user = "0198a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b".to_owned();
    subjects::json::encode(&Record {
        id: id.to_owned(),
        time: subjects::Timestamp::parse("2026-01-02T03:04:05.678901Z"),
        actor: Some(Actor { r#type: actor::Type::User.into(), id: user.clone() }),
        target: Some(Target { r#type: "user".to_owned(), id: user.clone() }),
        outcome: Outcome::Success.into(),
        ip_address: "192.0.2.17".to_owned(),
        user_agent: "bench".to_owned(),
        request_id: user.clone(),
        trace_id: "0af7651916cd43dd8448eb211c80319c".to_owned(),
        details: Some(RawJson { text: format!(r#"{{"userId":"{user}"}}"#) }),
        ..Record::default()
    })
}
