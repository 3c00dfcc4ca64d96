//! Runs one consumer in one process: pull, handle, commit, acknowledge.
//!
//! Messages that came back more than once are handled apart from the others, one by one. Before each such run it is noted
//! that it begins, so that a message which takes the process down is known by it: deliveries alone would condemn those that
//! only lay behind it each time.

use std::collections::{HashSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use subjects::audit::v1;
use subjects::dead_letter;
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use super::super::publisher::{PublishError, Publisher};
use super::super::record::AuditAction;
use super::super::transaction::Transaction;
use super::letter::Letter;
use super::message::Message;
use super::pull::{Pull, PullError};
use super::{ConsumerParts, Handler};
use crate::telemetry::{self, Kind};
use crate::{Context, Error, Result};

/// Messages handed to a handler at once, at most.
pub const BATCH_MESSAGES_MAX: usize = 256;

/// How long a handler may take for one batch: well within the 30 s after which the broker delivers again.
pub const HANDLER_TIME_MAX: Duration = Duration::from_secs(15);

/// Bytes of messages held at once; the body of one is at most 256 KiB.
const BATCH_BYTES_MAX: usize = 2 * 1024 * 1024;

/// A message that was delivered more often is handled alone: it may have taken the process down with it.
const TRUSTED_DELIVERIES: u64 = 2;

/// Such messages that wait at once, beside those on their way; more are given back.
const SUSPECTS_MAX: usize = 64;
const SUSPECTS_ARRIVING_MAX: usize = 16;

/// How often a batch is tried before an error that passes by itself counts.
const PASSING_TRIES: u32 = 3;

/// The pause between such tries, doubled each time.
const PASSING_DELAY: Duration = Duration::from_millis(50);

/// The first and the longest pause while the broker or the database is away.
const AWAY_DELAY_MIN: Duration = Duration::from_millis(50);
pub(super) const AWAY_DELAY_MAX: Duration = Duration::from_secs(1);

/// How often the broker is told that messages are still being held: a third of its patience.
const HOLD_INTERVAL: Duration = Duration::from_secs(10);

const ACK: Bytes = Bytes::from_static(b"+ACK");
const NAK: Bytes = Bytes::from_static(b"-NAK");
const IN_PROGRESS: Bytes = Bytes::from_static(b"+WPI");
const TERM: Bytes = Bytes::from_static(b"+TERM it is a dead letter");

/// Writes ids and returns those that were not there.
const REMEMBER: &str = "INSERT INTO inbox (consumer, message_id) SELECT $1, unnest($2::text[]) \
     ON CONFLICT DO NOTHING RETURNING message_id";

/// The same for a dead letter, which may be replayed after any time.
const REMEMBER_FOR_EVER: &str = "WITH known AS (UPDATE inbox SET processed_at = 'infinity' \
         WHERE consumer = $1 AND message_id = ANY ($2) RETURNING message_id) \
     INSERT INTO inbox (consumer, message_id, processed_at) SELECT $1, id, 'infinity' FROM unnest($2::text[]) AS id \
     WHERE id NOT IN (SELECT message_id FROM known) ON CONFLICT DO NOTHING RETURNING message_id";

pub(super) struct Runner<S> {
    stream: &'static str,
    pub(super) durable: &'static str,
    service: Arc<S>,
    handler: Arc<Handler<S>>,
    pub(super) parts: ConsumerParts,
    /// For dead letters; opened by the first.
    publisher: Mutex<Option<Publisher>>,
}

/// What became of a batch.
enum Outcome {
    /// Its effects are committed, now or before.
    Done,
    /// The handler cannot.
    Failed(Error),
    /// The process stops, and the database was away all the while.
    Left,
}

/// When the broker was last told of the messages at hand.
struct Hold {
    told: Instant,
}

impl Hold {
    fn new() -> Self {
        Self { told: Instant::now() }
    }
}

/// Why a try came to nothing.
pub(super) enum Fault {
    /// The database was away before the handler could begin, or at the commit.
    Away(Error),
    /// The handler failed.
    Handler(Error),
}

impl<S: Send + Sync + 'static> Runner<S> {
    pub(super) fn new(
        stream: &'static str,
        durable: &'static str,
        service: Arc<S>,
        handler: Arc<Handler<S>>,
        parts: ConsumerParts,
    ) -> Self {
        Self { stream, durable, service, handler, parts, publisher: Mutex::default() }
    }

    /// Runs until `stopping`, and then finishes what it has.
    pub(super) async fn run(self: Arc<Self>, stopping: CancellationToken) {
        let (suspects, arrivals) = mpsc::channel(SUSPECTS_ARRIVING_MAX);
        tokio::join!(self.read(suspects, &stopping), self.handle_suspects(arrivals, &stopping));
        // Acknowledgements are on their way; a lost one costs a delivery that finds its id in the inbox.
        if timeout(AWAY_DELAY_MAX, self.parts.client.flush()).await.is_err() {
            tracing::debug!(consumer = self.durable, "The last acknowledgements may be lost.");
        }
    }

    async fn read(&self, suspects: mpsc::Sender<Message>, stopping: &CancellationToken) {
        let mut pull = None;
        let mut failures = 0;
        while !stopping.is_cancelled() {
            match self.pull(&mut pull).await {
                Ok(messages) => {
                    failures = 0;
                    self.handle(messages, &suspects, stopping).await;
                }
                Err(error) => {
                    pull = None;
                    if failures == 0 {
                        tracing::warn!(consumer = self.durable, %error, "The consumer waits.");
                    }
                    failures += 1;
                    let pause = sleep(delay(failures, AWAY_DELAY_MIN, AWAY_DELAY_MAX));
                    let _ = stopping.run_until_cancelled(pause).await;
                }
            }
        }
    }

    async fn pull(&self, pull: &mut Option<Pull>) -> Result<Vec<Message>, PullError> {
        if pull.is_none() {
            *pull = Some(Pull::open(&self.parts.client, self.stream, self.durable).await?);
        }
        let pull = pull.as_mut().expect("it was opened above");
        pull.batch(BATCH_MESSAGES_MAX, BATCH_BYTES_MAX).await
    }

    async fn handle(&self, messages: Vec<Message>, suspects: &mpsc::Sender<Message>, stopping: &CancellationToken) {
        if let Some(last) = messages.last() {
            self.parts.measures.pending(self.durable, last.pending);
        }
        let (suspected, trusted): (Vec<_>, Vec<_>) =
            messages.into_iter().partition(|message| message.delivered > TRUSTED_DELIVERIES);
        for message in suspected {
            if let Err(refused) = suspects.try_send(message) {
                self.give_back(&refused.into_inner(), self.redelivery_delay_min()).await;
            }
        }
        let mut hold = Hold::new();
        match self.settle(&trusted, &[], &mut hold, stopping).await {
            Outcome::Done => self.answer_all(&trusted, &ACK).await,
            Outcome::Left => self.answer_all(&trusted, &NAK).await,
            Outcome::Failed(error) if trusted.len() == 1 => self.fail(&trusted[0], &error).await,
            Outcome::Failed(error) => {
                let messages = trusted.len();
                tracing::warn!(
                    consumer = self.durable,
                    messages,
                    ?error,
                    "A batch failed; its messages are tried singly."
                );
                self.handle_singly(&trusted, &mut hold, stopping).await;
            }
        }
    }

    async fn handle_singly(&self, messages: &[Message], hold: &mut Hold, stopping: &CancellationToken) {
        for (index, message) in messages.iter().enumerate() {
            let rest = &messages[index + 1..];
            match self.settle(std::slice::from_ref(message), rest, hold, stopping).await {
                Outcome::Done => self.answer(message, ACK).await,
                Outcome::Left => return self.answer_all(&messages[index..], &NAK).await,
                Outcome::Failed(error) => self.fail(message, &error).await,
            }
            self.hold(&[], rest, hold).await;
        }
    }

    /// Handles what came back again and again, beside the others, so that it is in nobody's way.
    async fn handle_suspects(&self, mut arrivals: mpsc::Receiver<Message>, stopping: &CancellationToken) {
        let mut waiting: VecDeque<Message> = VecDeque::new();
        let mut hold = Hold::new();
        loop {
            while waiting.len() < SUSPECTS_MAX
                && let Ok(message) = arrivals.try_recv()
            {
                waiting.push_back(message);
            }
            let Some(message) = waiting.pop_front() else {
                let Some(message) = arrivals.recv().await else { return };
                waiting.push_back(message);
                hold = Hold::new();
                continue;
            };
            if stopping.is_cancelled() {
                self.answer(&message, NAK).await;
                continue;
            }
            self.handle_suspect(&message, waiting.make_contiguous(), &mut hold, stopping).await;
            self.hold(&[], waiting.make_contiguous(), &mut hold).await;
        }
    }

    async fn handle_suspect(
        &self,
        message: &Message,
        others: &[Message],
        hold: &mut Hold,
        stopping: &CancellationToken,
    ) {
        let Some(began_in_vain) = self.begin(message, others, hold, stopping).await else {
            return self.answer(message, NAK).await;
        };
        if began_in_vain && message.delivered > self.parts.settings.attempts_max.into() {
            return self.bury(message, "Its last run did not end: it may have taken the process down.").await;
        }
        match self.settle(std::slice::from_ref(message), others, hold, stopping).await {
            Outcome::Done => self.answer(message, ACK).await,
            Outcome::Left => self.answer(message, NAK).await,
            Outcome::Failed(error) => self.fail(message, &error).await,
        }
    }

    /// Notes that a run of the message alone begins, and says whether one did before that had no effect. `None` when the
    /// process stops and the database was away all the while. The note lies in the inbox and is forgotten with it.
    async fn begin(
        &self,
        message: &Message,
        others: &[Message],
        hold: &mut Hold,
        stopping: &CancellationToken,
    ) -> Option<bool> {
        let note = "WITH begun AS (INSERT INTO inbox (consumer, message_id) VALUES ($1 || '/begun', $2) \
             ON CONFLICT DO NOTHING RETURNING message_id) \
             SELECT NOT EXISTS (SELECT FROM begun) \
             AND NOT EXISTS (SELECT FROM inbox WHERE consumer = $1 AND message_id = $2)";
        let mut away = 0;
        loop {
            let noted = sqlx::query_scalar(note).bind(self.durable).bind(message.id());
            match noted.fetch_one(self.parts.database.pool()).await.map_err(Error::from) {
                Ok(began_in_vain) => return Some(began_in_vain),
                Err(error) if error.status() != 503 => return Some(false),
                Err(_) if stopping.is_cancelled() => return None,
                Err(_) => away += 1,
            }
            let pause = sleep(delay(away, AWAY_DELAY_MIN, AWAY_DELAY_MAX));
            let _ = stopping.run_until_cancelled(pause).await;
            self.hold(std::slice::from_ref(message), others, hold).await;
        }
    }

    /// Has the effects of the messages committed. While the database is away the messages are held, with the `others` that
    /// wait behind them, since every other would fail as well, and an attempt would be spent on each.
    async fn settle(
        &self,
        messages: &[Message],
        others: &[Message],
        hold: &mut Hold,
        stopping: &CancellationToken,
    ) -> Outcome {
        if messages.is_empty() {
            return Outcome::Done;
        }
        let (mut away, mut tries) = (0, 0);
        loop {
            match self.attempt(messages, None).await {
                Ok(_) => return Outcome::Done,
                Err(Fault::Handler(error)) => {
                    tries += 1;
                    if error.status() != 503 || tries >= PASSING_TRIES {
                        return Outcome::Failed(error);
                    }
                    sleep(delay(tries, PASSING_DELAY, AWAY_DELAY_MAX)).await;
                }
                Err(Fault::Away(error)) => {
                    if stopping.is_cancelled() {
                        return Outcome::Left;
                    }
                    if away == 0 {
                        tracing::warn!(consumer = self.durable, ?error, "The database is away; messages are held.");
                    }
                    away += 1;
                    let pause = sleep(delay(away, AWAY_DELAY_MIN, AWAY_DELAY_MAX));
                    let _ = stopping.run_until_cancelled(pause).await;
                }
            }
            self.hold(messages, others, hold).await;
        }
    }

    /// Tells the broker, when it is time to, that the messages are still at work here.
    async fn hold(&self, messages: &[Message], others: &[Message], hold: &mut Hold) {
        if hold.told.elapsed() >= HOLD_INTERVAL {
            self.answer_all(messages, &IN_PROGRESS).await;
            self.answer_all(others, &IN_PROGRESS).await;
            *hold = Hold::new();
        }
    }

    /// One transaction: the ids, and the effects of those messages whose ids are new. Says whether there were any. A dead
    /// letter's replay, by its place, is recorded with them.
    pub(super) async fn attempt(&self, messages: &[Message], replayed: Option<u64>) -> Result<bool, Fault> {
        let spans: Vec<_> = messages.iter().map(|message| self.span(message)).collect();
        let cx = self.context(messages, &spans);
        let first = spans.iter().find(|span| !span.is_none()).cloned().unwrap_or_else(Span::none);
        async {
            let mut transaction = self.parts.database.begin(&cx).await.map_err(away)?;
            let remember = if replayed.is_some() { REMEMBER_FOR_EVER } else { REMEMBER };
            let new = self.unknown(&mut transaction, messages, remember).await.map_err(away)?;
            self.parts.measures.messages(self.durable, "known", messages.len() - new.len());
            if !new.is_empty() {
                let handled = AssertUnwindSafe((self.handler)(&self.service, &mut transaction, &new)).catch_unwind();
                match timeout(HANDLER_TIME_MAX, handled).await {
                    Ok(Ok(outcome)) => outcome.map_err(Fault::Handler)?,
                    Ok(Err(_)) => return Err(Fault::Handler(Error::internal().with_source("the handler panicked"))),
                    Err(_) => return Err(Fault::Handler(Error::internal().with_source("the handler took too long"))),
                }
            } else if replayed.is_none() {
                return Ok(false);
            }
            if let Some(sequence) = replayed {
                self.record_replay(&mut transaction, sequence, &messages[0]).await.map_err(away)?;
            }
            transaction.commit().await.map_err(away)?;
            let outcome = if replayed.is_some() { "replayed" } else { "handled" };
            self.parts.measures.messages(self.durable, outcome, new.len());
            Ok(!new.is_empty())
        }
        .instrument(first)
        .await
    }

    async fn record_replay(&self, transaction: &mut Transaction, sequence: u64, message: &Message) -> Result<()> {
        let details = serde_json::json!({ "consumer": self.durable, "messageId": message.id() });
        let action = AuditAction {
            action: &format!("{}.dead_letter.replayed", self.parts.database.service()),
            target_type: "dead_letter",
            target_id: &sequence.to_string(),
            outcome: v1::Outcome::Success,
            details: details.to_string(),
        };
        transaction.record(action).await
    }

    /// Writes the ids into the inbox and returns the messages whose id was not there.
    async fn unknown(
        &self,
        transaction: &mut Transaction,
        messages: &[Message],
        remember: &'static str,
    ) -> Result<Vec<Message>> {
        let mut ids: Vec<&str> = messages.iter().map(Message::id).collect();
        // One order for everybody, so that two instances with the same messages do not wait for each other in a circle.
        ids.sort_unstable();
        let new: Vec<String> =
            sqlx::query_scalar(remember).bind(self.durable).bind(ids).fetch_all(&mut **transaction).await?;
        let mut new: HashSet<String> = new.into_iter().collect();
        // The same message twice in one batch counts once.
        Ok(messages.iter().filter(|message| new.remove(message.id())).cloned().collect())
    }

    fn context(&self, messages: &[Message], spans: &[Span]) -> Context {
        let service = self.parts.database.service();
        let cx = Context::for_service(service, &self.parts.clock, &self.parts.random, HANDLER_TIME_MAX);
        let trace = spans.iter().find_map(telemetry::trace_of).or_else(|| messages.first().and_then(Message::trace));
        match trace {
            Some(trace) => cx.with_trace(trace),
            None => cx,
        }
    }

    /// In the trace of the request that caused the message.
    fn span(&self, message: &Message) -> Span {
        match message.trace().filter(|trace| trace.sampled && telemetry::is_exporting()) {
            Some(trace) => telemetry::span(Kind::Consumer, &format!("consumer.{}.handle", self.durable), Some(trace)),
            None => Span::none(),
        }
    }

    /// What becomes of a message that was tried and failed: it comes again later, or it becomes a dead letter.
    async fn fail(&self, message: &Message, error: &Error) {
        if message.delivered >= self.parts.settings.attempts_max.into() {
            return self.bury(message, &format!("{error:?}")).await;
        }
        let attempt = u32::try_from(message.delivered).unwrap_or(u32::MAX);
        let delay = delay(attempt, self.redelivery_delay_min(), self.redelivery_delay_max());
        let (consumer, subject, id, sequence) = (self.durable, message.subject(), message.id(), message.sequence());
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        tracing::warn!(consumer, subject, id, sequence, attempt, delay_ms, ?error, "A message failed.");
        self.parts.measures.messages(self.durable, "failed", 1);
        self.give_back(message, delay).await;
    }

    /// Makes a message a dead letter: stored for good before it is taken from the consumer. Where it cannot be stored, it
    /// comes again.
    async fn bury(&self, message: &Message, reason: &str) {
        let now = self.parts.clock.now();
        let bytes_max = self.parts.client.max_payload();
        let letter = Letter::new(self.stream, self.durable, message, reason, now, bytes_max);
        let stored =
            self.with_publisher(async |publisher| publisher.publish(dead_letter::STREAM, letter.outgoing()).await);
        let (consumer, subject, id, sequence) = (self.durable, message.subject(), message.id(), message.sequence());
        match stored.await {
            Ok(letter) => {
                let (attempts, letter) = (message.delivered, letter.sequence);
                tracing::error!(
                    consumer,
                    subject,
                    id,
                    sequence,
                    attempts,
                    letter,
                    reason,
                    "A message is a dead letter now."
                );
                self.parts.measures.messages(self.durable, "dead_lettered", 1);
                self.answer(message, TERM).await;
            }
            Err(error) => {
                tracing::error!(consumer, subject, id, sequence, reason, %error, "A dead letter cannot be stored.");
                self.give_back(message, self.redelivery_delay_max()).await;
            }
        }
    }

    /// Lets `work` publish on the connection as it is now.
    pub(super) async fn with_publisher<T>(
        &self,
        work: impl AsyncFnOnce(&mut Publisher) -> Result<T, PublishError>,
    ) -> Result<T, PublishError> {
        let mut publisher = self.publisher.lock().await;
        if publisher.is_none() {
            let opened = Publisher::open(self.parts.client.clone()).await;
            *publisher = Some(opened.map_err(|error| PublishError::NotSent(error.to_string()))?);
        }
        let publisher = publisher.as_mut().expect("it was opened above");
        publisher.check()?;
        work(publisher).await
    }

    fn redelivery_delay_min(&self) -> Duration {
        Duration::from_millis(self.parts.settings.redelivery_delay_min_ms.into())
    }

    fn redelivery_delay_max(&self) -> Duration {
        Duration::from_millis(self.parts.settings.redelivery_delay_max_ms.into())
    }

    async fn give_back(&self, message: &Message, delay: Duration) {
        self.answer(message, format!("-NAK {{\"delay\":{}}}", delay.as_nanos()).into()).await;
    }

    async fn answer_all(&self, messages: &[Message], answer: &Bytes) {
        for message in messages {
            self.answer(message, answer.clone()).await;
        }
    }

    /// One that is lost costs a delivery more.
    async fn answer(&self, message: &Message, answer: Bytes) {
        let sent = timeout(AWAY_DELAY_MAX, self.parts.client.publish(message.ack.clone(), answer)).await;
        if !matches!(sent, Ok(Ok(()))) {
            tracing::debug!(consumer = self.durable, id = message.id(), "An acknowledgement could not be sent.");
        }
    }
}

/// What passes by itself is the database's; the rest is about these messages, such as an id that no text can hold.
fn away(error: Error) -> Fault {
    if error.status() == 503 { Fault::Away(error) } else { Fault::Handler(error) }
}

/// Doubles from `min` with each attempt, up to `max`.
fn delay(attempt: u32, min: Duration, max: Duration) -> Duration {
    min.saturating_mul(2_u32.saturating_pow(attempt.saturating_sub(1).min(16))).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_doubles_up_to_its_bound() {
        let seconds = |attempt| delay(attempt, Duration::from_secs(1), Duration::from_mins(1)).as_secs();

        assert_eq!([1, 2, 3, 4].map(seconds), [1, 2, 4, 8]);
        assert_eq!(seconds(u32::MAX), 60);
    }
}
