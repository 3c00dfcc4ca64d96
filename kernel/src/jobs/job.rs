//! A job as it was taken from its queue: read from subject and headers, with faults that say which header is at fault.

use std::fmt;
use std::time::Duration;

use async_nats::jetstream::message::Info;
use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use subjects::job::{self, Place, header};
use subjects::subject::Token;

use super::broker::{append, copied};
use crate::TraceContext;

/// What the subject of every job begins with.
const SUBJECTS: &str = "jobs.";

/// Digits of a place in a stream at most.
const PLACE_DIGITS_MAX: usize = 20;

/// How patient a queue is with its jobs, where they do not say it themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// How often one is tried.
    pub attempts_max: u32,
    /// How long one attempt may take.
    pub timeout_ms: u32,
    /// The first pause before another attempt, before jitter; doubles with each.
    pub backoff_base_ms: u32,
    /// The longest pause.
    pub backoff_max_ms: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self { attempts_max: 10, timeout_ms: 60_000, backoff_base_ms: 1_000, backoff_max_ms: 300_000 }
    }
}

/// A job that is to be run, or runs. Shows itself without its arguments, which may be personal.
#[derive(Clone)]
pub struct Job {
    /// Unique within queue and kind.
    pub id: Token,
    /// Where it was taken from.
    pub place: Place,
    /// JSON, or nothing.
    pub arguments: Bytes,
    /// The attempt that begins, from 1.
    pub attempt: u32,
    /// How many there are.
    pub attempts_max: u32,
    /// How long this one may take.
    pub timeout: Duration,
    /// When it was submitted.
    pub created_at: DateTime<Utc>,
    /// Not begun by then, it is given up.
    pub expires_at: Option<DateTime<Utc>>,
    /// How often it was put back by hand.
    pub round: u32,
    /// How often it waited without an attempt.
    pub waits: u32,
    /// Of the jobs of its queue with the same one, one runs at a time.
    pub concurrency_key: Option<String>,
    /// Whether one that had its id before makes it a duplicate, for as long as the ledger is kept.
    pub unique: bool,
    pub(super) backoff_base: Duration,
    pub(super) backoff_max: Duration,
    /// As they came, without those of the broker, and without what a producer may not say.
    pub(super) headers: HeaderMap,
}

impl Job {
    /// Its name in the ledger. One that was made of a place in the stream is a different one when its store was lost, and the
    /// places begin anew.
    pub(super) fn ledger_id(&self) -> String {
        let id = self.id.to_string();
        let number = id.strip_prefix(job::STREAM).and_then(|rest| rest.strip_prefix('-'));
        // One that a producer made up may begin so too, and would not leave the ledger room for the time.
        let is_place =
            |number: &str| number.len() <= PLACE_DIGITS_MAX && number.bytes().all(|byte| byte.is_ascii_digit());
        if number.is_some_and(is_place) { format!("{id}@{}", self.created_at.timestamp_micros()) } else { id }
    }

    /// Whether nobody served its kind when it was offered last.
    pub(super) fn is_unserved(&self) -> bool {
        value(&self.headers, header::UNSERVED).is_some()
    }

    /// Has its next message say whether anybody serves its kind.
    pub(super) fn note_unserved(&mut self, is_unserved: bool) {
        if self.is_unserved() != is_unserved {
            self.headers = copied(&self.headers, |name| name != header::UNSERVED);
            if is_unserved {
                append(&mut self.headers, header::UNSERVED, "true");
            }
        }
    }

    /// Whether this is not an attempt at what was taken before.
    pub(super) fn is_first(&self) -> bool {
        (self.round, self.attempt, self.waits) == (0, 1, 0)
    }

    /// The trace of who submitted it.
    pub fn trace(&self) -> Option<TraceContext> {
        value(&self.headers, "traceparent").and_then(TraceContext::parse)
    }

    /// The pause before the attempt behind this one: base × 2^(attempt-1), at most the longest, and of that a part left to
    /// `chance` (full jitter), so that what failed together does not come back together.
    pub(super) fn backoff(&self, chance: f64) -> Duration {
        let doublings = self.attempt.saturating_sub(1).min(31);
        self.backoff_base.saturating_mul(2_u32.saturating_pow(doublings)).min(self.backoff_max).mul_f64(chance)
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("id", &self.id)
            .field("place", &self.place)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

/// A message of the work queue.
pub(super) struct Delivery {
    pub(super) subject: Subject,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Where its acknowledgement goes.
    pub(super) ack: Subject,
    /// Deliveries of this message, this one included.
    pub(super) delivered: u64,
    pub(super) sequence: u64,
    pub(super) published: DateTime<Utc>,
}

impl Delivery {
    /// `None` for what did not come from this consumer: workers may publish into every inbox of the jobs service, whatever reply
    /// they like, but not under the subject of a job.
    pub(super) fn read(message: async_nats::jetstream::Message, consumer: &str) -> Option<Self> {
        if !message.subject.starts_with(SUBJECTS) {
            return None;
        }
        let (delivered, sequence, published) = {
            let info: Info<'_> = message.info().ok()?;
            if info.stream != job::STREAM || info.consumer != consumer {
                return None;
            }
            let published = DateTime::from_timestamp(info.published.unix_timestamp(), info.published.nanosecond())?;
            (u64::try_from(info.delivered).ok()?, info.stream_sequence, published)
        };
        let message = message.message;
        Some(Self {
            subject: message.subject,
            headers: message.headers.unwrap_or_default(),
            body: message.payload,
            ack: message.reply?,
            delivered,
            sequence,
            published,
        })
    }

    /// What a job without an id of its own is called.
    pub(super) fn place_id(&self) -> Token {
        Token::parse(&format!("{}-{}", job::STREAM, self.sequence)).expect("a word and digits")
    }

    /// Where it was submitted; a fault where no runner can serve that.
    pub(super) fn place(&self) -> Result<Place, String> {
        Place::parse(&self.subject).ok_or_else(|| "queue and kind must be 1 to 64 of [A-Za-z0-9_-]".to_owned())
    }

    /// The job, or what is wrong with it.
    pub(super) fn job(&self, place: Place, patience: Patience) -> Result<Job, String> {
        let headers_bytes = headers_bytes(&self.headers);
        if headers_bytes > job::HEADERS_BYTES_MAX {
            return Err(format!("the headers have {headers_bytes} bytes, {} at most", job::HEADERS_BYTES_MAX));
        }
        let fired = value(&self.headers, header::SCHEDULER).is_some();
        let id = match (fired, value(&self.headers, header::ID), value(&self.headers, header::MESSAGE_ID)) {
            (true, Some(id), _) => {
                Token::parse(id).ok_or_else(|| fault(header::ID, "must be 1 to 64 of [A-Za-z0-9_-]"))?
            }
            (false, _, Some(id)) => {
                let own = format!("{}.{}:", place.queue, place.kind);
                id.strip_prefix(&own).and_then(Token::parse).ok_or_else(|| {
                    fault(header::MESSAGE_ID, &format!("must be `{own}` and 1 to 64 of [A-Za-z0-9_-]"))
                })?
            }
            (true, None, _) | (false, _, None) => self.place_id(),
        };
        if self.body.len() > job::ARGUMENTS_BYTES_MAX {
            return Err(format!("the arguments have {} bytes, {} at most", self.body.len(), job::ARGUMENTS_BYTES_MAX));
        }
        subjects::json::check_any(&self.body).map_err(|error| format!("the arguments are no JSON: {error:?}"))?;
        let trusted = |name| fired.then(|| value(&self.headers, name)).flatten();
        let attempts_max = self.number(header::MAX_ATTEMPTS, job::ATTEMPTS_MAX)?.unwrap_or(patience.attempts_max);
        let timeout_ms = self.number(header::TIMEOUT_MS, job::DURATION_MS_MAX)?.unwrap_or(patience.timeout_ms);
        let base_ms = self.number(header::BACKOFF_BASE_MS, job::DURATION_MS_MAX)?.unwrap_or(patience.backoff_base_ms);
        let count = |name: &'static str, default: u32| match trusted(name) {
            Some(text) => text.parse().map_err(|_| fault(name, "must be a whole number")),
            None => Ok(default),
        };
        let expires_at =
            value(&self.headers, header::EXPIRES_AT).map(|text| time(header::EXPIRES_AT, text)).transpose()?;
        let concurrency_key = match value(&self.headers, header::CONCURRENCY_KEY) {
            Some(key) if job::is_concurrency_key(key) => Some(key.to_owned()),
            Some(_) => return Err(fault(header::CONCURRENCY_KEY, "must be 1 to 128 visible characters of ASCII")),
            None => None,
        };
        let unique = match value(&self.headers, header::UNIQUE) {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err(fault(header::UNIQUE, "must be true or false")),
        };
        if unique && !fired && value(&self.headers, header::MESSAGE_ID).is_none() {
            return Err(fault(header::UNIQUE, &format!("needs an id in {}", header::MESSAGE_ID)));
        }
        let created_at = trusted(header::CREATED_AT).map(|text| time(header::CREATED_AT, text)).transpose()?;
        Ok(Job {
            id,
            arguments: self.body.clone(),
            attempt: count(header::ATTEMPT, 1)?.max(1),
            attempts_max,
            timeout: Duration::from_millis(timeout_ms.into()),
            created_at: created_at.unwrap_or(self.published),
            expires_at,
            round: count(header::ROUND, 0)?,
            waits: count(header::WAITS, 0)?,
            concurrency_key,
            unique,
            backoff_base: Duration::from_millis(base_ms.into()),
            backoff_max: Duration::from_millis(patience.backoff_max_ms.into()),
            headers: copied(&self.headers, |name| {
                !job::is_brokers(name) && (fired || !header::RUNNERS.contains(&name))
            }),
            place,
        })
    }

    /// The headers without those of the broker.
    pub(super) fn own_headers(&self) -> HeaderMap {
        copied(&self.headers, |name| !job::is_brokers(name))
    }

    /// A number from 1 to `max`, where the header is there.
    fn number(&self, name: &'static str, max: u32) -> Result<Option<u32>, String> {
        let Some(text) = value(&self.headers, name) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| (1..=max).contains(number));
        number.map(Some).ok_or_else(|| fault(name, &format!("must be a whole number from 1 to {max}")))
    }
}

/// See [`job::headers_bytes`].
pub(super) fn headers_bytes(headers: &HeaderMap) -> usize {
    let all = headers.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
    job::headers_bytes(all.map(|(name, value)| (name.as_ref(), value.as_str())))
}

fn fault(header: &str, what: &str) -> String {
    format!("the header {header} {what}")
}

fn time(header: &str, text: &str) -> Result<DateTime<Utc>, String> {
    DateTime::parse_from_rfc3339(text)
        .map(|time| time.to_utc())
        .map_err(|_| fault(header, "must be a time as in RFC 3339"))
}

/// The first value of a header. A job has few, and to look one up by its name would allocate it.
pub(super) fn value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let (_, values) = headers.iter().find(|(known, _)| AsRef::<str>::as_ref(*known) == name)?;
    values.first().map(async_nats::HeaderValue::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(subject: &'static str, headers: &[(&'static str, &str)], body: &'static str) -> Delivery {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse::<async_nats::HeaderValue>().unwrap());
        }
        Delivery {
            subject: subject.into(),
            headers: map,
            body: Bytes::from_static(body.as_bytes()),
            ack: "_".into(),
            delivered: 1,
            sequence: 7,
            published: DateTime::UNIX_EPOCH,
        }
    }

    fn read(headers: &[(&'static str, &str)], body: &'static str) -> Result<Job, String> {
        let delivery = delivery("jobs.q.k.high", headers, body);
        delivery.job(delivery.place()?, Patience::default())
    }

    #[test]
    fn a_job_without_headers_has_the_patience_of_its_queue_and_its_place_as_id() {
        let job = read(&[], "{}").unwrap();

        assert_eq!((job.id.to_string().as_str(), job.attempt, job.attempts_max), ("JOBS-7", 1, 10));
        assert_eq!(job.timeout, Duration::from_mins(1));
    }

    #[test]
    fn the_id_is_the_message_id_behind_queue_and_kind() {
        assert_eq!(read(&[("Nats-Msg-Id", "q.k:abc")], "").unwrap().id.to_string(), "abc");
        for foreign in ["abc", "other.k:abc", "q.k:", "q.k:a b", "q.k.high:abc"] {
            assert!(read(&[("Nats-Msg-Id", foreign)], "").is_err(), "{foreign}");
        }
    }

    #[test]
    fn what_only_a_schedule_may_say_is_not_believed_of_a_producer() {
        let said = [("Job-Id", "x"), ("Job-Attempt", "9"), ("Job-Round", "3"), ("Job-Created-At", "nonsense")];
        let job = read(&said, "{}").unwrap();
        assert_eq!((job.id.to_string().as_str(), job.attempt, job.round), ("JOBS-7", 1, 0));

        let fired = [("Nats-Scheduler", "schedules.x"), ("Job-Id", "x"), ("Job-Attempt", "9"), ("Job-Round", "3")];
        let job = read(&fired, "{}").unwrap();
        assert_eq!((job.id.to_string().as_str(), job.attempt, job.round), ("x", 9, 3));
        assert!(job.headers.get("Nats-Scheduler").is_none() && job.headers.get("Job-Id").is_some());
    }

    #[test]
    fn that_nobody_serves_a_kind_is_believed_of_a_schedule_and_forgotten_when_somebody_does() {
        let mut job = read(&[("Job-Unserved", "true")], "{}").unwrap();
        assert!(!job.is_unserved());
        job.note_unserved(true);
        assert!(job.is_unserved());

        let fired = [("Nats-Scheduler", "schedules.x"), ("Job-Id", "x"), ("Job-Unserved", "true"), ("Shop", "7")];
        let mut job = read(&fired, "{}").unwrap();
        assert!(job.is_unserved());
        job.note_unserved(false);
        assert!(!job.is_unserved() && job.headers.get("Shop").is_some());
    }

    #[test]
    fn headers_have_a_bound_that_those_of_broker_and_runner_do_not_count_for() {
        let value = |bytes: usize| "x".repeat(bytes);
        // `Shop: ` and the end of the line.
        let most = value(job::HEADERS_BYTES_MAX - 8);
        assert!(read(&[("Shop", &most), ("Nats-Much", &value(40_000)), ("Job-Attempt", &value(9))], "{}").is_ok());
        for more in [&[("Shop", most.as_str()), ("A", "")][..], &[("Shop", &value(8_192)), ("Shop", &value(8_192))]] {
            assert!(read(more, "{}").unwrap_err().contains("16384 at most"));
        }
    }

    #[test]
    fn a_header_that_is_not_what_it_must_be_is_named() {
        for (name, text) in [
            ("Job-Max-Attempts", "-1"),
            ("Job-Max-Attempts", "0"),
            ("Job-Max-Attempts", "1001"),
            ("Job-Timeout-Ms", "soon"),
            ("Job-Timeout-Ms", "99999999999999999999"),
            ("Job-Expires-At", "tomorrow"),
            ("Job-Backoff-Base-Ms", "1.5"),
            ("Job-Concurrency-Key", ""),
            ("Job-Concurrency-Key", "two words"),
            ("Job-Unique", "yes"),
            ("Job-Unique", "true"),
        ] {
            assert!(read(&[(name, text)], "{}").unwrap_err().contains(name), "{name}: {text}");
        }
        assert!(read(&[], "{").unwrap_err().contains("no JSON"));
    }

    #[test]
    fn an_id_that_was_made_of_a_place_is_another_one_in_another_store() {
        let mut job = read(&[], "{}").unwrap();
        let first = job.ledger_id();
        job.created_at += chrono::TimeDelta::seconds(1);
        assert_ne!(job.ledger_id(), first);
        assert!(first.len() <= 64);
        // Such an id is a producer's own.
        for own in ["JOBS-7a".to_owned(), format!("JOBS-{}", "7".repeat(59))] {
            let job = read(&[("Nats-Msg-Id", &format!("q.k:{own}"))], "").unwrap();
            assert_eq!(job.ledger_id(), own);
        }

        let own =
            read(&[("Nats-Msg-Id", "q.k:abc"), ("Job-Unique", "true"), ("Job-Concurrency-Key", "a/1")], "").unwrap();
        assert_eq!((own.ledger_id().as_str(), own.unique, own.concurrency_key.as_deref()), ("abc", true, Some("a/1")));
        assert!(own.is_first());
    }

    #[test]
    fn backoff_doubles_to_its_bound_and_is_left_to_chance() {
        let mut job = read(&[("Job-Backoff-Base-Ms", "1000")], "{}").unwrap();
        let pauses: Vec<u64> = [1, 2, 3, 4]
            .into_iter()
            .map(|attempt| {
                job.attempt = attempt;
                job.backoff(1.0).as_secs()
            })
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8]);
        job.attempt = 1_000;
        assert_eq!(job.backoff(1.0), Duration::from_mins(5));
        assert_eq!(job.backoff(0.0), Duration::ZERO);
    }
}
