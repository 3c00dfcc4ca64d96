//! Tells what happens to jobs: to whoever watches as it happens, and for the history in batches. A job is acknowledged when
//! the batch that tells of its end is stored, never before.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use subjects::job::{self, header};
use subjects::jobs::v1::job::State;
use subjects::jobs::v1::{JobLog, Transition};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::broker::{self, JobBroker};
use super::leases::{Lease, Leases};
use crate::Ids;

/// How long a transition waits for others.
const COLLECT: Duration = Duration::from_millis(3);

/// Transitions of a batch at most, and about as many bytes: a stored message has 1 MiB at most, and one transition two times
/// 256 KiB.
const BATCH_MAX: usize = 512;
const BATCH_BYTES_MAX: usize = 256 * 1024;

/// Pauses between two tries to store a batch.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What happened to a job.
pub(super) struct Entry {
    pub(super) transition: Transition,
    /// Whether who watches has seen it already.
    pub(super) is_shown: bool,
    /// What is acknowledged when it is stored.
    pub(super) settles: Option<(Lease, Subject)>,
}

/// Writes what comes over `entries` until `stop`, and then what is left.
pub(super) async fn write(
    runner: &'static str,
    broker: JobBroker,
    ids: Ids,
    leases: Leases,
    mut entries: mpsc::Receiver<Entry>,
    stop: CancellationToken,
) {
    loop {
        let first = tokio::select! {
            biased;
            first = entries.recv() => first,
            () = stop.cancelled() => None,
        };
        let Some(first) = first else {
            // The last acknowledgements, too, leave before the process does.
            let _ = broker.client().flush().await;
            return;
        };
        let batch = collect(first, &mut entries).await;
        store(runner, &broker, &ids, &leases, batch, &stop).await;
    }
}

async fn collect(first: Entry, entries: &mut mpsc::Receiver<Entry>) -> Vec<Entry> {
    let deadline = Instant::now() + COLLECT;
    let mut bytes = size(&first);
    let mut batch = vec![first];
    while batch.len() < BATCH_MAX && bytes < BATCH_BYTES_MAX {
        let Ok(Some(entry)) = timeout_at(deadline, entries.recv()).await else { break };
        bytes += size(&entry);
        batch.push(entry);
    }
    batch
}

fn size(entry: &Entry) -> usize {
    let text = |json: &Option<subjects::free::v1::RawJson>| json.as_ref().map_or(0, |json| json.text.len());
    let transition = &entry.transition;
    text(&transition.args) + text(&transition.result) + text(&transition.progress) + transition.error.len() + 300
}

async fn store(
    runner: &'static str,
    broker: &JobBroker,
    ids: &Ids,
    leases: &Leases,
    batch: Vec<Entry>,
    stop: &CancellationToken,
) {
    let (mut transitions, mut settled) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
    for Entry { transition, is_shown, settles } in batch {
        if !is_shown {
            broker.show(&transition).await;
        }
        settled.extend(settles);
        // How an attempt ended is told by what became of the job; this is for who watches.
        if transition.state() != State::Failed {
            transitions.push(transition);
        }
    }
    let body = Bytes::from(subjects::json::encode(&JobLog { transitions: merged(transitions) }));
    let mut headers = HeaderMap::new();
    // The same in each try, so that an unknown outcome stores it once.
    broker::append(&mut headers, header::MESSAGE_ID, &ids.new_id().to_string());
    broker::append(&mut headers, "Content-Type", "application/json");
    let mut pause = PAUSE_MIN;
    while let Err(error) = broker.store(job::log_subject(runner), headers.clone(), body.clone()).await {
        tracing::warn!(%error, "What happened to jobs cannot be stored; they are held.");
        if stop.is_cancelled() {
            return;
        }
        let _ = stop.run_until_cancelled(sleep(pause)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
    for (lease, ack) in settled {
        leases.end(lease);
        // One that is lost costs a delivery more, of a job that must bear it anyway.
        let _ = broker.client().publish(ack, Bytes::from_static(b"+ACK")).await;
    }
}

/// Of one job the later transition stands for those before it in the same batch.
fn merged(transitions: Vec<Transition>) -> Vec<Transition> {
    let mut places: HashMap<(String, String, String, u32, u32), usize> = HashMap::with_capacity(transitions.len());
    let mut merged: Vec<Transition> = Vec::with_capacity(transitions.len());
    for mut transition in transitions {
        let key = (
            transition.queue.clone(),
            transition.kind.clone(),
            transition.job_id.clone(),
            transition.round,
            transition.attempt,
        );
        match places.get(&key) {
            Some(&place) if merged[place].state() == State::Running => {
                let before = &mut merged[place];
                transition.args = transition.args.take().or(before.args.take());
                transition.progress = transition.progress.take().or(before.progress.take());
                *before = transition;
            }
            _ => {
                places.insert(key, merged.len());
                merged.push(transition);
            }
        }
    }
    merged
}
