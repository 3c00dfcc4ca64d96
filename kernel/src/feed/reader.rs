//! What a stream holds, read without a consumer by `$JS.API.DIRECT.GET.<stream>` (ADR-31): a few messages at once, each
//! read bounded in messages, bytes and time.

use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, Subscriber};
use bytes::Bytes;
use chrono::{DateTime, SubsecRound as _, Utc};
use futures::StreamExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout, timeout_at};

use super::message::number;
use super::{Place, StoredMessage};

/// How long one read may take.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Messages of one read at most.
pub const PAGE_MESSAGES_MAX: usize = 1_024;

/// Bytes of one read, about: the one message more that crosses the bound is still sent.
const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// What was read, in the order of the stream.
#[derive(Debug, Default)]
pub struct Page {
    /// At most as many as were asked for.
    pub messages: Vec<StoredMessage>,
    /// How many there are behind them.
    pub pending: u64,
}

/// Of what the broker tells of a stream, what matters here.
#[derive(Debug, Deserialize)]
struct Info {
    created: DateTime<Utc>,
    state: InfoState,
}

#[derive(Debug, Deserialize)]
struct InfoState {
    first_seq: u64,
}

/// Why nothing was read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The broker is away, or has no such stream.
    #[error("nobody serves the stream")]
    Unavailable,
    /// The whole answer did not come in time.
    #[error("no whole answer within {} s", READ_TIMEOUT.as_secs())]
    Late,
    /// The server does not do that.
    #[error("the server refuses the read: {0}")]
    Refused(String),
}

/// Reads one stream. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StreamReader {
    client: Client,
    stream: &'static str,
}

impl StreamReader {
    pub(super) fn new(client: Client, stream: &'static str) -> Self {
        Self { client, stream }
    }

    /// The first messages behind `sequence` that `filter` covers, at most `messages` of them and about `bytes` bytes.
    /// Ask again behind the last one for more; what is past the stream's bounds is not there any more.
    pub async fn after(&self, filter: &str, sequence: u64, messages: usize, bytes: usize) -> Result<Page, ReadError> {
        let batch = messages.clamp(1, PAGE_MESSAGES_MAX);
        let bytes = bytes.clamp(1, PAGE_BYTES_MAX);
        let next = sequence.saturating_add(1);
        self.read(&json!({ "seq": next, "next_by_subj": filter, "batch": batch, "max_bytes": bytes })).await
    }

    /// The sequence of the first message that is kept; `None` where there is none.
    pub async fn first_sequence(&self) -> Result<Option<u64>, ReadError> {
        let page = self.read(&json!({ "seq": 1, "next_by_subj": ">" })).await?;
        Ok(page.messages.first().map(|message| message.sequence))
    }

    /// The sequence of the last message that is kept; `None` where there is none.
    pub async fn last_sequence(&self) -> Result<Option<u64>, ReadError> {
        let page = self.read(&json!({ "last_by_subj": ">" })).await?;
        Ok(page.messages.first().map(|message| message.sequence))
    }

    /// The last place of a message that any of `filters` covers; where there is none any more, that before the first message
    /// that is kept.
    pub async fn end(&self, filters: &[&str]) -> Result<Place, ReadError> {
        let info = self.info().await?;
        let mut sequence = info.state.first_seq.saturating_sub(1);
        for filter in filters {
            // A literal one is asked for in the subject, so that the broker can hold a reader to it.
            let page = if filter.contains(['*', '>']) {
                self.read(&json!({ "last_by_subj": filter })).await?
            } else {
                self.get(format!("$JS.API.DIRECT.GET.{}.{filter}", self.stream), Bytes::new(), true).await?
            };
            sequence = page.messages.first().map_or(sequence, |message| message.sequence.max(sequence));
        }
        Ok(Place { created: info.created.trunc_subsecs(6), sequence })
    }

    async fn info(&self) -> Result<Info, ReadError> {
        let mut answers = self.ask(format!("$JS.API.STREAM.INFO.{}", self.stream), Bytes::new()).await?;
        let Ok(Some(message)) = timeout(READ_TIMEOUT, answers.next()).await else { return Err(ReadError::Late) };
        if message.status.is_some() {
            return Err(ReadError::Unavailable);
        }
        serde_json::from_slice(&message.payload).map_err(|_| refused(&String::from_utf8_lossy(&message.payload)))
    }

    /// The last message of each subject that `filters` cover, as of `up_to` where it is given: a snapshot. Refused where
    /// there are more than [`PAGE_MESSAGES_MAX`].
    pub async fn last_of_each(&self, filters: &[&str], up_to: Option<u64>) -> Result<Vec<StoredMessage>, ReadError> {
        let mut query = json!({ "multi_last": filters, "batch": PAGE_MESSAGES_MAX });
        if let Some(up_to) = up_to {
            query["up_to_seq"] = up_to.into();
        }
        let page = self.read(&query).await?;
        if page.pending > 0 {
            return Err(ReadError::Refused(format!("there are more than {PAGE_MESSAGES_MAX} subjects")));
        }
        Ok(page.messages)
    }

    async fn ask(&self, subject: String, question: Bytes) -> Result<Subscriber, ReadError> {
        let inbox = self.client.new_inbox();
        let opened = self.client.subscribe(inbox.clone()).await;
        let answers = opened.map_err(|_| ReadError::Unavailable)?;
        let asked = self.client.publish_with_reply(subject, inbox, question).await;
        asked.map_err(|_| ReadError::Unavailable)?;
        Ok(answers)
    }

    async fn read(&self, query: &Value) -> Result<Page, ReadError> {
        let subject = format!("$JS.API.DIRECT.GET.{}", self.stream);
        self.get(subject, Bytes::from(query.to_string()), query.get("batch").is_none()).await
    }

    async fn get(&self, subject: String, question: Bytes, single: bool) -> Result<Page, ReadError> {
        let mut answers = self.ask(subject, question).await?;
        let deadline = Instant::now() + READ_TIMEOUT;
        let mut page = Page::default();
        loop {
            let Ok(Some(message)) = timeout_at(deadline, answers.next()).await else { return Err(ReadError::Late) };
            match message.status.map(|status| status.as_u16()) {
                None => {
                    let message = StoredMessage::read(message);
                    page.messages.push(message.ok_or_else(|| refused("a message without its sequence"))?);
                    if single {
                        return Ok(page);
                    }
                }
                Some(204) => {
                    page.pending = message.headers.as_ref().map_or(0, pending);
                    return Ok(page);
                }
                // There is no such message.
                Some(404) => return Ok(page),
                Some(503) => return Err(ReadError::Unavailable),
                Some(_) => return Err(refused(&description(&message))),
            }
        }
    }
}

fn pending(headers: &HeaderMap) -> u64 {
    number(headers, "Nats-Num-Pending").unwrap_or(0)
}

fn description(message: &Message) -> String {
    message.description.clone().unwrap_or_default()
}

fn refused(why: &str) -> ReadError {
    ReadError::Refused(why.to_owned())
}
