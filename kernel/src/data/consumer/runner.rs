//! Runs one consumer in one process: pull, handle, commit, acknowledge.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use super::super::transaction::Transaction;
use super::message::Message;
use super::pull::{Pull, PullError};
use super::{ConsumerParts, Handler};
use crate::telemetry::{self, Kind};
use crate::{Context, Error, Result};

/// Messages handed to a handler at once, at most.
pub const BATCH_MESSAGES_MAX: usize = 256;

/// How long a handler may take for one batch: well within the 30 s after which the broker delivers again.
pub const HANDLER_TIME_MAX: Duration = Duration::from_secs(15);

/// Deliveries of a message after which it counts as poison.
pub const ATTEMPTS_MAX: u64 = 8;

/// Bytes of messages held at once; the body of one is at most 256 KiB.
const BATCH_BYTES_MAX: usize = 2 * 1024 * 1024;

/// A message that was delivered more often is handled alone: it may have taken the process down with it.
const TRUSTED_DELIVERIES: u64 = 2;

/// How often a batch is tried before an error that passes by itself counts.
const PASSING_TRIES: u32 = 3;

/// The pause between such tries, doubled each time.
const PASSING_DELAY: Duration = Duration::from_millis(50);

/// The first and the longest pause before a failed message comes again.
const REDELIVERY_DELAY_MIN: Duration = Duration::from_secs(1);
const REDELIVERY_DELAY_MAX: Duration = Duration::from_mins(1);

/// The pause before poison is tried again.
const POISON_DELAY: Duration = Duration::from_mins(5);

/// The first and the longest pause while the broker or the database is away.
const AWAY_DELAY_MIN: Duration = Duration::from_millis(50);
const AWAY_DELAY_MAX: Duration = Duration::from_secs(1);

/// How often the broker is told that messages are still being held: a third of its patience.
const HOLD_INTERVAL: Duration = Duration::from_secs(10);

const ACK: Bytes = Bytes::from_static(b"+ACK");
const NAK: Bytes = Bytes::from_static(b"-NAK");
const IN_PROGRESS: Bytes = Bytes::from_static(b"+WPI");

pub(super) struct Runner<S> {
    stream: &'static str,
    durable: &'static str,
    service: Arc<S>,
    handler: Arc<Handler<S>>,
    parts: ConsumerParts,
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
enum Fault {
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
        Self { stream, durable, service, handler, parts }
    }

    /// Runs until `stopping`, and then finishes what it has.
    pub(super) async fn run(self, stopping: CancellationToken) {
        let mut pull = None;
        let mut failures = 0;
        while !stopping.is_cancelled() {
            match self.pull(&mut pull).await {
                Ok(messages) => {
                    failures = 0;
                    self.handle(messages, &stopping).await;
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
        // Acknowledgements are on their way; a lost one costs a delivery that finds its id in the inbox.
        if timeout(AWAY_DELAY_MAX, self.parts.client.flush()).await.is_err() {
            tracing::debug!(consumer = self.durable, "The last acknowledgements may be lost.");
        }
    }

    async fn pull(&self, pull: &mut Option<Pull>) -> Result<Vec<Message>, PullError> {
        if pull.is_none() {
            *pull = Some(Pull::open(&self.parts.client, self.stream, self.durable).await?);
        }
        let pull = pull.as_mut().expect("it was opened above");
        pull.batch(BATCH_MESSAGES_MAX, BATCH_BYTES_MAX).await
    }

    async fn handle(&self, messages: Vec<Message>, stopping: &CancellationToken) {
        if let Some(last) = messages.last() {
            self.parts.measures.pending(self.durable, last.pending);
        }
        let (suspects, trusted): (Vec<_>, Vec<_>) =
            messages.into_iter().partition(|message| message.delivered > TRUSTED_DELIVERIES);
        let mut hold = Hold::new();
        match self.settle(&trusted, &suspects, &mut hold, stopping).await {
            Outcome::Done => self.answer_all(&trusted, &ACK).await,
            Outcome::Left => self.answer_all(&trusted, &NAK).await,
            Outcome::Failed(error) if trusted.len() == 1 => self.put_off(&trusted[0], &error).await,
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
        self.handle_singly(&suspects, &mut hold, stopping).await;
    }

    async fn handle_singly(&self, messages: &[Message], hold: &mut Hold, stopping: &CancellationToken) {
        for (index, message) in messages.iter().enumerate() {
            if is_resting(message.delivered) {
                self.put_off(message, &Error::internal().with_source("it is not tried at every delivery any more"))
                    .await;
                continue;
            }
            let rest = &messages[index + 1..];
            match self.settle(std::slice::from_ref(message), rest, hold, stopping).await {
                Outcome::Done => self.answer(message, ACK).await,
                Outcome::Left => return self.answer_all(&messages[index..], &NAK).await,
                Outcome::Failed(error) => self.put_off(message, &error).await,
            }
            self.hold(&[], rest, hold).await;
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
            match self.attempt(messages).await {
                Ok(()) => return Outcome::Done,
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

    /// One transaction: the ids, and the effects of those messages whose ids are new.
    async fn attempt(&self, messages: &[Message]) -> Result<(), Fault> {
        let spans: Vec<_> = messages.iter().map(|message| self.span(message)).collect();
        let cx = self.context(messages, &spans);
        let first = spans.iter().find(|span| !span.is_none()).cloned().unwrap_or_else(Span::none);
        async {
            let mut transaction = self.parts.database.begin(&cx).await.map_err(away)?;
            let new = self.unknown(&mut transaction, messages).await.map_err(away)?;
            self.parts.measures.messages(self.durable, "known", messages.len() - new.len());
            if new.is_empty() {
                return Ok(());
            }
            let handled = AssertUnwindSafe((self.handler)(&self.service, &mut transaction, &new)).catch_unwind();
            match timeout(HANDLER_TIME_MAX, handled).await {
                Ok(Ok(outcome)) => outcome.map_err(Fault::Handler)?,
                Ok(Err(_)) => return Err(Fault::Handler(Error::internal().with_source("the handler panicked"))),
                Err(_) => return Err(Fault::Handler(Error::internal().with_source("the handler took too long"))),
            }
            transaction.commit().await.map_err(away)?;
            self.parts.measures.messages(self.durable, "handled", new.len());
            Ok(())
        }
        .instrument(first)
        .await
    }

    /// Writes the ids into the inbox and returns the messages whose id was not there.
    async fn unknown(&self, transaction: &mut Transaction, messages: &[Message]) -> Result<Vec<Message>> {
        let mut ids: Vec<&str> = messages.iter().map(Message::id).collect();
        // One order for everybody, so that two instances with the same messages do not wait for each other in a circle.
        ids.sort_unstable();
        let insert = "INSERT INTO inbox (consumer, message_id) SELECT $1, unnest($2::text[]) \
                      ON CONFLICT DO NOTHING RETURNING message_id";
        let new: Vec<String> =
            sqlx::query_scalar(insert).bind(self.durable).bind(ids).fetch_all(&mut **transaction).await?;
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

    /// Gives a message back, to come again later. Poison too, until there is a stream for dead letters: it comes so
    /// seldom that it is in nobody's way, and after a repair it is handled without anybody's doing.
    async fn put_off(&self, message: &Message, error: &Error) {
        let poison = message.delivered >= ATTEMPTS_MAX;
        let delay = if poison {
            POISON_DELAY
        } else {
            let attempt = u32::try_from(message.delivered).unwrap_or(u32::MAX);
            delay(attempt, REDELIVERY_DELAY_MIN, REDELIVERY_DELAY_MAX)
        };
        let (consumer, subject, id, sequence) = (self.durable, message.subject(), message.id(), message.sequence());
        let (attempt, delay_ms) = (message.delivered, u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        if poison {
            self.parts.measures.messages(self.durable, "poison", 1);
            tracing::error!(consumer, subject, id, sequence, attempt, delay_ms, ?error, "A message cannot be handled.");
        } else {
            self.parts.measures.messages(self.durable, "failed", 1);
            tracing::warn!(consumer, subject, id, sequence, attempt, delay_ms, ?error, "A message failed.");
        }
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

/// Whether a message is put off without being tried: poison at every other delivery. One that takes the process down comes
/// again as soon as the broker misses it, not after the pause that was meant for it.
fn is_resting(delivered: u64) -> bool {
    delivered > ATTEMPTS_MAX && delivered % 2 == 1
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
        let seconds = |attempt| delay(attempt, REDELIVERY_DELAY_MIN, REDELIVERY_DELAY_MAX).as_secs();

        assert_eq!([1, 2, 3, 4].map(seconds), [1, 2, 4, 8]);
        assert_eq!(seconds(u32::MAX), 60);
    }

    #[test]
    fn poison_rests_at_every_other_delivery() {
        assert!((1..=ATTEMPTS_MAX).all(|delivered| !is_resting(delivered)));
        assert_eq!((9..13).filter(|delivered| is_resting(*delivered)).count(), 2);
    }
}
