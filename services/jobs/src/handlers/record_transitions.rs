//! What runners tell is brought into the history.
//!
//! Safe to run twice, and in any order: a transition changes a job only where it is later in the job's life than what is known.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use kernel::jobs::Envelope;
use kernel::{Message, Result, Transaction};
use subjects::Timestamp;
use subjects::free::v1::RawJson;
use subjects::job::Lane;
use subjects::jobs::v1::{JobCancelled, JobLog, Priority, Transition};

use super::cancel_job::enforce_cancellation;
use super::take_ticks::release_queued;
use crate::Jobs;
use crate::domain::{State, rank};
use crate::storage::{self, Told};

pub(crate) async fn record_transitions(jobs: &Jobs, tx: &mut Transaction, messages: &[Message]) -> Result<()> {
    let mut latest: BTreeMap<(String, String, String), Told> = BTreeMap::new();
    let mut errors = Vec::new();
    for message in messages {
        let log: JobLog = message.decode()?;
        for told in log.transitions.into_iter().filter_map(to_told) {
            let key = (told.queue.clone(), told.kind.clone(), told.id.clone());
            match latest.remove(&key) {
                Some(known) => {
                    let (later, earlier) = if told.rank >= known.rank { (told, known) } else { (known, told) };
                    let merged = Told {
                        args: later.args.clone().or(earlier.args.clone()),
                        progress: later.progress.clone().or(earlier.progress.clone()),
                        started_at: later.started_at.or(earlier.started_at),
                        ..later
                    };
                    errors.extend((!earlier.error.is_empty()).then_some(earlier));
                    latest.insert(key, merged);
                }
                None => _ = latest.insert(key, told),
            }
        }
    }
    // In the order of their keys, so that two instances do not wait for each other in a circle.
    let told: Vec<Told> = latest.into_values().collect();
    let changed = storage::apply(tx, &told).await?;
    if !errors.is_empty() {
        storage::insert_errors(tx, &dedup(errors)).await?;
    }
    for told in &told {
        if let Some(envelope) = &told.envelope {
            let key = (told.queue.as_str(), told.kind.as_str(), told.id.as_str());
            storage::keep_envelope(tx, key, told.round, envelope).await?;
        }
    }
    let put_back: Vec<_> = told.iter().filter(|told| told.round > 0).collect();
    if !put_back.is_empty() {
        let rounds: Vec<_> = put_back.iter().map(|t| (&*t.queue, &*t.kind, &*t.id, t.round)).collect();
        storage::mark_overtaken(tx, &rounds, jobs.clock.now()).await?;
    }
    let ended: Vec<String> = changed.iter().filter(|job| job.state.has_ended()).map(|job| job.id.clone()).collect();
    for job in changed {
        if job.state == State::Cancelled {
            let event = JobCancelled { job_id: job.id, queue: job.queue, kind: job.kind };
            tx.publish(&event).await?;
        } else if job.cancel_requested && !job.state.has_ended() {
            enforce_cancellation(jobs, tx, job, jobs.clock.now() - TimeDelta::minutes(1)).await?;
        }
    }
    release_queued(jobs, tx, Some(&ended)).await
}

/// One of each attempt.
fn dedup(errors: Vec<Told>) -> Vec<Told> {
    let mut one: BTreeMap<(String, String, String, u32, u32), Told> = BTreeMap::new();
    for told in errors {
        one.insert((told.queue.clone(), told.kind.clone(), told.id.clone(), told.round, told.attempt), told);
    }
    one.into_values().collect()
}

/// `None` for what says no state, which another version may.
fn to_told(transition: Transition) -> Option<Told> {
    let state = State::from_wire(transition.state())?;
    let time = |time: Option<Timestamp>| time.and_then(|time| DateTime::<Utc>::try_from(time).ok());
    let text = |json: Option<RawJson>| json.map(|json| json.text);
    let lane = match transition.priority() {
        Priority::Unspecified => None,
        Priority::High => Some(Lane::High),
        Priority::Normal => Some(Lane::Normal),
        Priority::Low => Some(Lane::Low),
    };
    let headers = transition.headers.into_iter().map(|header| (header.name, header.value)).collect();
    let at = time(transition.at)?;
    Some(Told {
        rank: rank(transition.round, transition.attempt, transition.waits, state),
        state,
        round: transition.round,
        attempt: transition.attempt,
        max_attempts: transition.max_attempts,
        at,
        created_at: time(transition.created_at).unwrap_or(at),
        run_at: time(transition.run_at),
        started_at: time(transition.started_at),
        args: text(transition.args),
        progress: text(transition.progress),
        result: text(transition.result),
        error: transition.error,
        envelope: lane.map(|lane| Envelope { lane, headers }),
        queue: transition.queue,
        kind: transition.kind,
        id: transition.job_id,
    })
}
