//! Names of the queue protocol: subjects, consumers, headers. What they mean is told in ARCHITECTURE.md, "One job".

use std::fmt;

use chrono::{DateTime, Utc};

use crate::subject::Token;
use crate::{JobContract, SERVICES};

/// The work queue itself.
pub const STREAM: &str = "JOBS";
/// What is due later; the server moves it into [`STREAM`].
pub const SCHEDULES: &str = "SCHEDULES";
/// What runners tell of their jobs.
pub const LOG: &str = "JOB_LOG";
/// Jobs that were given up.
pub const DEAD_LETTERS: &str = "JOBS_DLQ";
/// The service that keeps the history, and runs the queues that no service has declared as its own.
pub const MANAGER: &str = "jobs";

/// What the subjects of times that have not come begin with.
const TICKS_PLANNED: &str = "schedules.tick.";

/// Bytes of a job's arguments at most.
pub const ARGUMENTS_BYTES_MAX: usize = 256 * 1024;
/// Bytes of a producer's headers at most, counted by [`headers_bytes`]. The broker takes 65,535 in all, and what it and a runner
/// add to those of a job must have room as well: a schedule that fires with more than that is refused, and holds up all behind it.
pub const HEADERS_BYTES_MAX: usize = 16 * 1024;
/// How often a job is tried at most, whatever it asks for.
pub const ATTEMPTS_MAX: u32 = 1_000;
/// Milliseconds that an attempt may take, or a pause, at most: a day.
pub const DURATION_MS_MAX: u32 = 86_400_000;

/// Bytes of a concurrency key at most.
pub const CONCURRENCY_KEY_BYTES_MAX: usize = 128;

/// Queue names that would be mistaken for something else.
pub const RESERVED_QUEUES: [&str; 4] = ["schedules", "due", "dlq", "work"];

/// Headers of a job. Every one is optional for a producer.
pub mod header {
    /// The broker's own; `<queue>.<kind>:<id>`.
    pub const MESSAGE_ID: &str = "Nats-Msg-Id";
    /// Which schedule fired; the broker lets nobody else set it.
    pub const SCHEDULER: &str = "Nats-Scheduler";
    /// How often it is tried.
    pub const MAX_ATTEMPTS: &str = "Job-Max-Attempts";
    /// How long one attempt may take.
    pub const TIMEOUT_MS: &str = "Job-Timeout-Ms";
    /// RFC 3339; not begun by then, it becomes a dead letter.
    pub const EXPIRES_AT: &str = "Job-Expires-At";
    /// The first pause before another attempt.
    pub const BACKOFF_BASE_MS: &str = "Job-Backoff-Base-Ms";
    /// Of the jobs of a queue that have the same one, one runs at a time.
    pub const CONCURRENCY_KEY: &str = "Job-Concurrency-Key";
    /// `true` where the id must stay unique for longer than the broker remembers it.
    pub const UNIQUE: &str = "Job-Unique";

    /// The id of a job that a schedule fired. This and those below are believed only beside [`SCHEDULER`].
    pub const ID: &str = "Job-Id";
    /// The attempt that begins. Also told to workers.
    pub const ATTEMPT: &str = "Job-Attempt";
    /// How often it was put back by hand.
    pub const ROUND: &str = "Job-Round";
    /// How often it waited without an attempt.
    pub const WAITS: &str = "Job-Waits";
    /// RFC 3339; when it was submitted.
    pub const CREATED_AT: &str = "Job-Created-At";
    /// `true` where nobody served its kind when it was offered last.
    pub const UNSERVED: &str = "Job-Unserved";
    /// What a runner says of a job, and no producer.
    pub const RUNNERS: [&str; 6] = [ID, ATTEMPT, ROUND, WAITS, CREATED_AT, UNSERVED];
    /// RFC 3339; the time of a schedule that a tick is about, whenever the broker gives it out.
    pub const DUE_AT: &str = "Tick-Due-At";
    /// What the schedules of this protocol begin with.
    pub const PREFIX: &str = "Job-";

    /// Of a worker's reply: wait so long before the next attempt.
    pub const RETRY_AFTER_MS: &str = "Job-Retry-After-Ms";
    /// Of a worker's reply: `true` where trying again is of no use.
    pub const PERMANENT: &str = "Job-Permanent";
    /// Of a worker's reply: `running` where another will follow.
    pub const STATUS: &str = "Job-Status";
    /// Of a worker's reply: how far it has come, JSON.
    pub const PROGRESS: &str = "Job-Progress";

    /// Of a dead letter: its reason, a word of the API.
    pub const REASON: &str = "Dlq-Reason";
    /// Of a dead letter: what the last attempt said.
    pub const ERROR: &str = "Dlq-Error";
    /// Of a dead letter: attempts begun.
    pub const ATTEMPTS: &str = "Dlq-Attempts";
    /// Of a dead letter: how many were allowed.
    pub const ATTEMPTS_ALLOWED: &str = "Dlq-Attempts-Allowed";
    /// Of a dead letter: when, RFC 3339.
    pub const FAILED_AT: &str = "Dlq-Failed-At";
    /// Of a dead letter: the subject it was taken from.
    pub const ORIGINAL_SUBJECT: &str = "Dlq-Original-Subject";
    /// Of a dead letter: its id.
    pub const DEAD_ID: &str = "Dlq-Job-Id";
    /// Of a dead letter: its queue as it was, which may be none that a subject can name.
    pub const DEAD_ROUND: &str = "Dlq-Round";
    /// What the headers of a dead letter begin with.
    pub const DEAD_PREFIX: &str = "Dlq-";
}

/// How urgent a job is among those of its queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Before all others.
    High,
    /// As most are.
    #[default]
    Normal,
    /// When nothing else waits.
    Low,
}

impl Lane {
    /// The most urgent first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// What stands behind the kind in a subject.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::High => ".high",
            Self::Normal => "",
            Self::Low => ".low",
        }
    }

    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }

    /// The lane of this word.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| lane.name() == name)
    }
}

/// Where a job belongs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The queue.
    pub queue: Token,
    /// The kind within it.
    pub kind: Token,
    /// How urgent.
    pub lane: Lane,
}

impl Place {
    /// Reads `jobs.<queue>.<kind>[.high|.low]`.
    pub fn parse(subject: &str) -> Option<Self> {
        let mut tokens = subject.strip_prefix("jobs.")?.split('.');
        let (queue, kind) = (Token::parse(tokens.next()?)?, Token::parse(tokens.next()?)?);
        let lane = match (tokens.next(), tokens.next()) {
            (None, None) => Lane::Normal,
            (Some("high"), None) => Lane::High,
            (Some("low"), None) => Lane::Low,
            _ => return None,
        };
        Some(Self { queue, kind, lane })
    }

    /// Where it is submitted.
    pub fn subject(&self) -> String {
        format!("jobs.{self}")
    }

    /// Where a schedule puts it, for the work queue to take.
    pub fn due_subject(&self) -> String {
        format!("due.{self}")
    }

    /// Where its workers listen, in any language.
    pub fn work_subject(&self) -> String {
        format!("work.{}.{}", self.queue, self.kind)
    }

    /// Where it is kept when it was given up.
    pub fn dead_letter_subject(&self) -> String {
        format!("dlq.jobs.{}.{}", self.queue, self.kind)
    }

    /// `Nats-Msg-Id` of the job with this id.
    pub fn message_id(&self, id: &Token) -> String {
        format!("{}.{}:{id}", self.queue, self.kind)
    }

    /// The schedule by which a runner tries it again.
    pub fn retry_schedule(&self, runner: &str, id: &Token) -> String {
        format!("schedules.retry.{runner}.{}.{}.{id}", self.queue, self.kind)
    }

    /// The schedule by which it was submitted for later, or put back.
    pub fn schedule(&self, id: &Token) -> String {
        format!("schedules.job.{}.{}.{id}", self.queue, self.kind)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}{}", self.queue, self.kind, self.lane.suffix())
    }
}

/// The durable consumer of a lane of a queue.
pub fn consumer(queue: &str, lane: Lane) -> String {
    // In front, where it cannot be part of a queue's name.
    format!("{}_{queue}", lane.name())
}

/// What that consumer takes.
pub fn filter(queue: &str, lane: Lane) -> String {
    format!("jobs.{queue}.*{}", lane.suffix())
}

/// Where the broker keeps a time of a schedule until it has come.
pub fn tick_schedule(schedule_id: &str, due_at: DateTime<Utc>) -> String {
    format!("{TICKS_PLANNED}{schedule_id}.{}", due_at.timestamp())
}

/// The schedule and the time that [`tick_schedule`] was made of.
pub fn parse_tick_schedule(subject: &str) -> Option<(&str, DateTime<Utc>)> {
    let (schedule_id, second) = subject.strip_prefix(TICKS_PLANNED)?.split_once('.')?;
    Some((schedule_id, DateTime::from_timestamp(second.parse().ok()?, 0)?))
}

/// Where the jobs service hears that a time of a schedule has come.
pub fn tick_subject(schedule_id: &str) -> String {
    format!("tick.{schedule_id}")
}

/// Where a runner tells of its jobs.
pub fn log_subject(runner: &str) -> String {
    format!("joblog.{runner}")
}

/// What happens to a job, as it happens; nothing of it is stored.
pub fn live_subject(id: &str) -> String {
    format!("live.jobs.{id}")
}

/// Where a running job is told to stop.
pub fn cancel_subject(id: &str) -> String {
    format!("work-cancel.{id}")
}

/// The job of this kind that a service has declared.
pub fn find(queue: &str, kind: &str) -> Option<&'static JobContract> {
    contracts().find(|job| job.queue == queue && job.kind == kind)
}

/// The service that has declared a queue as its own.
pub fn runner_of(queue: &str) -> Option<&'static str> {
    contracts().find(|job| job.queue == queue).map(|job| job.service)
}

/// Whether anybody who may submit may submit to this queue: no service keeps it for itself.
pub fn is_open(queue: &str) -> bool {
    !RESERVED_QUEUES.contains(&queue) && contracts().filter(|job| job.queue == queue).all(|job| job.open)
}

/// Whether a text can be a concurrency key: 1 to 128 visible characters of ASCII.
pub fn is_concurrency_key(text: &str) -> bool {
    (1..=CONCURRENCY_KEY_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether a header is the broker's, whose meaning must not be carried into another message.
pub fn is_brokers(name: &str) -> bool {
    name.get(..5).is_some_and(|prefix| prefix.eq_ignore_ascii_case("nats-"))
}

/// What a producer's headers take in a message; those of the broker and of runners are not counted.
pub fn headers_bytes<'a>(headers: impl Iterator<Item = (&'a str, &'a str)>) -> usize {
    let own = headers.filter(|(name, _)| !is_brokers(name) && !header::RUNNERS.contains(name));
    // With `: ` and the end of the line.
    own.map(|(name, value)| name.len() + value.len() + 4).sum()
}

/// Every job that a service has declared.
pub fn contracts() -> impl Iterator<Item = &'static JobContract> {
    SERVICES.iter().flat_map(|service| service.jobs.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_written() {
        for subject in ["jobs.mail.send", "jobs.mail.send.high", "jobs.mail.send.low"] {
            assert_eq!(Place::parse(subject).map(|place| place.subject()).as_deref(), Some(subject));
        }
        for wrong in
            ["jobs.mail", "jobs.mail.send.urgent", "jobs.mail.send.high.low", "jobs.a b.c", "due.a.b", "jobs..a"]
        {
            assert_eq!(Place::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_consumer_belongs_to_one_lane_of_one_queue() {
        assert_ne!(consumer("a", Lane::High), consumer("high_a", Lane::Normal));
        assert_eq!(filter("a", Lane::Low), "jobs.a.*.low");
    }

    #[test]
    fn diagnostics_are_for_everybody_and_reserved_words_for_nobody() {
        assert!(is_open("diagnostics") && is_open("whatever"));
        assert!(!is_open("work"));
        assert_eq!(runner_of("diagnostics"), Some(MANAGER));
        let sleep = find("diagnostics", "sleep").unwrap();
        assert!((sleep.check)(br#"{"ms":5}"#).is_ok());
        assert!((sleep.check)(br#"{"ms":"long"}"#).is_err() && (sleep.check)(br#"{"s":5}"#).is_err());
        assert!((find("diagnostics", "echo").unwrap().check)(b"[1]").is_ok());
    }
}
