//! What does the work of a queue, what it is given, and how it may end.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use subjects::JobArguments;
use subjects::job;
use subjects::jobs::v1::job::State;
use tokio_util::sync::CancellationToken;

use super::engine::Engine;
use super::job::{Job, Patience};
use crate::{Context, Error};

/// Does the work of a queue.
pub trait Work: Send + Sync + 'static {
    /// Runs one attempt. It ends when the run's time is over or the job is cancelled, by being dropped.
    fn run<'a>(&'a self, run: &'a Run) -> BoxFuture<'a, Outcome>;

    /// How patient to be with jobs of this kind.
    fn patience(&self, kind: &str) -> Patience;

    /// Whether a job runs in this process and so can take it down.
    fn is_in_process(&self) -> bool;
}

/// One attempt at a job.
pub struct Run {
    /// The job.
    pub job: Job,
    /// The service acting for itself, until the attempt's time is over, in the trace of who submitted the job.
    pub cx: Arc<Context>,
    pub(super) engine: Engine,
    pub(super) cancelled: CancellationToken,
}

impl Run {
    /// Tells how far it has come, in JSON: seen by who watches, and kept with what is told of the job next.
    pub fn progress(&self, progress: impl Into<String>) {
        self.engine.tell_progress(&self.job, progress.into());
    }

    /// Completes when the job is cancelled. The work is dropped then anyway; this is for what has to be cleaned up.
    pub async fn cancelled(&self) {
        self.cancelled.cancelled().await;
    }

    /// The arguments as their type.
    pub fn arguments<T: JobArguments>(&self) -> Result<T, Outcome> {
        subjects::json::decode(&self.job.arguments)
            .map_err(|error| Outcome::Undecodable(format!("the arguments are not those of the job: {error:?}")))
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.job.fmt(f)
    }
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done; the result is JSON, or nothing.
    Done(String),
    /// It failed and may go better another time.
    Failed(String),
    /// It failed, and another attempt is of no use before this time is over.
    RetryAfter(Duration, String),
    /// Not now; costs no attempt.
    Snooze(Duration),
    /// It failed, and another attempt is of no use.
    Permanent(String),
    /// The arguments are not what they must be.
    Undecodable(String),
    /// Nobody serves its kind; costs no attempt.
    NoHandler,
    /// Its worker went away without a word.
    Lost(String),
    /// It was cancelled.
    Cancelled,
    /// The process stops; costs no attempt.
    Interrupted,
}

/// It failed and may go better another time. The history hears the public words; the cause stays in the log.
impl From<Error> for Outcome {
    fn from(error: Error) -> Self {
        tracing::warn!(?error, "An attempt at a job failed.");
        Self::Failed(error.to_string())
    }
}

impl Outcome {
    /// The same, where what is told of it has room in the history.
    pub(super) fn bounded(self) -> Self {
        match self {
            Self::Done(result) if result.len() > job::ARGUMENTS_BYTES_MAX => {
                Self::Permanent(format!("the result has more than {} bytes", job::ARGUMENTS_BYTES_MAX))
            }
            outcome => outcome,
        }
    }

    /// The word of the log for how a run ended, before it is known what becomes of the job.
    pub(super) fn state(&self) -> State {
        match self {
            Self::Done(_) => State::Succeeded,
            Self::Snooze(_) | Self::NoHandler => State::Waiting,
            Self::Cancelled => State::Cancelled,
            Self::Interrupted => State::Pending,
            _ => State::Failed,
        }
    }
}
