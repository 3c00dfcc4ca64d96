//! A stored message as the broker tells of it, whether republished or read from its stream: both bear the same headers.

use async_nats::{HeaderMap, Message};
use bytes::Bytes;

const SEQUENCE: &str = "Nats-Sequence";
const SUBJECT: &str = "Nats-Subject";
/// Republished: the sequence before of the same subject. Read in a batch: the one before in the batch.
const LAST_SEQUENCE: &str = "Nats-Last-Sequence";

/// A message of a stream.
#[derive(Clone, Debug)]
pub struct StoredMessage {
    /// As it is stored, without `live.`.
    pub subject: String,
    /// Its place in the stream.
    pub sequence: u64,
    /// Its body.
    pub payload: Bytes,
    headers: HeaderMap,
}

impl StoredMessage {
    /// `None` where the broker's headers are missing.
    pub(super) fn read(message: Message) -> Option<Self> {
        let headers = message.headers?;
        let sequence = number(&headers, SEQUENCE)?;
        let subject = headers.get(SUBJECT)?.as_str().to_owned();
        Some(Self { subject, sequence, payload: message.payload, headers })
    }

    /// The first value of a header, by its exact name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(async_nats::HeaderValue::as_str)
    }

    /// The last sequence that its subject had before it; 0 where there is none any more.
    pub(super) fn previous(&self) -> Option<u64> {
        number(&self.headers, LAST_SEQUENCE)
    }

    /// What of it takes memory.
    pub fn size(&self) -> usize {
        let headers: usize = self
            .headers
            .iter()
            .map(|(name, values)| {
                let name: &str = name.as_ref();
                values.iter().map(|value| name.len() + value.as_str().len()).sum::<usize>()
            })
            .sum();
        self.payload.len() + self.subject.len() + headers
    }
}

pub(super) fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.as_str().parse().ok()
}
