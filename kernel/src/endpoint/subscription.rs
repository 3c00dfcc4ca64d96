//! Reading the requests of one endpoint, and leaving without losing any.
//!
//! The client's drain forgets the subscription before the server has, and what is on its way between is lost. Instead
//! the server is told to stop after a number of messages that lies beyond what can be on its way, and the reader goes on
//! until it has them all; server and client then stop at the same message. Both count from the moment of subscribing,
//! and the server anew on each connection: so a lost connection means a new subscription.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use async_nats::{Message, Subscriber};
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::nats::Connection;
use crate::{Lifecycle, StartError};

/// How long nothing must have come before the subscription is simply ended.
const QUIET: Duration = Duration::from_millis(300);

/// Messages that are always still taken. At a rate of fewer in [`RATE_WINDOW`] quiet moments come by themselves.
const AHEAD_MIN: u64 = 64;

/// Messages that are still taken at most. What can be on its way in the milliseconds that the server takes to hear of it
/// is far less at any rate that one reader can bear.
const AHEAD_MAX: u64 = 20_000;

/// Over which time the rate is taken: what is still taken is what came in it last.
const RATE_WINDOW: Duration = Duration::from_millis(500);

/// What is read.
pub(super) struct Source {
    pub(super) connection: Connection,
    pub(super) subject: &'static str,
    pub(super) queue: &'static str,
    /// How long leaving may take.
    pub(super) drain_timeout: Duration,
}

/// Takes what is read. It must not wait for work to be done, or the messages behind wait too.
pub(super) trait Take: Send + Sync {
    fn take(&self, message: Message) -> impl Future<Output = ()> + Send;
}

/// A subscription in force.
pub(super) struct Subscription {
    source: Source,
    subscriber: Subscriber,
    losses: watch::Receiver<u64>,
    /// Messages taken since subscribing.
    taken: u64,
    rate: Rate,
}

impl Source {
    pub(super) async fn subscribe(self) -> Result<Subscription, StartError> {
        let mut losses = self.connection.losses();
        losses.mark_unchanged();
        let subscriber = self.open().await?;
        Ok(Subscription { source: self, subscriber, losses, taken: 0, rate: Rate::new() })
    }

    async fn open(&self) -> Result<Subscriber, StartError> {
        let opened = self.connection.client().queue_subscribe(self.subject, self.queue.to_owned()).await;
        opened.map_err(|error| StartError::new(format!("{} cannot be served", self.subject)).with_source(error))
    }
}

impl Subscription {
    /// Gives every message to `taker` until the process stops, and then what is still on its way.
    ///
    /// Returns early only when the client has died; its caller then ends the process.
    pub(super) async fn read(mut self, life: &Lifecycle, taker: &impl Take) {
        let mut stopping = pin!(life.stopping());
        loop {
            tokio::select! {
                biased;
                message = self.subscriber.next() => {
                    let Some(message) = message else { return };
                    self.count();
                    taker.take(message).await;
                }
                Ok(()) = self.losses.changed() => {
                    if !self.renew(taker).await {
                        return;
                    }
                }
                () = &mut stopping => break,
            }
        }
        self.leave(taker).await;
    }

    fn count(&mut self) {
        self.taken += 1;
        self.rate.count();
    }

    /// The old subscription is given up before the client brings it back on the new connection.
    async fn renew(&mut self, taker: &impl Take) -> bool {
        while let Some(Some(message)) = self.subscriber.next().now_or_never() {
            taker.take(message).await;
        }
        match self.source.open().await {
            Ok(subscriber) => {
                self.subscriber = subscriber;
                self.taken = 0;
                true
            }
            Err(error) => {
                tracing::error!(?error, "An endpoint cannot be served any more.");
                false
            }
        }
    }

    async fn leave(mut self, taker: &impl Take) {
        let deadline = Instant::now() + self.source.drain_timeout;
        let last = self.taken + self.rate.recent().clamp(AHEAD_MIN, AHEAD_MAX);
        if self.subscriber.unsubscribe_after(last).await.is_err() {
            return;
        }
        loop {
            let quiet = (Instant::now() + QUIET).min(deadline);
            match timeout_at(quiet, self.subscriber.next()).await {
                Ok(Some(message)) => taker.take(message).await,
                Ok(None) => return,
                Err(_) => break,
            }
        }
        if self.subscriber.unsubscribe().await.is_err() {
            return;
        }
        let mut given_up = pin!(sleep_until(deadline + QUIET));
        loop {
            tokio::select! {
                message = self.subscriber.next() => match message {
                    Some(message) => taker.take(message).await,
                    None => return,
                },
                () = &mut given_up => return,
            }
        }
    }
}

/// How many messages came lately.
struct Rate {
    since: Instant,
    now: u64,
    before: u64,
}

impl Rate {
    fn new() -> Self {
        Self { since: Instant::now(), now: 0, before: 0 }
    }

    fn count(&mut self) {
        self.roll();
        self.now += 1;
    }

    /// In this window and the one before.
    fn recent(&mut self) -> u64 {
        self.roll();
        self.now + self.before
    }

    fn roll(&mut self) {
        let passed = self.since.elapsed();
        if passed >= RATE_WINDOW {
            self.before = if passed < RATE_WINDOW * 2 { self.now } else { 0 };
            self.now = 0;
            self.since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rate_is_of_the_last_moment_only() {
        let mut rate = Rate::new();
        (0..500).for_each(|_| rate.count());
        assert_eq!(rate.recent(), 500);

        tokio::time::advance(RATE_WINDOW).await;
        (0..10).for_each(|_| rate.count());
        assert_eq!(rate.recent(), 510);

        tokio::time::advance(RATE_WINDOW * 3).await;
        assert_eq!(rate.recent(), 0);
    }
}
