//! Has a job done by whoever serves `work.<queue>.<kind>`, in any language: a request with the arguments, and its reply.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, StatusCode};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use subjects::job::{self, header};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::broker::append;
use super::job::{Patience, value};
use super::run::{Outcome, Run, Work};
use crate::{Lifecycle, Random, StartError};

/// A worker that says it runs says so every ten seconds; three missed ones mean that it is gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Replies of one worker that wait to be read.
const REPLIES_MAX: usize = 64;

/// The pause when the broker cannot be asked.
const AWAY: Duration = Duration::from_secs(1);

/// Sends work out and reads what comes back. Cheap to clone.
#[derive(Clone)]
pub struct Workers {
    client: Client,
    random: Random,
    inbox: Arc<str>,
    table: Arc<Mutex<Table>>,
}

/// Requests that wait, by a number that nobody can guess: who may answer one may publish to all.
type Table = HashMap<u128, mpsc::Sender<Message>>;

impl Workers {
    /// Reads replies for the life of the process.
    pub(super) async fn start(
        service: &str,
        client: &Client,
        random: &Random,
        life: &Lifecycle,
    ) -> Result<Self, StartError> {
        // Not one of the client's, whose names follow from each other: workers see this one.
        let inbox = format!("{}.{:032x}", subjects::subject::inbox_prefix(service), number(random));
        let replies = client.subscribe(format!("{inbox}.*")).await;
        let mut replies =
            replies.map_err(|error| StartError::new("the inbox of workers cannot be opened").with_source(error))?;
        let workers =
            Self { client: client.clone(), random: random.clone(), inbox: inbox.into(), table: Arc::default() };
        let (reading, stop) = (workers.clone(), life.stop_token());
        life.spawn("work-replies", async move {
            while let Some(Some(reply)) = stop.run_until_cancelled(replies.next()).await {
                let number = reply.subject.rsplit('.').next().and_then(|number| u128::from_str_radix(number, 16).ok());
                let waiting = number.and_then(|number| reading.lock().get(&number).cloned());
                if let Some(waiting) = waiting {
                    // One who floods with progress loses some of it; the last word is waited for by the time-out.
                    let _ = waiting.try_send(reply);
                }
            }
        });
        Ok(workers)
    }

    /// The work of one queue, with its patience.
    pub fn queue(&self, patience: Patience) -> Delegate {
        Delegate { workers: self.clone(), patience }
    }

    fn enter(&self) -> (Waiting<'_>, mpsc::Receiver<Message>) {
        let (sender, replies) = mpsc::channel(REPLIES_MAX);
        let number = number(&self.random);
        self.lock().insert(number, sender);
        (Waiting { workers: self, number }, replies)
    }

    /// Every step leaves the table whole.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workers").finish_non_exhaustive()
    }
}

/// A request that waits for replies, until it is dropped.
struct Waiting<'a> {
    workers: &'a Workers,
    number: u128,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.workers.lock().remove(&self.number);
    }
}

/// The work of a queue that others do.
#[derive(Clone, Debug)]
pub struct Delegate {
    workers: Workers,
    patience: Patience,
}

impl Work for Delegate {
    fn run<'a>(&'a self, run: &'a Run) -> BoxFuture<'a, Outcome> {
        self.delegate(run).boxed()
    }

    fn patience(&self, _kind: &str) -> Patience {
        self.patience
    }

    fn is_in_process(&self) -> bool {
        false
    }
}

impl Delegate {
    async fn delegate(&self, run: &Run) -> Outcome {
        let (waiting, mut replies) = self.workers.enter();
        let reply = format!("{}.{:032x}", self.workers.inbox, waiting.number);
        let mut headers = HeaderMap::new();
        append(&mut headers, header::ID, &run.job.id.to_string());
        append(&mut headers, header::ATTEMPT, &run.job.attempt.to_string());
        append(&mut headers, header::TIMEOUT_MS, &run.job.timeout.as_millis().to_string());
        append(&mut headers, "traceparent", &run.cx.trace().to_traceparent());
        let (subject, body) = (run.job.place.work_subject(), run.job.arguments.clone());
        let client = &self.workers.client;
        if let Err(error) = client.publish_with_reply_and_headers(subject, reply, headers, body).await {
            tracing::debug!(%error, "Work cannot be sent out.");
            return Outcome::Snooze(AWAY);
        }
        let mut has_begun = false;
        loop {
            // Until it has said that it runs, the attempt's own time is the bound, which the runner keeps.
            let silence = if has_begun { SILENCE_MAX } else { Duration::MAX };
            let Ok(Some(reply)) = timeout(silence, replies.recv()).await else {
                return Outcome::Lost(format!("the worker said nothing for {} s", SILENCE_MAX.as_secs()));
            };
            let headers = reply.headers.clone().unwrap_or_default();
            if value(&headers, header::STATUS) == Some("running") {
                has_begun = true;
                if let Some(progress) = value(&headers, header::PROGRESS)
                    && subjects::json::check_any(progress.as_bytes()).is_ok()
                {
                    run.progress(progress);
                }
                continue;
            }
            return outcome(&reply, &headers);
        }
    }
}

fn number(random: &Random) -> u128 {
    u128::from_le_bytes(random.bytes())
}

fn outcome(reply: &Message, headers: &HeaderMap) -> Outcome {
    if reply.status == Some(StatusCode::NO_RESPONDERS) && reply.payload.is_empty() {
        return Outcome::NoHandler;
    }
    if value(headers, "Nats-Service-Error-Code").is_some() {
        let said = value(headers, "Nats-Service-Error").unwrap_or("the worker said that it failed").to_owned();
        if value(headers, header::PERMANENT) == Some("true") {
            return Outcome::Permanent(said);
        }
        let after = value(headers, header::RETRY_AFTER_MS).and_then(|ms| ms.parse::<u64>().ok());
        return match after {
            Some(ms) => Outcome::RetryAfter(Duration::from_millis(ms.min(job::DURATION_MS_MAX.into())), said),
            None => Outcome::Failed(said),
        };
    }
    match result(&reply.payload) {
        Some(result) => Outcome::Done(result),
        None => Outcome::Failed("the worker's answer is no JSON".to_owned()),
    }
}

fn result(payload: &Bytes) -> Option<String> {
    subjects::json::check_any(payload).ok()?;
    String::from_utf8(payload.to_vec()).ok()
}
