//! Jobs that no runner can take. The broker stores subject and header block of a message as they are, whatever they are; the client
//! gives its connection up over one that it cannot read, and the job comes again on the next connection, for ever. Where the queue
//! is none, there is no consumer that it could come from.
//!
//! So what was delivered more than once, and what has no queue, is looked at in the broker's own words, which are JSON, and given
//! up: with its body, and without its headers where nobody could carry them.

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::json;
use subjects::job::{self, Lane, Place, header};
use subjects::subject::Token;

use super::broker::{Ask, JobBroker, append, copied, rfc3339};
use super::job::headers_bytes;
use crate::Result;

/// `JetStream`'s code for a message that is not there.
const MESSAGE_NOT_FOUND: u64 = 10_037;

/// Messages under one filter that are looked at in one go.
const LOOKED_AT_MAX: usize = 1_000;

/// What the broker's JSON has in place of bytes that are not UTF-8.
const NO_CHARACTER: char = char::REPLACEMENT_CHARACTER;

#[derive(Deserialize)]
struct Page {
    total: usize,
    #[serde(default)]
    consumers: Vec<Consumer>,
}

#[derive(Deserialize)]
struct Consumer {
    config: Config,
    delivered: Sequences,
    ack_floor: Sequences,
    #[serde(default)]
    num_redelivered: u64,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    filter_subject: Option<String>,
    #[serde(default)]
    filter_subjects: Vec<String>,
}

#[derive(Deserialize)]
struct Sequences {
    stream_seq: u64,
}

#[derive(Deserialize)]
struct Got {
    message: Stored,
}

/// As it is stored; header block and body in Base64.
#[derive(Deserialize)]
pub(super) struct Stored {
    subject: String,
    seq: u64,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
    pub(super) time: DateTime<Utc>,
}

impl Stored {
    /// `None` where no client can read them.
    fn headers(&self) -> Option<HeaderMap> {
        read(&STANDARD.decode(&self.hdrs).ok()?)
    }

    /// Whether a client can read it. A name that it can read is the runner's to judge.
    fn is_readable(&self) -> bool {
        // With headers, any white space ends a part of the line that says what comes; else a space alone, which no subject has.
        let is_line = self.hdrs.is_empty() || !self.subject.contains(char::is_whitespace);
        is_line && !self.subject.contains(NO_CHARACTER) && self.headers().is_some()
    }
}

impl JobBroker {
    /// Gives up what was delivered more than once and cannot be read. What is there of it comes by the next look.
    pub async fn bury_unreadable(&self, now: DateTime<Utc>) -> Result<()> {
        let mut seen = 0;
        loop {
            let page: Page = self.ask(&format!("CONSUMER.LIST.{}", job::STREAM), &json!({ "offset": seen })).await?;
            for consumer in page.consumers.iter().filter(|consumer| consumer.num_redelivered > 0) {
                let filters = consumer.config.filter_subjects.iter().chain(&consumer.config.filter_subject);
                for filter in filters {
                    self.bury_unreadable_of(consumer, filter, now).await?;
                }
            }
            seen += page.consumers.len();
            if page.consumers.is_empty() || seen >= page.total {
                return Ok(());
            }
        }
    }

    async fn bury_unreadable_of(&self, consumer: &Consumer, filter: &str, now: DateTime<Utc>) -> Result<()> {
        let mut next = consumer.ack_floor.stream_seq + 1;
        for _ in 0..LOOKED_AT_MAX {
            let stored = match self.next_stored(next, filter).await? {
                Some(stored) if stored.seq <= consumer.delivered.stream_seq => stored,
                _ => break,
            };
            next = stored.seq + 1;
            if !stored.is_readable() {
                self.bury_stored(&stored, "its name or its headers are none that a client can read", now).await?;
            }
        }
        Ok(())
    }

    /// Gives a job up that no runner can take, since its subject names no queue.
    pub async fn bury_unnamed(&self, subject: &str, now: DateTime<Utc>) -> Result<()> {
        // The broker cannot be asked for bytes that are not UTF-8.
        let word = |word: &str| if word.contains(NO_CHARACTER) { "*".to_owned() } else { word.to_owned() };
        let filter = subject.split('.').map(word).collect::<Vec<_>>().join(".");
        let mut next = 1;
        for _ in 0..LOOKED_AT_MAX {
            let Some(stored) = self.next_stored(next, &filter).await? else { break };
            if stored.subject == subject {
                let error = "queue and kind must be 1 to 64 of [A-Za-z0-9_-]";
                return self.bury_stored(&stored, error, now).await;
            }
            next = stored.seq + 1;
        }
        Ok(())
    }

    /// The first job from a place of the work queue on whose subject a filter covers. Unlike a direct read it harms no
    /// connection, whatever the job is.
    pub(super) async fn next_stored(&self, from: u64, filter: &str) -> Result<Option<Stored>> {
        let which = json!({ "seq": from, "next_by_subj": filter });
        match self.ask::<Got>(&format!("STREAM.MSG.GET.{}", job::STREAM), &which).await {
            Ok(Got { message }) => Ok(Some(message)),
            Err(Ask::Refused(refusal)) if refusal.err_code == MESSAGE_NOT_FOUND => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn bury_stored(&self, stored: &Stored, error: &str, now: DateTime<Utc>) -> Result<()> {
        let own = stored.headers().filter(|headers| headers_bytes(headers) <= job::HEADERS_BYTES_MAX);
        let is_own = |name: &str| {
            !job::is_brokers(name) && !name.starts_with(header::DEAD_PREFIX) && !header::RUNNERS.contains(&name)
        };
        let error = if own.is_some() { error.to_owned() } else { format!("{error}; its headers are left out") };
        let mut headers = copied(&own.unwrap_or_default(), is_own);
        for (name, value) in [
            (header::DEAD_ID, format!("{}-{}", job::STREAM, stored.seq)),
            (header::REASON, "UNDECODABLE".to_owned()),
            (header::ERROR, error),
            (header::FAILED_AT, rfc3339(now)),
            (header::CREATED_AT, rfc3339(stored.time)),
            (header::ORIGINAL_SUBJECT, stored.subject.escape_default().to_string()),
            (header::MESSAGE_ID, format!("unreadable:{}", stored.seq)),
        ] {
            append(&mut headers, name, &value);
        }
        let unnamed = Token::parse("unnamed").expect("a word");
        let mut words =
            stored.subject.split('.').skip(1).map(|word| Token::parse(word).unwrap_or_else(|| unnamed.clone()));
        let mut word = || words.next().unwrap_or_else(|| unnamed.clone());
        let letter = Place { queue: word(), kind: word(), lane: Lane::Normal }.dead_letter_subject();
        let body = Bytes::from(STANDARD.decode(&stored.data).unwrap_or_default());
        self.store(letter, headers, body).await?;
        tracing::error!(sequence = stored.seq, "A job that cannot be read is a dead letter now.");
        self.delete(job::STREAM, stored.seq).await.map(|_| ())
    }
}

/// Reads a header block as the client does; none at all is one without headers. `None` where the client would give its connection
/// up, and where it would take the message for word of the broker, which a status makes it.
fn read(block: &[u8]) -> Option<HeaderMap> {
    let mut lines = str::from_utf8(block).ok()?.lines().peekable();
    if lines.next().is_some_and(|version| version.trim_end() != "NATS/1.0") {
        return None;
    }
    let mut headers = HeaderMap::new();
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        }
        let (name, value) = line.split_once(':')?;
        let mut value = value.trim_start().to_owned();
        while let Some(more) = lines.next_if(|line| line.starts_with(char::is_whitespace)) {
            value.push_str(more);
        }
        headers.append(name.parse::<HeaderName>().ok()?, value.trim_end().parse::<HeaderValue>().ok()?);
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_cannot_read_is_known() {
        for fine in ["", "NATS/1.0\r\n\r\n", "NATS/1.0\r\nShop: 7\r\nShop:8\r\n\r\n", "NATS/1.0\r\nA: b\r\n c\r\n\r\n"]
        {
            assert!(read(fine.as_bytes()).is_some(), "{fine:?}");
        }
        for wrong in [
            &b"NATS/1.0\r\nShop: \xff\r\n\r\n"[..],
            b"NATS/1.0\r\nMy Shop: 1\r\n\r\n",
            b"NATS/1.0\r\nShop: a\rb\r\n\r\n",
            b"NATS/1.0\r\nShop\r\n\r\n",
            b"NATS/1.0 503\r\n\r\n",
            b"NATS/1.0\r\n Shop: 7\r\n\r\n",
            b"NATS/1.0\r\nShop: 7\r\n\r\n A: 1\r\n\r\n",
            b"HTTP/1.1\r\n\r\n",
        ] {
            assert!(read(wrong).is_none(), "{}", wrong.escape_ascii());
        }
        let read = read(b"NATS/1.0\r\nShop: 7\r\nShop:8\r\nA: b\r\n c \r\n\r\n").unwrap();
        let all: Vec<_> = read.get_all("Shop").map(HeaderValue::as_str).collect();
        assert_eq!((all, read.get("A").map(HeaderValue::as_str)), (vec!["7", "8"], Some("b c")));
    }

    #[test]
    fn a_name_that_breaks_the_line_of_a_message_is_known() {
        let is_readable = |subject: &str, hdrs: &str| {
            let (subject, hdrs) = (subject.to_owned(), hdrs.to_owned());
            Stored { subject, seq: 1, hdrs, data: String::new(), time: DateTime::UNIX_EPOCH }.is_readable()
        };
        // `NATS/1.0` and nothing else.
        let headers = "TkFUUy8xLjANCg0K";
        for subject in ["jobs.q.k", "jobs.q.caf\u{e9}", "jobs.q.k.low"] {
            assert!(is_readable(subject, headers) && is_readable(subject, ""), "{subject}");
        }
        for subject in ["jobs.q.a\u{a0}b", "jobs.q.a\u{b}b"] {
            assert!(!is_readable(subject, headers) && is_readable(subject, ""), "{subject:?}");
        }
        assert!(!is_readable("jobs.q.a\u{fffd}b", headers) && !is_readable("jobs.q.a\u{fffd}b", ""));
    }
}
