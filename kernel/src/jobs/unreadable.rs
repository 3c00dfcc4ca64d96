//! Jobs that no client can read. The broker stores the header block of a message as it is, whatever it is; the client gives its
//! connection up over one that it cannot read, and the job comes again on the next connection, for ever.
//!
//! So what was delivered more than once is looked at in the broker's own words, which are JSON, and given up where its headers are
//! none: with its body, and without its headers, which nobody could carry.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::json;
use subjects::job::{self, Place, header};

use super::broker::{Ask, JobBroker, append, rfc3339};
use crate::Result;

/// `JetStream`'s code for a message that is not there.
const MESSAGE_NOT_FOUND: u64 = 10_037;

/// Messages of one consumer that are looked at in one go.
const LOOKED_AT_MAX: usize = 1_000;

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
struct Stored {
    subject: String,
    seq: u64,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
    time: DateTime<Utc>,
}

impl JobBroker {
    /// Gives up what was delivered more than once and has headers that cannot be read. What is there of it comes by the next look.
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
            let which = json!({ "seq": next, "next_by_subj": filter });
            let stored = match self.ask::<Got>(&format!("STREAM.MSG.GET.{}", job::STREAM), &which).await {
                Ok(Got { message }) if message.seq <= consumer.delivered.stream_seq => message,
                Ok(_) => break,
                Err(Ask::Refused(refusal)) if refusal.err_code == MESSAGE_NOT_FOUND => break,
                Err(error) => return Err(error.into()),
            };
            next = stored.seq + 1;
            if !STANDARD.decode(&stored.hdrs).is_ok_and(|headers| is_readable(&headers)) {
                self.bury_stored(&stored, now).await?;
            }
        }
        Ok(())
    }

    async fn bury_stored(&self, stored: &Stored, now: DateTime<Utc>) -> Result<()> {
        let mut headers = async_nats::HeaderMap::new();
        for (name, value) in [
            (header::DEAD_ID, format!("{}-{}", job::STREAM, stored.seq)),
            (header::REASON, "UNDECODABLE".to_owned()),
            (header::ERROR, "its headers are none that a client can read".to_owned()),
            (header::FAILED_AT, rfc3339(now)),
            (header::CREATED_AT, rfc3339(stored.time)),
            (header::ORIGINAL_SUBJECT, stored.subject.escape_default().to_string()),
            (header::MESSAGE_ID, format!("unreadable:{}", stored.seq)),
        ] {
            append(&mut headers, name, &value);
        }
        let letter = Place::parse(&stored.subject)
            .map_or_else(|| "dlq.jobs.unnamed.unnamed".to_owned(), |place| place.dead_letter_subject());
        let body = Bytes::from(STANDARD.decode(&stored.data).unwrap_or_default());
        self.store(letter, headers, body).await?;
        tracing::error!(sequence = stored.seq, "A job with headers that cannot be read is a dead letter now.");
        self.delete(job::STREAM, stored.seq).await.map(|_| ())
    }
}

/// Whether a client takes it for the headers of a message, and of one that says nothing else. None at all are.
fn is_readable(block: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(block) else { return false };
    let mut lines = text.lines().peekable();
    let Some(version) = lines.next() else { return true };
    let is_value = |text: &str| !text.contains('\r');
    version.trim_end() == "NATS/1.0"
        && lines.all(|line| match line.split_once(':') {
            _ if line.is_empty() || line.starts_with(char::is_whitespace) => is_value(line),
            Some((name, value)) => name.bytes().all(|byte| byte.is_ascii_graphic()) && is_value(value),
            None => false,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_cannot_read_is_known() {
        for fine in ["", "NATS/1.0\r\n\r\n", "NATS/1.0\r\nShop: 7\r\nShop:8\r\n\r\n", "NATS/1.0\r\nA: b\r\n c\r\n\r\n"]
        {
            assert!(is_readable(fine.as_bytes()), "{fine:?}");
        }
        for wrong in [
            &b"NATS/1.0\r\nShop: \xff\r\n\r\n"[..],
            b"NATS/1.0\r\nMy Shop: 1\r\n\r\n",
            b"NATS/1.0\r\nShop: a\rb\r\n\r\n",
            b"NATS/1.0\r\nShop\r\n\r\n",
            b"NATS/1.0 503\r\n\r\n",
            b"HTTP/1.1\r\n\r\n",
        ] {
            assert!(!is_readable(wrong), "{}", wrong.escape_ascii());
        }
    }
}
