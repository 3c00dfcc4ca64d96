//! Publishing to JetStream with acknowledgement, singly or in atomic batches (ADR-50), over one subscription for all
//! replies: the client's own request keeps an entry for ever for each reply that never comes. Also asks what a stream holds.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::header::{HeaderName, HeaderValue};
use async_nats::{Client, HeaderMap, Message, StatusCode, SubscribeError, Subscriber};
use bytes::Bytes;
use chrono::{DateTime, SubsecRound as _, Utc};
use futures::StreamExt as _;
use serde::Deserialize;
use tokio::time::{Instant, timeout, timeout_at};

use super::outbox::{ENVELOPE_BYTES_MAX, HEADERS_BYTES_MAX, PAYLOAD_BYTES_MAX};

/// How long an acknowledgement is waited for: a batch of a thousand on a slow disk takes a good second.
const ACK_WAIT: Duration = Duration::from_secs(5);

/// How often a stream is looked at although the connection stayed: so late is a loss noticed that no reconnect told of.
const SURVEY_INTERVAL: Duration = Duration::from_secs(30);

/// Digits of a second that the database keeps of a time.
const TIME_DIGITS: u16 = 6;

/// Publishes over one connection.
#[derive(Debug)]
pub(super) struct Publisher {
    client: Client,
    inbox: String,
    replies: Subscriber,
    /// Number of the next request; each reply subject ends with one.
    next: u64,
    /// When each stream was made, as seen on the present connection.
    created: HashMap<&'static str, DateTime<Utc>>,
    /// The last place given in each of those streams.
    highest: HashMap<&'static str, u64>,
    /// When each stream was last asked for what it holds, on the present connection, and when it was made then.
    surveyed: HashMap<&'static str, (Instant, DateTime<Utc>)>,
    /// The server and the connection's number on it.
    connection: (String, u64),
}

/// What the broker answers to a stored message or batch.
#[derive(Debug, Deserialize)]
pub(super) struct Ack {
    /// Place of the message, or of the batch's last one.
    #[serde(rename = "seq")]
    pub(super) sequence: u64,
    /// Whether a message with this id was there already; its place is told.
    #[serde(default)]
    pub(super) duplicate: bool,
    /// Messages of the batch.
    #[serde(default)]
    count: Option<u64>,
}

/// Why there is no acknowledgement.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PublishError {
    /// Not stored: never sent, or nobody took it.
    #[error("{0}")]
    NotSent(String),
    /// Not stored, says the broker.
    #[error("the broker refused it: {description} ({code})")]
    Refused {
        /// JetStream's error number.
        code: u64,
        description: String,
    },
    /// Sent, and no answer came. It may be stored.
    #[error("no acknowledgement came within {} s", ACK_WAIT.as_secs())]
    Unknown,
}

#[derive(Deserialize)]
struct Reply<T> {
    error: Option<ReplyError>,
    #[serde(flatten)]
    content: Option<T>,
}

#[derive(Deserialize)]
struct ReplyError {
    err_code: u64,
    #[serde(default)]
    description: String,
}

#[derive(Deserialize)]
struct StreamInfo {
    created: DateTime<Utc>,
    state: StreamInfoState,
}

#[derive(Deserialize)]
struct StreamInfoState {
    last_seq: u64,
}

/// A message on its way to a stream.
#[derive(Debug)]
pub(super) struct Outgoing<'a> {
    pub(super) subject: &'a str,
    /// Without those that are the publisher's own.
    pub(super) headers: HeaderMap,
    pub(super) payload: Bytes,
}

/// What a stream is, as far as its messages depend on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamState {
    /// To the microsecond, as the database keeps it.
    pub(super) created: DateTime<Utc>,
    /// Its last place.
    pub(super) last: u64,
}

pub(super) fn is_connected(client: &Client) -> bool {
    client.connection_state() == State::Connected
}

impl Publisher {
    pub(super) async fn open(client: Client) -> Result<Self, SubscribeError> {
        let inbox = client.new_inbox();
        let replies = client.subscribe(format!("{inbox}.*")).await?;
        Ok(Self {
            client,
            inbox,
            replies,
            next: 0,
            created: HashMap::new(),
            highest: HashMap::new(),
            surveyed: HashMap::new(),
            connection: (String::new(), 0),
        })
    }

    /// Whether the broker is there and takes what the outbox may hold. What was known of a former connection is dropped.
    pub(super) fn check(&mut self) -> Result<(), PublishError> {
        if !is_connected(&self.client) {
            return Err(PublishError::NotSent("the broker is not connected".to_owned()));
        }
        let server = self.client.server_info();
        let needed = PAYLOAD_BYTES_MAX + HEADERS_BYTES_MAX + ENVELOPE_BYTES_MAX;
        if server.max_payload < needed {
            let reason = format!("the broker takes {} bytes a message, the outbox needs {needed}", server.max_payload);
            return Err(PublishError::NotSent(reason));
        }
        let connection = (server.server_id, server.client_id);
        if connection != self.connection {
            self.forget_streams();
            self.surveyed.clear();
            self.connection = connection;
        }
        Ok(())
    }

    /// Whether it is time to ask the stream what it holds: `Some(true)` for the first time on this connection.
    pub(super) fn survey_due(&self, stream: &'static str) -> Option<bool> {
        let server = self.client.server_info();
        if self.connection != (server.server_id, server.client_id) {
            return Some(true);
        }
        match self.surveyed.get(stream) {
            None => Some(true),
            Some((at, _)) => (at.elapsed() >= SURVEY_INTERVAL).then_some(false),
        }
    }

    /// Notes that what the stream holds is known.
    pub(super) fn note_survey(&mut self, stream: &'static str, created: DateTime<Utc>) {
        self.surveyed.insert(stream, (Instant::now(), created));
        self.created.insert(stream, created);
    }

    /// Whether the stream is the one that was asked last. Where it is not, it is asked again.
    pub(super) fn is_surveyed(&mut self, stream: &'static str, created: DateTime<Utc>) -> bool {
        let surveyed = self.surveyed.get(stream).is_some_and(|(_, known)| *known == created);
        if !surveyed {
            self.surveyed.remove(stream);
        }
        surveyed
    }

    /// When a stream was made: with a sequence it names a message even after the stream was made anew.
    pub(super) async fn stream_created(&mut self, stream: &'static str) -> Result<DateTime<Utc>, PublishError> {
        if let Some(created) = self.created.get(stream) {
            return Ok(*created);
        }
        Ok(self.stream_state(stream).await?.created)
    }

    /// What the stream is now.
    pub(super) async fn stream_state(&mut self, stream: &'static str) -> Result<StreamState, PublishError> {
        let token = self.send(format!("$JS.API.STREAM.INFO.{stream}"), HeaderMap::new(), Bytes::new()).await?;
        let info: StreamInfo = self.reply(&[token]).await?;
        let created = info.created.trunc_subsecs(TIME_DIGITS);
        self.created.insert(stream, created);
        Ok(StreamState { created, last: info.state.last_seq })
    }

    /// The message at a place; none where the stream has none there.
    pub(super) async fn message_at(&mut self, stream: &str, sequence: u64) -> Result<Option<Message>, PublishError> {
        let body = format!("{{\"seq\":{sequence}}}");
        let token = self.send(format!("$JS.API.DIRECT.GET.{stream}"), HeaderMap::new(), body.into()).await?;
        let answer = self.answer(&[token]).await?;
        match answer.status {
            None => Ok(Some(answer)),
            Some(StatusCode::NOT_FOUND) => Ok(None),
            Some(StatusCode::NO_RESPONDERS) => Err(no_stream()),
            Some(_) => Err(PublishError::Unknown),
        }
    }

    /// The place of the last message on a subject; none where the stream has none.
    pub(super) async fn last_place(&mut self, stream: &str, subject: &str) -> Result<Option<u64>, PublishError> {
        let request = format!("$JS.API.DIRECT.GET.{stream}.{subject}");
        let token = self.send(request, HeaderMap::new(), Bytes::new()).await?;
        let answer = self.answer(&[token]).await?;
        match answer.status {
            Some(StatusCode::NOT_FOUND) => return Ok(None),
            Some(StatusCode::NO_RESPONDERS) => return Err(no_stream()),
            Some(_) | None => {}
        }
        let header = |name: &str| answer.headers.as_ref().and_then(|headers| headers.get(name));
        match header("Nats-Sequence").and_then(|sequence| sequence.as_str().parse().ok()) {
            Some(sequence) if header("Nats-Subject").is_some_and(|found| found.as_str() == subject) => {
                Ok(Some(sequence))
            }
            _ => Err(PublishError::Unknown),
        }
    }

    /// Forgets when streams were made.
    pub(super) fn forget_streams(&mut self) {
        self.created.clear();
        self.highest.clear();
    }

    /// Forgets when a stream was made if a new message got a place that is not behind all others.
    fn note_place(&mut self, stream: &'static str, ack: &Ack) {
        let highest = self.highest.entry(stream).or_default();
        if !ack.duplicate && ack.sequence <= *highest {
            self.created.remove(stream);
            self.surveyed.remove(stream);
        }
        *highest = ack.sequence.max(if ack.duplicate { *highest } else { 0 });
    }

    /// Publishes one message.
    pub(super) async fn publish(&mut self, stream: &'static str, message: Outgoing<'_>) -> Result<Ack, PublishError> {
        let Outgoing { subject, mut headers, payload } = message;
        append(&mut headers, "Nats-Expected-Stream", stream);
        let token = self.send(subject.to_owned(), headers, payload).await?;
        let ack = self.reply(&[token]).await?;
        self.note_place(stream, &ack);
        Ok(ack)
    }

    /// Publishes messages of one stream, at most 1,000, all or none. The places of those before the last one precede its.
    pub(super) async fn publish_batch(
        &mut self,
        stream: &'static str,
        messages: Vec<Outgoing<'_>>,
    ) -> Result<Ack, PublishError> {
        let count = messages.len();
        let Some(last) = count.checked_sub(1) else { return Err(PublishError::Unknown) };
        let batch = self.client.new_inbox().rsplit('.').next().unwrap_or_default().to_owned();
        let mut tokens = Vec::with_capacity(2);
        for (index, Outgoing { subject, mut headers, payload }) in messages.into_iter().enumerate() {
            append(&mut headers, "Nats-Expected-Stream", stream);
            append(&mut headers, "Nats-Batch-Id", &batch);
            append(&mut headers, "Nats-Batch-Sequence", &(index + 1).to_string());
            if index == last {
                append(&mut headers, "Nats-Batch-Commit", "1");
            }
            let subject = subject.to_owned();
            if index == 0 || index == last {
                let sent = self.send(subject, headers, payload).await;
                tokens.push(sent.map_err(|error| sent_some(index, error))?);
            } else {
                let sent = timeout(ACK_WAIT, self.client.publish_with_headers(subject, headers, payload));
                if !matches!(sent.await, Ok(Ok(()))) {
                    return Err(PublishError::Unknown);
                }
            }
        }
        let ack: Ack = self.reply(&tokens).await?;
        if ack.count != u64::try_from(count).ok() {
            return Err(PublishError::Unknown);
        }
        self.note_place(stream, &ack);
        Ok(ack)
    }

    /// Sends a message that asks for a reply, and returns the number the reply will bear.
    async fn send(&mut self, subject: String, headers: HeaderMap, payload: Bytes) -> Result<u64, PublishError> {
        let token = self.next;
        self.next += 1;
        let reply = format!("{}.{token}", self.inbox);
        let sent =
            timeout(ACK_WAIT, self.client.publish_with_reply_and_headers(subject, reply, headers, payload)).await;
        match sent {
            Ok(Ok(())) => Ok(token),
            Ok(Err(error)) => Err(PublishError::NotSent(error.to_string())),
            Err(_) => Err(PublishError::NotSent("the connection takes nothing".to_owned())),
        }
    }

    /// Waits for the reply to the last of `tokens`, or a refusal of any.
    async fn reply<T: for<'de> Deserialize<'de>>(&mut self, tokens: &[u64]) -> Result<T, PublishError> {
        read(&self.answer(tokens).await?)
    }

    /// As [`Publisher::reply`], unread. Replies to earlier requests are passed over.
    async fn answer(&mut self, tokens: &[u64]) -> Result<Message, PublishError> {
        let deadline = Instant::now() + ACK_WAIT;
        loop {
            let Ok(Some(message)) = timeout_at(deadline, self.replies.next()).await else {
                return Err(PublishError::Unknown);
            };
            let token = message.subject.rsplit('.').next().and_then(|token| token.parse::<u64>().ok());
            let Some(position) = token.and_then(|token| tokens.iter().position(|known| *known == token)) else {
                continue;
            };
            // The first message of a batch is answered by an empty one.
            if position + 1 < tokens.len() && message.payload.is_empty() && message.status.is_none() {
                continue;
            }
            return Ok(message);
        }
    }
}

/// What was begun and broke off is unknown; what never began is not sent.
fn sent_some(index: usize, error: PublishError) -> PublishError {
    if index == 0 { error } else { PublishError::Unknown }
}

fn read<T: for<'de> Deserialize<'de>>(message: &Message) -> Result<T, PublishError> {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return Err(no_stream());
    }
    match serde_json::from_slice::<Reply<T>>(&message.payload) {
        Ok(Reply { error: Some(ReplyError { err_code, description }), .. }) => {
            Err(PublishError::Refused { code: err_code, description })
        }
        Ok(Reply { content: Some(content), .. }) => Ok(content),
        Ok(Reply { content: None, .. }) | Err(_) => Err(PublishError::Unknown),
    }
}

fn no_stream() -> PublishError {
    PublishError::NotSent("no stream takes it, or JetStream is not up".to_owned())
}

/// Adds a header. One that cannot be sent is left out: it must not keep its message and all behind it.
pub(super) fn append(headers: &mut HeaderMap, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
        headers.append(name, value);
    } else {
        tracing::error!(header = name.escape_debug().to_string(), "A header of a message cannot be sent.");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(payload: &str) -> Message {
        Message {
            subject: "_INBOX.identity.x.0".into(),
            reply: None,
            payload: payload.to_owned().into(),
            headers: None,
            status: None,
            description: None,
            length: payload.len(),
        }
    }

    #[test]
    fn acknowledgement_refusal_and_nonsense_are_told_apart() {
        let ack: Ack = read(&reply(r#"{"stream":"EVENTS","seq":17,"duplicate":true}"#)).unwrap();
        assert_eq!((ack.sequence, ack.duplicate), (17, true));
        let ack: Ack = read(&reply(r#"{"stream":"EVENTS","seq":9,"batch":"b","count":3}"#)).unwrap();
        assert_eq!(ack.count, Some(3));

        let full = r#"{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"EVENTS","seq":0}"#;
        let refused = read::<Ack>(&reply(full)).unwrap_err();
        assert_eq!(refused, PublishError::Refused { code: 10_077, description: "maximum bytes exceeded".into() });

        assert_eq!(read::<Ack>(&reply("hello")).unwrap_err(), PublishError::Unknown);
        assert_eq!(read::<Ack>(&reply("{}")).unwrap_err(), PublishError::Unknown);
        let nobody = Message { status: Some(StatusCode::NO_RESPONDERS), ..reply("") };
        assert!(matches!(read::<Ack>(&nobody), Err(PublishError::NotSent(_))));
    }
}
