//! A job as the history knows it.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use subjects::job::{self, Lane, Place};
use subjects::jobs::v1 as wire;
use subjects::subject::Token;

/// Waits that are told apart within an attempt.
const WAITS_MAX: i64 = 99_999;
/// Attempts that are told apart within a round.
const ATTEMPTS_MAX: i64 = 1_001;

/// The states of ARCHITECTURE.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "told in the contract")]
pub enum State {
    Pending,
    Running,
    Succeeded,
    Failed,
    RetryScheduled,
    Waiting,
    DeadLetter,
    Cancelled,
}

impl State {
    /// As the database has it, and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::RetryScheduled => "RETRY_SCHEDULED",
            Self::Waiting => "WAITING",
            Self::DeadLetter => "DEAD_LETTER",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// The state of this word.
    pub fn parse(word: &str) -> Option<Self> {
        [
            Self::Pending,
            Self::Running,
            Self::Succeeded,
            Self::Failed,
            Self::RetryScheduled,
            Self::Waiting,
            Self::DeadLetter,
            Self::Cancelled,
        ]
        .into_iter()
        .find(|state| state.as_str() == word)
    }

    /// Whether nothing follows by itself.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::DeadLetter | Self::Cancelled)
    }

    /// From the contract; none for what says nothing.
    pub fn from_wire(state: wire::job::State) -> Option<Self> {
        Self::parse(state.as_str_name())
    }

    /// In the contract.
    pub fn to_wire(self) -> wire::job::State {
        wire::job::State::from_str_name(self.as_str()).unwrap_or_default()
    }
}

/// The place of a transition among those of its job, whatever order they come in.
pub fn rank(round: u32, attempt: u32, waits: u32, state: State) -> i64 {
    let step = match state {
        State::Pending => 0,
        State::Running => 1,
        State::Failed => 2,
        State::Waiting | State::RetryScheduled => 3,
        State::Succeeded | State::DeadLetter | State::Cancelled => 4,
    };
    let attempts = i64::from(round) * (ATTEMPTS_MAX + 1) + i64::from(attempt).min(ATTEMPTS_MAX);
    (attempts * (WAITS_MAX + 1) + i64::from(waits).min(WAITS_MAX)) * 10 + step
}

/// Whether an id is one that a job without its own gets: the name of the work queue, and the place in it.
pub fn is_made_of_place(id: &str) -> bool {
    let place = id.strip_prefix(job::STREAM).and_then(|rest| rest.strip_prefix('-'));
    place.is_some_and(|place| !place.is_empty() && place.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A job and what became of it.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "told in the contract")]
pub struct Job {
    pub number: i64,
    pub queue: String,
    pub kind: String,
    pub id: String,
    pub state: State,
    pub rank: i64,
    pub round: u32,
    pub attempt: u32,
    pub max_attempts: u32,
    pub args: Option<String>,
    pub progress: Option<String>,
    pub result: Option<String>,
    pub created_at: DateTime<Utc>,
    pub run_at: Option<DateTime<Utc>>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    pub cancel_requested: bool,
    pub cancel_requested_at: Option<DateTime<Utc>>,
    pub sequence: Option<u64>,
}

impl Job {
    /// Where it belongs, however urgent it is. None where no subject can name it.
    pub fn place(&self) -> Option<(Place, Token)> {
        let (queue, kind, id) = (Token::parse(&self.queue)?, Token::parse(&self.kind)?, Token::parse(&self.id)?);
        Some((Place { queue, kind, lane: Lane::Normal }, id))
    }

    /// What tells it from others: queue, kind and id.
    pub fn key(&self) -> (&str, &str, &str) {
        (&self.queue, &self.kind, &self.id)
    }
}

/// What went wrong in one attempt.
#[derive(Clone, Debug)]
pub struct JobError {
    /// Which.
    pub attempt: u32,
    /// When.
    pub at: DateTime<Utc>,
    /// In the worker's words, or the runner's.
    pub message: String,
}

/// Why a job was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "told in the contract")]
pub enum Reason {
    Exhausted,
    Permanent,
    CrashLoop,
    Undecodable,
    Expired,
    NoHandler,
}

impl Reason {
    /// As the database has it, and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exhausted => "EXHAUSTED",
            Self::Permanent => "PERMANENT",
            Self::CrashLoop => "CRASH_LOOP",
            Self::Undecodable => "UNDECODABLE",
            Self::Expired => "EXPIRED",
            Self::NoHandler => "NO_HANDLER",
        }
    }

    /// The reason of this word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Exhausted, Self::Permanent, Self::CrashLoop, Self::Undecodable, Self::Expired, Self::NoHandler]
            .into_iter()
            .find(|reason| reason.as_str() == word)
    }

    /// In the contract.
    pub fn to_wire(self) -> wire::dead_letter::Reason {
        wire::dead_letter::Reason::from_str_name(self.as_str()).unwrap_or_default()
    }
}

/// A job that was given up, with everything it takes to put it back.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "told in the contract")]
pub struct DeadLetter {
    pub number: i64,
    pub queue: String,
    pub kind: String,
    pub id: String,
    pub round: u32,
    pub reason: Reason,
    pub error: String,
    pub lane: Lane,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    pub attempt: u32,
    pub max_attempts: u32,
    pub created_at: DateTime<Utc>,
    pub failed_at: DateTime<Utc>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions_are_in_the_order_of_a_jobs_life() {
        let life = [
            rank(0, 0, 0, State::Pending),
            rank(0, 1, 0, State::Running),
            rank(0, 1, 0, State::RetryScheduled),
            rank(0, 2, 0, State::Running),
            rank(0, 2, 1, State::Pending),
            rank(0, 2, 1, State::Running),
            rank(0, 2, 1, State::DeadLetter),
            rank(1, 0, 0, State::Pending),
            rank(1, 1, 0, State::Succeeded),
        ];
        assert!(life.is_sorted() && life.windows(2).all(|pair| pair[0] != pair[1]), "{life:?}");
    }

    #[test]
    fn ids_that_were_made_of_places_are_told_from_those_that_look_alike() {
        assert!(is_made_of_place("JOBS-7"));
        for other in ["JOBS-", "JOBS", "JOBS-7a", "JOBS7", "7", "jobs-7"] {
            assert!(!is_made_of_place(other), "{other}");
        }
    }

    #[test]
    fn words_are_those_of_the_contract() {
        for state in [State::Pending, State::RetryScheduled, State::DeadLetter, State::Cancelled] {
            assert_eq!(State::from_wire(state.to_wire()), Some(state));
        }
        assert_eq!(State::from_wire(wire::job::State::Unspecified), None);
        assert_eq!(Reason::NoHandler.to_wire(), wire::dead_letter::Reason::NoHandler);
    }
}
