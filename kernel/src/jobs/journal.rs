//! Tells what happens to jobs: to whoever watches as it happens, and for the history in batches. A job is acknowledged when
//! the batch that tells of its end is stored, never before.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use subjects::job::{self, header};
use subjects::jobs::v1::Transition;
use subjects::jobs::v1::job::State;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::broker::{self, JobBroker};
use super::leases::{Lease, Leases};
use crate::Ids;

/// How long a transition waits for others.
const COLLECT: Duration = Duration::from_millis(3);

/// Transitions of a batch at most. With so many bytes it waits for no more.
const BATCH_MAX: usize = 512;
const BATCH_BYTES_MAX: usize = 256 * 1024;

/// Bytes of a stored message, which may have 1 MiB; more of a batch is stored as another. One transition has less: arguments,
/// result and progress are three times 256 KiB, and error and headers a few tens of KiB.
const BODY_BYTES_MAX: usize = 900 * 1024;

/// What a stored message begins and ends with.
const OPENING: &[u8] = br#"{"transitions":["#;
const END: &[u8] = b"]}";

/// Batches that are stored at once. Should one overtake the other, ranks have the history show what happened last.
const STORED_MAX: usize = 8;

/// Entries that are taken without looking at their size; with large ones a batch may be far larger than it wants to be.
const AT_ONCE_MAX: usize = 32;

/// Pauses between two tries to store a batch.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What happened to a job.
pub(super) struct Entry {
    pub(super) transition: Box<Transition>,
    /// Whether who watches has seen it already.
    pub(super) is_shown: bool,
    /// What is acknowledged when it is stored.
    pub(super) settles: Option<(Lease, Subject)>,
}

/// Writes what comes over `entries` until `stop`, and then what is left. The next batch is collected while the last are stored.
pub(super) async fn write(
    runner: &'static str,
    broker: JobBroker,
    ids: Ids,
    leases: Leases,
    entries: mpsc::Receiver<Entry>,
    stop: CancellationToken,
) {
    let batches = stream::unfold((entries, stop.clone()), async |(mut entries, stop)| {
        let first = tokio::select! {
            biased;
            first = entries.recv() => first,
            () = stop.cancelled() => None,
        };
        Some((collect(first?, &mut entries).await, (entries, stop)))
    });
    let stored = batches.map(|batch| store(runner, &broker, &ids, &leases, batch, &stop)).buffer_unordered(STORED_MAX);
    stored.collect::<()>().await;
    // The last acknowledgements, too, leave before the process does.
    let _ = broker.client().flush().await;
}

async fn collect(first: Entry, entries: &mut mpsc::Receiver<Entry>) -> Vec<Entry> {
    let deadline = Instant::now() + COLLECT;
    let mut bytes = size(&first);
    let mut batch = Vec::with_capacity(BATCH_MAX);
    batch.push(first);
    while batch.len() < BATCH_MAX && bytes < BATCH_BYTES_MAX {
        let (before, room) = (batch.len(), (BATCH_MAX - batch.len()).min(AT_ONCE_MAX));
        match timeout_at(deadline, entries.recv_many(&mut batch, room)).await {
            Ok(taken) if taken > 0 => bytes += batch[before..].iter().map(size).sum::<usize>(),
            _ => break,
        }
    }
    batch
}

fn size(entry: &Entry) -> usize {
    let text = |json: &Option<subjects::free::v1::RawJson>| json.as_ref().map_or(0, |json| json.text.len());
    let transition = &entry.transition;
    let headers: usize = transition.headers.iter().map(|header| header.name.len() + header.value.len() + 30).sum();
    text(&transition.args)
        + text(&transition.result)
        + text(&transition.progress)
        + transition.error.len()
        + headers
        + 300
}

async fn store(
    runner: &'static str,
    broker: &JobBroker,
    ids: &Ids,
    leases: &Leases,
    batch: Vec<Entry>,
    stop: &CancellationToken,
) {
    for (body, settled) in told(broker, batch).await {
        if !keep(runner, broker, ids, body, stop).await {
            return;
        }
        for (lease, ack) in settled {
            leases.end(lease);
            // One that is lost costs a delivery more, of a job that must bear it anyway.
            let _ = broker.client().publish(ack, Bytes::from_static(b"+ACK")).await;
        }
    }
}

/// Stores one message. False where the process stops before the broker has it.
async fn keep(runner: &'static str, broker: &JobBroker, ids: &Ids, body: Bytes, stop: &CancellationToken) -> bool {
    let mut headers = HeaderMap::new();
    // The same in each try, so that an unknown outcome stores it once.
    broker::append(&mut headers, header::MESSAGE_ID, &ids.new_id().to_string());
    broker::append(&mut headers, "Content-Type", "application/json");
    let mut pause = PAUSE_MIN;
    while let Err(error) = broker.store(job::log_subject(runner), headers.clone(), body.clone()).await {
        tracing::warn!(%error, "What happened to jobs cannot be stored; they are held.");
        if stop.is_cancelled() {
            return false;
        }
        let _ = stop.run_until_cancelled(sleep(pause)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
    true
}

/// What is acknowledged when a message is stored.
type Settled = Vec<(Lease, Subject)>;

/// Messages in the making, each with what is settled by it.
#[derive(Default)]
struct Bodies {
    done: Vec<(Bytes, Settled)>,
    body: Vec<u8>,
    settled: Settled,
}

impl Bodies {
    /// Adds a transition to the last message, or begins another where it has no room.
    fn push(&mut self, transition: &[u8]) {
        if self.body.len() + transition.len() + END.len() >= BODY_BYTES_MAX {
            self.close();
        }
        self.body.extend_from_slice(if self.body.is_empty() { OPENING } else { b"," });
        self.body.extend_from_slice(transition);
    }

    fn close(&mut self) {
        if !self.body.is_empty() {
            self.body.extend_from_slice(END);
            self.done.push((std::mem::take(&mut self.body).into(), std::mem::take(&mut self.settled)));
        }
    }
}

/// Shows what is new to who watches. Gives what is to be stored, each transition encoded once, and what is settled by that.
async fn told(broker: &JobBroker, mut batch: Vec<Entry>) -> Vec<(Bytes, Settled)> {
    let later = superseded(&batch);
    let mut bodies = Bodies { body: Vec::with_capacity(batch.len() * 400), ..Bodies::default() };
    for place in 0..batch.len() {
        let is_shown = batch[place].is_shown || !broker.may_show();
        // How an attempt ended is told by what became of the job; this is for who watches.
        let is_stored = later[place].is_none() && batch[place].transition.state() != State::Failed;
        if is_shown && !is_stored {
            carry(&mut batch, place, later[place]);
            continue;
        }
        let encoded = subjects::json::encode(&*batch[place].transition);
        if is_stored {
            bodies.push(&encoded);
            // Only how a run ends settles anything, and nothing stands for that.
            bodies.settled.extend(batch[place].settles.take());
        }
        if !is_shown {
            broker.show_encoded(&batch[place].transition.job_id, encoded.into()).await;
        }
        carry(&mut batch, place, later[place]);
    }
    bodies.close();
    bodies.done
}

/// Gives what a transition has and the one that stands for it lacks to that one.
fn carry(batch: &mut [Entry], place: usize, later: Option<usize>) {
    let Some(later) = later else { return };
    let before = &mut batch[place].transition;
    let (args, progress, started_at) = (before.args.take(), before.progress.take(), before.started_at.take());
    let after = &mut batch[later].transition;
    after.started_at = after.started_at.take().or(started_at);
    after.args = after.args.take().or(args);
    after.progress = after.progress.take().or(progress);
}

/// Of each transition the place of the one that stands for it: of one attempt that runs the next that is told of it.
fn superseded(batch: &[Entry]) -> Vec<Option<usize>> {
    let mut later = vec![None; batch.len()];
    let mut running: HashMap<(&str, &str, &str, u32, u32), usize> = HashMap::new();
    for (place, Entry { transition, .. }) in batch.iter().enumerate() {
        let state = transition.state();
        if state == State::Failed || (state != State::Running && running.is_empty()) {
            continue;
        }
        let (queue, kind, id) = (&transition.queue, &transition.kind, &transition.job_id);
        let key = (queue.as_str(), kind.as_str(), id.as_str(), transition.round, transition.attempt);
        let before = if state == State::Running { running.insert(key, place) } else { running.remove(&key) };
        if let Some(before) = before {
            later[before] = Some(place);
        }
    }
    later
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, attempt: u32, state: State) -> Entry {
        let transition = Transition { job_id: id.to_owned(), attempt, state: state.into(), ..Transition::default() };
        Entry { transition: Box::new(transition), is_shown: true, settles: None }
    }

    #[test]
    fn no_message_is_larger_than_the_broker_takes_and_each_settles_what_it_tells_of() {
        let leases = Leases::default();
        let mut bodies = Bodies::default();
        // The arguments of 32 jobs that were taken at once, and one with all that one may have.
        let sizes: Vec<usize> = (0..32).map(|number| 40_000 + number).chain([850 * 1024, 10]).collect();
        for (number, size) in sizes.iter().enumerate() {
            let transition = Transition {
                job_id: number.to_string(),
                error: "x".repeat(*size),
                state: State::Succeeded.into(),
                ..Transition::default()
            };
            bodies.push(&subjects::json::encode(&transition));
            bodies.settled.push((leases.hold("_".into()), number.to_string().into()));
        }
        bodies.close();
        bodies.close();

        let mut told = Vec::new();
        for (body, settled) in bodies.done {
            assert!(body.len() <= BODY_BYTES_MAX, "{}", body.len());
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let ids: Vec<_> =
                body["transitions"].as_array().unwrap().iter().map(|told| told["jobId"].clone()).collect();
            let settled: Vec<_> = settled.iter().map(|(_, ack)| serde_json::json!(ack.as_str())).collect();
            assert_eq!(ids, settled);
            told.extend(ids);
        }
        assert_eq!(told.len(), sizes.len());
    }

    #[test]
    fn what_is_told_later_of_an_attempt_stands_for_that_it_runs() {
        let batch = [
            entry("a", 1, State::Running),
            entry("b", 1, State::Running),
            entry("a", 1, State::Running),
            entry("a", 1, State::Failed),
            entry("a", 1, State::RetryScheduled),
            entry("a", 2, State::Running),
            entry("b", 1, State::Succeeded),
        ];

        assert_eq!(superseded(&batch), [Some(2), Some(6), Some(4), None, None, None, None]);
    }
}
