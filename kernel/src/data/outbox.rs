//! Rows of the outbox as a transaction writes them: events in CloudEvents binary mode, records for the audit log, values of
//! buckets, and jobs.
//!
//! What the broker would refuse for good is refused here, so that no row can be one that never leaves. Sending them is
//! the [`relay`](super::relay)'s.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use chrono::SecondsFormat;
use sqlx::PgConnection;
use subjects::{Event, job};
use uuid::Uuid;

use super::record::{self, AuditAction, Origin};
use crate::jobs::Submission;
use crate::{Error, Result};

/// Bytes of a message's body at most, as in the table's own check. An event must leave room for itself in its audit
/// record, so it can be somewhat less.
pub const PAYLOAD_BYTES_MAX: usize = 256 * 1024;

/// Bytes of a message's headers at most.
pub const HEADERS_BYTES_MAX: usize = 16 * 1024;

/// What the rest of a message may take on the wire: subject, reply, the relay's own headers.
pub(super) const ENVELOPE_BYTES_MAX: usize = 4 * 1024;

/// Makes the partitions of the next days and drops those of the past that need not be kept; the owner's function.
pub(super) const KEEP_PARTITIONS: &str = "SELECT outbox_keep_partitions()";

/// Where a message goes. The order is that in which a round sends them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    /// First: what follows from state is there to be read when its event comes.
    Bucket(Bucket),
    Events,
    Audit,
    Jobs,
    Schedules,
}

/// A key-value bucket that is written with a change. A service may write those of its contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bucket {
    /// The audit log's signed checkpoints, by sequence.
    Checkpoints,
}

impl Bucket {
    const ALL: [Self; 1] = [Self::Checkpoints];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Checkpoints => "checkpoints",
        }
    }

    /// The name of its stream.
    pub fn stream(self) -> &'static str {
        match self {
            Self::Checkpoints => "KV_checkpoints",
        }
    }
}

impl Stream {
    /// Those that a service may write, in the order in which a round sends them.
    pub(super) fn of(service: &str) -> Vec<Self> {
        let declared = subjects::service(service).map_or(&[][..], |contract| contract.buckets);
        let buckets = Bucket::ALL.into_iter().filter(|bucket| declared.contains(&bucket.name()));
        let enqueues = subjects::service(service).map_or(&[][..], |contract| contract.enqueues);
        let jobs = (!enqueues.is_empty()).then_some(Self::Jobs);
        let schedules = enqueues.iter().any(|queue| queue.delayed).then_some(Self::Schedules);
        buckets.map(Self::Bucket).chain([Self::Events, Self::Audit]).chain(jobs).chain(schedules).collect()
    }

    /// Whether its messages go away when what they ask for is done, so that the absence of one says nothing.
    pub(super) fn is_consumed(self) -> bool {
        matches!(self, Self::Jobs | Self::Schedules)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bucket(bucket) => bucket.stream(),
            Self::Events => "EVENTS",
            Self::Audit => "AUDIT",
            Self::Jobs => job::STREAM,
            Self::Schedules => job::SCHEDULES,
        }
    }
}

/// A message on its way into the table.
#[derive(Debug)]
pub(super) struct Draft {
    id: Uuid,
    stream: Stream,
    subject: String,
    headers: BTreeMap<Cow<'static, str>, String>,
    payload: Vec<u8>,
}

impl Draft {
    /// An event with CloudEvents 1.0 attributes in headers and its own JSON as body.
    pub(super) fn event<E: Event>(origin: &Origin, event: &E) -> Self {
        let contract = E::CONTRACT;
        let id = origin.new_id();
        let mut headers = origin.headers(id);
        headers.insert("ce-specversion".into(), "1.0".to_owned());
        headers.insert("ce-id".into(), id.to_string());
        headers.insert("ce-source".into(), format!("urn:trunkline:service:{}", contract.service));
        headers.insert("ce-type".into(), contract.action().to_owned());
        headers.insert("ce-time".into(), origin.now().to_rfc3339_opts(SecondsFormat::Micros, true));
        let target = event.target_id();
        if !target.is_empty() {
            headers.insert("ce-subject".into(), percent_encoded(target));
        }
        let payload = subjects::json::encode(event);
        Self { id, stream: Stream::Events, subject: contract.subject.to_owned(), headers, payload }
    }

    /// The record of an action for the audit log.
    pub(super) fn record(origin: &Origin, action: &AuditAction<'_>) -> Self {
        let id = origin.new_id();
        let record = record::build(origin, id, action);
        Self {
            id,
            stream: Stream::Audit,
            subject: subjects::subject::audit(action.action),
            headers: origin.headers(id),
            payload: subjects::json::encode(&record),
        }
    }

    /// A job for its queue, or for later. By its id it is the same job however often it is sent.
    pub(super) fn job(origin: &Origin, submission: Submission) -> Self {
        let id = origin.new_id();
        let (subject, own) = submission.message(origin.now());
        let mut headers = origin.headers(id);
        headers.extend(own.into_iter().map(|(name, value)| (Cow::Owned(name), value)));
        // So that one which was done is known when its stream was lost and it is sent again.
        headers.insert(job::header::UNIQUE.into(), "true".to_owned());
        let stream = if submission.is_delayed(origin.now()) { Stream::Schedules } else { Stream::Jobs };
        Self { id, stream, subject, headers, payload: submission.arguments.into() }
    }

    /// The value of a key.
    pub(super) fn value(origin: &Origin, bucket: Bucket, key: &str, value: Vec<u8>) -> Self {
        let id = origin.new_id();
        Self {
            id,
            stream: Stream::Bucket(bucket),
            subject: format!("$KV.{}.{key}", bucket.name()),
            headers: origin.headers(id),
            payload: value,
        }
    }

    pub(super) fn id(&self) -> Uuid {
        self.id
    }

    /// Of body and headers.
    pub(super) fn bytes(&self) -> usize {
        self.payload.len() + self.headers_bytes()
    }

    fn headers_bytes(&self) -> usize {
        self.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum()
    }

    /// Whether the broker takes it.
    pub(super) fn check(&self) -> Result<()> {
        let headers = self.headers_bytes();
        if self.payload.len() <= PAYLOAD_BYTES_MAX && headers <= HEADERS_BYTES_MAX {
            return Ok(());
        }
        let sizes = format!("{} has {} bytes of body and {headers} of headers", self.subject, self.payload.len());
        Err(Error::internal().with_source(format!("a message is too large for the outbox: {sizes}")))
    }
}

/// Writes checked messages in their order.
pub(super) async fn insert(connection: &mut PgConnection, drafts: Vec<Draft>) -> Result<()> {
    let mut columns = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for draft in drafts {
        columns.0.push(draft.id);
        columns.1.push(draft.stream.name());
        columns.2.push(draft.subject);
        columns.3.push(serde_json::to_string(&draft.headers).expect("an object of strings"));
        columns.4.push(draft.payload);
    }
    sqlx::query(
        "INSERT INTO outbox (event_id, stream, subject, headers, payload) \
         SELECT event_id, stream, subject, headers::json, payload \
         FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bytea[]) \
         AS draft (event_id, stream, subject, headers, payload)",
    )
    .bind(columns.0)
    .bind(columns.1)
    .bind(columns.2)
    .bind(columns.3)
    .bind(columns.4)
    .execute(connection)
    .await?;
    Ok(())
}

/// Percent-encodes what may not stand in a CloudEvents header (HTTP protocol binding 1.0.2 §3.1.3.2, which the NATS
/// binding follows): space, double quote, percent, and everything outside printable ASCII.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'"' | b'%' => write!(encoded, "%{byte:02X}").expect("a string can be written to"),
            b'!'..=b'~' => encoded.push(byte.into()),
            _ => write!(encoded, "%{byte:02X}").expect("a string can be written to"),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use subjects::audit::v1::{Outcome, Record};
    use subjects::identity::v1::UserRegistered;

    use super::*;
    use crate::{Clock, Context, Random, TraceContext};

    fn origin() -> Origin {
        let (clock, random) = (Clock::system(), Random::seeded(3));
        let trace = TraceContext::root(&random, true);
        let cx = Context::for_service("identity", &clock, &random, Duration::from_secs(1));
        Origin::new(&cx.with_request_id("r-1"), trace)
    }

    #[test]
    fn event_bears_its_attributes_in_headers_and_itself_as_body() {
        let origin = origin();

        let draft = Draft::event(&origin, &UserRegistered { user_id: "u 1".into() });

        let header = |name: &str| draft.headers.get(name).map(String::as_str);
        assert_eq!(draft.subject, "evt.identity.user.registered");
        assert_eq!(header("ce-type"), Some("identity.user.registered"));
        assert_eq!(header("ce-source"), Some("urn:trunkline:service:identity"));
        assert_eq!(header("ce-specversion"), Some("1.0"));
        assert_eq!(header("ce-subject"), Some("u%201"));
        assert_eq!(header("Content-Type"), Some("application/json"));
        assert_eq!(header("ce-id"), header("Nats-Msg-Id"));
        assert!(header("traceparent").is_some_and(|trace| trace.ends_with("-01")));
        assert_eq!(draft.payload, br#"{"userId":"u 1"}"#);
    }

    #[test]
    fn record_says_who_did_what_in_which_request() {
        let details = r#"{"userId":"u-1"}"#.to_owned();
        let action = AuditAction {
            action: "identity.user.registered",
            target_type: "user",
            target_id: "u-1",
            outcome: Outcome::Success,
            details,
        };

        let draft = Draft::record(&origin(), &action);

        let record: Record = subjects::json::decode(&draft.payload).unwrap();
        assert_eq!(draft.subject, "audit.identity.user.registered");
        assert_eq!(record.id, draft.headers["Nats-Msg-Id"]);
        assert_eq!(record.actor.unwrap().id, "identity");
        assert_eq!((record.request_id.as_str(), record.trace_id.len()), ("r-1", 32));
        assert_eq!(record.details.unwrap().text, r#"{"userId":"u-1"}"#);
        assert!(record.time.is_some());
    }

    #[test]
    fn message_that_the_broker_could_refuse_is_refused_before_it_is_stored() {
        let event = UserRegistered { user_id: "x".repeat(PAYLOAD_BYTES_MAX) };

        let draft = Draft::event(&origin(), &event);

        assert_eq!(draft.check().unwrap_err().status(), 500);
    }
}
