//! Sends what committed transactions left in the outbox, each message at least once and in the order of its row's number.
//!
//! One instance of a service is at it at a time: it holds an advisory lock on a session of its own, which a killed holder
//! loses. Whoever commits wakes its own relay, which waits for the lock and then sends whatever is there; a look each
//! second covers what nobody was woken for. Rows are found by "not acknowledged", never by a cursor, since a lower number
//! may be committed later. A broker that is away or full makes the outbox wait; nothing is dropped. Rows are kept for a day
//! after their acknowledgement, in partitions of a day: what the broker turns out to have lost is sent again.

mod ledger;
mod round;
mod survey;

use std::time::Duration;

use async_nats::Client;
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

pub use self::ledger::LOCK_CLASS;
use self::ledger::{Ledger, Report};
use self::round::Outcome;
use super::database::Database;
use super::measures::RelayMeasures;
use super::publisher::{self, Publisher};
use crate::Random;

/// How often the outbox is looked at without being told, and the heartbeat sent. The feeds' readers count on it.
pub const BEAT_INTERVAL: Duration = Duration::from_secs(1);

/// The first and the longest pause after the broker or the database refused something.
const RETRY_DELAY_MIN: Duration = Duration::from_millis(50);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(2);

/// How long any step with the database may take: more than its statements' own bound.
const STEP_MAX: Duration = Duration::from_secs(10);

/// How long a stopping relay goes on sending what is left. The rest is another instance's, or the next start's.
const LAST_ROUNDS_MAX: Duration = Duration::from_secs(2);

/// How often old rows are looked for.
const FORGET_INTERVAL: Duration = Duration::from_mins(1);

/// The relay of one process.
#[derive(Debug)]
pub struct Relay {
    database: Database,
    client: Client,
    ledger: Option<Ledger>,
    publisher: Option<Publisher>,
    random: Random,
    measures: RelayMeasures,
    /// Failures since the last success.
    failures: u32,
    /// Not to be tried again before.
    retry_at: Option<Instant>,
    forget_at: Instant,
}

/// The heartbeat: `beat.<service>`, JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Beat<'a> {
    service: &'a str,
    /// Age of the oldest message that is not sent, jobs aside; 0 where all are.
    oldest_unsent_age_ms: u64,
}

impl Relay {
    /// A relay for the outbox of `database`, sending through `client`, whose inbox prefix must be the service's own.
    pub fn new(database: Database, client: Client, random: Random, measures: RelayMeasures) -> Self {
        Self {
            database,
            client,
            ledger: None,
            publisher: None,
            random,
            measures,
            failures: 0,
            retry_at: None,
            forget_at: Instant::now() + FORGET_INTERVAL,
        }
    }

    /// Relays until `stopping`; then sends what is left, for two seconds at most. Stop it after everything that commits.
    pub async fn run(mut self, stopping: CancellationToken) {
        let mut beats = interval(BEAT_INTERVAL);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let database = self.database.clone();
        let mut filled = true;
        loop {
            tokio::select! {
                biased;
                () = stopping.cancelled() => break,
                _ = beats.tick() => filled |= self.beat().await,
                () = database.outbox_filled() => filled = true,
                () = self.may_try(), if filled => filled = self.attempt().await,
            }
        }
        let last_rounds = async { while self.attempt().await && self.retry_at.is_none() {} };
        if timeout(LAST_ROUNDS_MAX, last_rounds).await.is_err() {
            tracing::warn!("The relay stops with messages unsent; they stay in the outbox.");
        }
        if let Some(ledger) = self.ledger.take() {
            ledger.close().await;
        }
    }

    /// Completes when an attempt is due.
    async fn may_try(&self) {
        if let Some(at) = self.retry_at {
            tokio::time::sleep_until(at).await;
        }
    }

    /// One round: the first messages of each stream. Says whether there may be more to send.
    async fn attempt(&mut self) -> bool {
        self.retry_at = None;
        match self.round().await {
            Ok(Outcome { more, stuck: None }) => {
                self.failures = 0;
                more
            }
            Ok(Outcome { stuck: Some(reason), .. }) => {
                // Another instance may fare better.
                if let Some(ledger) = &mut self.ledger
                    && step(ledger.release()).await.is_err()
                {
                    self.ledger = None;
                }
                self.put_off(&reason);
                true
            }
            Err(error) => {
                self.ledger = None;
                self.put_off(&error.to_string());
                true
            }
        }
    }

    /// One round, with what it needs opened where it is not.
    async fn round(&mut self) -> Result<Outcome, RelayError> {
        let ledger = opened(&mut self.ledger, &self.database).await?;
        if self.publisher.is_none() {
            let publisher = Publisher::open(self.client.clone()).await;
            self.publisher = Some(publisher.map_err(|error| RelayError::Broker(error.to_string()))?);
        }
        let publisher = self.publisher.as_mut().expect("it was opened above");
        round::run(ledger, publisher, &self.measures).await
    }

    fn put_off(&mut self, reason: &str) {
        let delay = RETRY_DELAY_MIN.saturating_mul(2_u32.saturating_pow(self.failures.min(16))).min(RETRY_DELAY_MAX);
        let delay = delay.mul_f64(0.5 + self.random.fraction() / 2.0);
        if self.failures == 0 {
            tracing::warn!(reason, "The outbox waits.");
        } else {
            tracing::debug!(reason, failures = self.failures, "The outbox still waits.");
        }
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(Instant::now() + delay);
    }

    /// Measures the outbox, tells everybody, and forgets what is old. Says whether there is something to send or to ask.
    ///
    /// An instance that cannot see the outbox says nothing, so that readers of feeds stop trusting what they have.
    async fn beat(&mut self) -> bool {
        let report = match self.report().await {
            Ok(report) => report,
            Err(error) => {
                tracing::debug!(%error, "The outbox cannot be seen.");
                self.ledger = None;
                return true;
            }
        };
        self.measures.depth.set(report.depth);
        self.measures.oldest_unsent_age_seconds.set(Duration::from_millis(report.oldest_unsent_age_ms).as_secs_f64());
        let service = self.database.service();
        let beat = Beat { service, oldest_unsent_age_ms: report.oldest_told_age_ms };
        let body = serde_json::to_vec(&beat).expect("a heartbeat is plain values");
        if publisher::is_connected(&self.client) {
            let sent = self.client.publish(subjects::subject::beat(service), body.into()).await;
            if let Err(error) = sent {
                tracing::debug!(%error, "Heartbeat not sent.");
            }
        }
        report.depth > 0 || self.survey_due()
    }

    fn survey_due(&self) -> bool {
        let streams = self.ledger.as_ref().map(Ledger::streams).unwrap_or_default();
        let due = |publisher: &Publisher| streams.iter().any(|stream| publisher.survey_due(stream.name()).is_some());
        publisher::is_connected(&self.client) && self.publisher.as_ref().is_none_or(due)
    }

    async fn report(&mut self) -> Result<Report, RelayError> {
        let ledger = opened(&mut self.ledger, &self.database).await?;
        let report = step(ledger.report()).await?;
        if Instant::now() >= self.forget_at {
            // A full step means that more is left.
            let pause = if step(ledger.forget()).await? { BEAT_INTERVAL } else { FORGET_INTERVAL };
            self.forget_at = Instant::now() + pause;
        }
        Ok(report)
    }
}

async fn opened<'a>(ledger: &'a mut Option<Ledger>, database: &Database) -> Result<&'a mut Ledger, RelayError> {
    if ledger.is_none() {
        *ledger = Some(step(Ledger::open(database)).await?);
    }
    Ok(ledger.as_mut().expect("it was opened above"))
}

/// A step with the database, bounded also where the server does not answer at all.
async fn step<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, RelayError> {
    match timeout(STEP_MAX, work).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(RelayError::Late),
    }
}

/// Why nothing could be done. None of it says that a message is lost.
#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error("the database refused a step: {0}")]
    Database(#[from] sqlx::Error),
    #[error("the broker refused a step: {0}")]
    Broker(String),
    #[error("a step took longer than {} s", STEP_MAX.as_secs())]
    Late,
}
