//! A message as a handler sees it.

use std::fmt;

use async_nats::jetstream;
use async_nats::{HeaderMap, HeaderValue, Subject};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use subjects::Body;
use subjects::json::{self, DecodeError};

use crate::{Error, Result, TraceContext};

/// Bytes of an id at most; a longer one, which is none of ours, does not count as an id.
const ID_BYTES_MAX: usize = 256;

/// Where replies go.
const INBOXES: &str = "_INBOX.";

/// A message of a stream. Shows itself without headers and body, which may be personal.
#[derive(Clone)]
pub struct Message {
    subject: Subject,
    id: String,
    headers: Option<HeaderMap>,
    payload: Bytes,
    sequence: u64,
    stored_at: Option<DateTime<Utc>>,
    pub(super) delivered: u64,
    pub(super) pending: u64,
    /// Where its acknowledgement goes.
    pub(super) ack: Subject,
}

impl Message {
    /// `None` for what did not come from this consumer: anybody may publish into an inbox that they may reach, whatever reply they
    /// like, but under no other subject than the inbox's.
    pub(super) fn read(message: jetstream::Message, stream: &str, durable: &str) -> Option<Self> {
        if message.subject.starts_with(INBOXES) {
            return None;
        }
        let info = message.info().ok().filter(|info| info.stream == stream && info.consumer == durable)?;
        let (sequence, pending) = (info.stream_sequence, info.pending);
        let delivered = u64::try_from(info.delivered).ok()?;
        // A stream made anew counts from 1 again, so the time belongs to the name.
        let place = || format!("{stream}:{sequence}:{}", info.published.unix_timestamp_nanos());
        let stored_at = DateTime::from_timestamp(info.published.unix_timestamp(), info.published.nanosecond());
        let headers = message.headers.as_ref();
        let id = headers.and_then(|headers| headers.get(async_nats::header::NATS_MESSAGE_ID)).map(ToString::to_string);
        let id = id.filter(|id| (1..=ID_BYTES_MAX).contains(&id.len())).unwrap_or_else(place);
        let jetstream::Message { message, .. } = message;
        let ack = message.reply?;
        Some(Self {
            subject: message.subject,
            id,
            headers: message.headers,
            payload: message.payload,
            sequence,
            stored_at,
            delivered,
            pending,
            ack,
        })
    }

    /// One that was kept as a dead letter.
    pub(super) fn from_letter(subject: String, id: String, headers: HeaderMap, payload: Bytes, sequence: u64) -> Self {
        let ack = Subject::from_static("");
        Self {
            subject: subject.into(),
            id,
            headers: Some(headers),
            payload,
            sequence,
            stored_at: None,
            delivered: 0,
            pending: 0,
            ack,
        }
    }

    /// The subject it was published to. Only the service that the subject names may publish to it.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Its `Nats-Msg-Id`; where it has none, a name made of its place. A repeated delivery has the same.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its body.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    pub(super) fn body(&self) -> Bytes {
        self.payload.clone()
    }

    /// Every header with every value.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let headers = self.headers.iter().flat_map(HeaderMap::iter);
        headers.flat_map(|(name, values)| values.iter().map(move |value| (name.as_ref(), value.as_str())))
    }

    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, values) = self.headers.as_ref()?.iter().find(|(known, _)| AsRef::<str>::as_ref(known) == name)?;
        values.first().map(HeaderValue::as_str)
    }

    /// Its place in the stream.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// When the broker stored it, by its clock; none for a dead letter that is replayed.
    pub fn stored_at(&self) -> Option<DateTime<Utc>> {
        self.stored_at
    }

    /// How often it has been delivered, this time included; 0 for a dead letter that is replayed.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// The trace of the request that caused it.
    pub fn trace(&self) -> Option<TraceContext> {
        self.header("traceparent").and_then(TraceContext::parse)
    }

    /// Its body as a message of the contract. Fields that are not known are passed over.
    pub fn decode<T: Body>(&self) -> Result<T> {
        json::decode(&self.payload).map_err(|error| {
            let what = match error {
                DecodeError::Malformed(what) => what,
                DecodeError::Invalid(field) | DecodeError::Bound(field) => {
                    format!("{} {}", field.pointer, field.detail)
                }
            };
            Error::new(422, "undecodable", "The message is not of its type.").with_source(what)
        })
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("subject", &self.subject())
            .field("id", &self.id)
            .field("sequence", &self.sequence)
            .field("delivered", &self.delivered)
            .finish_non_exhaustive()
    }
}
