//! Reading a key-value bucket in the order in which it was written, superseded values included, by DIRECT.GET and so
//! without a consumer. Writing is a transaction's ([`Transaction::put`](crate::Transaction::put)).

use std::time::Duration;

use async_nats::{HeaderValue, Message, StatusCode, Subject};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::nats::{RequestError, Requester};
use crate::{Bucket, Error, Result};

/// Reads that are under way at once.
const READS_MAX: usize = 64;

/// Reads a bucket.
#[derive(Clone, Debug)]
pub struct BucketReader {
    requester: Requester,
    bucket: Bucket,
}

/// A value as it is stored.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its place in the bucket's stream, from 1.
    pub place: u64,
    /// The key.
    pub key: String,
    /// The value.
    pub value: Bytes,
}

impl BucketReader {
    pub(crate) fn new(requester: Requester, bucket: Bucket) -> Self {
        Self { requester, bucket }
    }

    /// Whether there is a value under `key`.
    ///
    /// 503 where the broker does not answer within `timeout`.
    pub async fn contains(&self, key: &str, timeout: Duration) -> Result<bool> {
        let request = json!({ "last_by_subj": format!("$KV.{}.{key}", self.bucket.name()) });
        let answer = self.get(&request, Instant::now() + timeout).await?;
        match answer.status {
            Some(StatusCode::NOT_FOUND) => Ok(false),
            Some(status) if status != StatusCode::OK => Err(nonsense(&answer)),
            _ => Ok(true),
        }
    }

    /// What was stored from `place` on, in its order, at most `number`; fewer only at the end.
    ///
    /// 503 where the broker does not answer within `timeout`.
    pub async fn read(&self, place: u64, number: usize, timeout: Duration) -> Result<Vec<Stored>> {
        let deadline = Instant::now() + timeout;
        let mut values: Vec<Stored> = Vec::with_capacity(number.min(READS_MAX));
        let last = place.saturating_add(number as u64);
        let mut reads = stream::iter(place..last).map(|place| self.next(place, deadline)).buffered(READS_MAX);
        while let Some(stored) = reads.try_next().await? {
            let Some(stored) = stored else { break };
            // Where a place is empty, the same value is the next one of several.
            if values.last().is_none_or(|before| before.place < stored.place) {
                values.push(stored);
            }
        }
        Ok(values)
    }

    /// The first value at `place` or behind it.
    async fn next(&self, place: u64, deadline: Instant) -> Result<Option<Stored>> {
        let prefix = format!("$KV.{}.", self.bucket.name());
        let request = json!({ "seq": place, "next_by_subj": format!("{prefix}>") });
        let answer = self.get(&request, deadline).await?;
        match answer.status {
            Some(StatusCode::NOT_FOUND) => return Ok(None),
            Some(status) if status != StatusCode::OK => return Err(nonsense(&answer)),
            _ => {}
        }
        let header = |name: &str| answer.headers.as_ref()?.get(name).map(HeaderValue::as_str);
        let stored = header("Nats-Sequence").and_then(|place| place.parse().ok());
        let key = header("Nats-Subject").and_then(|subject| subject.strip_prefix(&prefix));
        match (stored, key) {
            (Some(place), Some(key)) => Ok(Some(Stored { place, key: key.to_owned(), value: answer.payload.clone() })),
            _ => Err(nonsense(&answer)),
        }
    }

    async fn get(&self, request: &Value, deadline: Instant) -> Result<Message> {
        let subject = Subject::from(format!("$JS.API.DIRECT.GET.{}", self.bucket.stream()));
        self.requester.request(subject, None, request.to_string().into(), deadline).await.map_err(unreachable)
    }
}

fn unreachable(error: RequestError) -> Error {
    Error::unavailable("A bucket of the broker cannot be read just now.").with_source(error)
}

fn nonsense(answer: &Message) -> Error {
    let what = format!("status {:?} {:?}", answer.status, answer.description);
    Error::unavailable("A bucket of the broker cannot be read just now.").with_source(what)
}
