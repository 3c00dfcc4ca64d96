//! A dead letter as it is stored, and a message made of one again.

use async_nats::HeaderMap;
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use subjects::dead_letter::{self, header};

use super::super::publisher::{Outgoing, append};
use super::message::Message;
use crate::{Error, Result};

/// Bytes of a reason at most.
const REASON_BYTES_MAX: usize = 512;

/// What subject and headers of a letter may take on the wire beside those of the original.
const ENVELOPE_BYTES_MAX: usize = 4 * 1024;

/// A message that was given up.
pub(super) struct Letter {
    subject: String,
    headers: HeaderMap,
    payload: Bytes,
}

impl Letter {
    /// `bytes_max` is what the broker takes; a body that does not fit beside the headers stays in its own stream.
    pub(super) fn new(
        stream: &str,
        durable: &str,
        message: &Message,
        reason: &str,
        now: DateTime<Utc>,
        bytes_max: usize,
    ) -> Self {
        let mut headers = HeaderMap::new();
        let mut header_bytes = 0;
        for (name, value) in message.headers() {
            // Those of the broker are about the stored message, which this is not; ours are about this letter.
            if !name.starts_with("Nats-") && !name.starts_with(header::PREFIX) {
                append(&mut headers, name, value);
                header_bytes += name.len() + value.len() + 4;
            }
        }
        let mut payload = message.body();
        if payload.len() + header_bytes + message.subject().len() + ENVELOPE_BYTES_MAX > bytes_max {
            append(&mut headers, header::BODY_OMITTED, &payload.len().to_string());
            payload = Bytes::new();
        }
        let facts = [
            // A repetition, after an acknowledgement that was lost, is not stored again (the stream remembers for a day).
            ("Nats-Msg-Id", format!("{durable}:{}", message.id())),
            (header::CONSUMER, durable.to_owned()),
            (header::SUBJECT, message.subject().to_owned()),
            (header::STREAM, stream.to_owned()),
            (header::SEQUENCE, message.sequence().to_string()),
            (header::MESSAGE_ID, message.id().to_owned()),
            (header::ATTEMPTS, message.delivered().to_string()),
            (header::REASON, in_one_line(reason)),
            (header::TIME, now.to_rfc3339_opts(SecondsFormat::Micros, true)),
        ];
        for (name, value) in facts {
            append(&mut headers, name, &value);
        }
        Self { subject: dead_letter::subject(durable, message.subject()), headers, payload }
    }

    pub(super) fn outgoing(&self) -> Outgoing<'_> {
        Outgoing { subject: &self.subject, headers: self.headers.clone(), payload: self.payload.clone() }
    }
}

/// The message that a stored letter was made of, for its own consumer. Fails with 404 when the letter is another's.
pub(super) fn open(durable: &str, letter: async_nats::Message) -> Result<Message> {
    let headers = letter.headers.unwrap_or_default();
    let stored = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
    // The broker says where it was stored, and lets nobody but this service store under its consumers.
    let own = dead_letter::subjects(durable);
    let is_own = stored("Nats-Subject").is_some_and(|subject| subject.starts_with(own.trim_end_matches('>')));
    let fact = |name: &str| stored(name).filter(|_| is_own).ok_or_else(|| not_found(durable));
    if stored(header::BODY_OMITTED).is_some() {
        let detail = "The letter has no body: it was too large to be kept. Publish the message anew at its source.";
        return Err(Error::conflict("body_omitted", detail));
    }
    let (subject, id) = (fact(header::SUBJECT)?, fact(header::MESSAGE_ID)?);
    let sequence = fact(header::SEQUENCE)?.parse().map_err(|_| not_found(durable))?;
    let mut original = HeaderMap::new();
    append(&mut original, "Nats-Msg-Id", &id);
    for (name, values) in headers.iter() {
        let name = AsRef::<str>::as_ref(name);
        if !name.starts_with("Nats-") && !name.starts_with(header::PREFIX) {
            for value in values {
                append(&mut original, name, value.as_str());
            }
        }
    }
    Ok(Message::from_letter(subject, id, original, letter.payload, sequence))
}

pub(super) fn not_found(durable: &str) -> Error {
    Error::not_found(format!("There is no such dead letter of the consumer {durable}."))
}

/// Without control characters, which no header can hold, and not too long.
fn in_one_line(reason: &str) -> String {
    let mut line: String = reason.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    line.truncate(line.floor_char_boundary(REASON_BYTES_MAX));
    line
}

#[cfg(test)]
mod tests {
    use async_nats::HeaderValue;

    use super::*;

    fn message(headers: &[(&str, &str)], body: &'static [u8]) -> Message {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            append(&mut map, name, value);
        }
        Message::from_letter("audit.identity.user.created".into(), "id-1".into(), map, Bytes::from_static(body), 7)
    }

    fn stored(letter: &Letter) -> async_nats::Message {
        let mut headers = letter.headers.clone();
        append(&mut headers, "Nats-Subject", &letter.subject);
        append(&mut headers, "Nats-Sequence", "3");
        async_nats::Message {
            subject: "_INBOX.audit.1".into(),
            reply: None,
            payload: letter.payload.clone(),
            headers: Some(headers),
            status: None,
            description: None,
            length: 0,
        }
    }

    fn bury(message: &Message, reason: &str, bytes_max: usize) -> Letter {
        Letter::new("AUDIT", "audit", message, reason, DateTime::UNIX_EPOCH, bytes_max)
    }

    #[test]
    fn letter_becomes_the_message_again_for_its_own_consumer_only() {
        let original =
            message(&[("traceparent", "00-a"), ("Nats-Msg-Id", "id-1"), ("Nats-Expected-Stream", "AUDIT")], b"{}");

        let letter = bury(&original, "line one\r\nline two", 1_000_000);

        assert_eq!(letter.subject, "dlq.evt.audit.identity.user.created");
        let header = |name: &str| letter.headers.get(name).map(HeaderValue::as_str);
        assert_eq!(header("Nats-Msg-Id"), Some("audit:id-1"));
        assert_eq!(header("Nats-Expected-Stream"), None);
        assert_eq!(header(header::REASON), Some("line one  line two"));
        assert_eq!(header(header::TIME), Some("1970-01-01T00:00:00.000000Z"));
        let again = open("audit", stored(&letter)).unwrap();
        assert_eq!((again.subject(), again.id(), again.sequence()), ("audit.identity.user.created", "id-1", 7));
        assert_eq!((again.header("traceparent"), again.payload()), (Some("00-a"), &b"{}"[..]));
        assert_eq!(open("mail", stored(&letter)).unwrap_err().status(), 404);
    }

    #[test]
    fn body_that_does_not_fit_stays_where_it_was() {
        let letter = bury(&message(&[], &[b'x'; 5_000]), "", 9_000);

        assert!(letter.payload.is_empty());
        assert_eq!(letter.headers.get(header::BODY_OMITTED).map(HeaderValue::as_str), Some("5000"));
        assert_eq!(open("audit", stored(&letter)).unwrap_err().code(), "body_omitted");
    }
}
