//! Reading the requests of one endpoint, and leaving without losing any.
//!
//! A plain unsubscribe makes the client forget the subscription before the server has, and what is on its way between
//! is lost; the client's drain loses it too. Instead the server is told to stop after a number of messages that it
//! cannot read, which it takes for "now", while the client waits for that number and goes on handing over what comes.
//! A message of our own that has gone to the server and back on the same connection then comes after the last one.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use async_nats::{Message, Subscriber};
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::sleep;

use crate::nats::{Connection, Requester};
use crate::{Lifecycle, StartError};

/// The number: nats-server reads at most nine digits (`parseSize`, the same since 1.0) and ends the subscription at
/// once for more. The kernel's tests stop under load against the server that is pinned, so that a change is seen.
const MORE_THAN_THE_SERVER_READS: u64 = 10_000_000_000;

/// How long the server may still give us a message that it had picked for us in the moment of leaving.
const GRACE: Duration = Duration::from_millis(50);

/// What is read.
pub(super) struct Source {
    pub(super) connection: Connection,
    pub(super) requester: Requester,
    pub(super) subject: &'static str,
    pub(super) queue: &'static str,
    /// How long leaving may take.
    pub(super) drain_timeout: Duration,
}

/// Takes what is read. It must not wait for work to be done, or the messages behind wait too.
pub(super) trait Take: Send + Sync {
    fn take(&self, message: Message) -> impl Future<Output = ()> + Send;
}

/// A subscription in force. The client makes it again after a lost connection.
pub(super) struct Subscription {
    source: Source,
    subscriber: Subscriber,
}

impl Source {
    pub(super) async fn subscribe(self) -> Result<Subscription, StartError> {
        let subscribed = self.connection.client().queue_subscribe(self.subject, self.queue.to_owned()).await;
        let cannot = |error| StartError::new(format!("{} cannot be served", self.subject)).with_source(error);
        Ok(Subscription { subscriber: subscribed.map_err(cannot)?, source: self })
    }
}

impl Subscription {
    /// Gives every message to `taker` until the process stops, and then what is still on its way.
    ///
    /// Returns early only when the client has died; its caller then ends the process.
    pub(super) async fn read(mut self, life: &Lifecycle, taker: &impl Take) {
        self.read_until(life.stopping(), taker).await;
        if self.subscriber.unsubscribe_after(MORE_THAN_THE_SERVER_READS).await.is_err() {
            return;
        }
        let requester = self.source.requester.clone();
        let within = self.source.drain_timeout;
        let settled = async move {
            // Without a connection nothing can be on its way.
            let _ = requester.round_trip(within).await;
            sleep(GRACE).await;
        };
        self.read_until(settled, taker).await;
        while let Some(Some(message)) = self.subscriber.next().now_or_never() {
            taker.take(message).await;
        }
    }

    async fn read_until(&mut self, end: impl Future<Output = ()>, taker: &impl Take) {
        let mut end = pin!(end);
        loop {
            tokio::select! {
                biased;
                message = self.subscriber.next() => {
                    let Some(message) = message else { return };
                    taker.take(message).await;
                }
                () = &mut end => return,
            }
        }
    }
}
