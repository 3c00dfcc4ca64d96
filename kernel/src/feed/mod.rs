//! Feeds: what every instance must see as it happens. A plain subscription on what the server republishes once it has
//! stored it, and the certainty of noticing when something was missed.
//!
//! Nothing is asked of the broker but a subscription: no consumer, no state there. So messages can be lost, and what
//! notices it is the sequence in each message, the connection, the client's own complaints, and the heartbeats of the
//! relays that publish (`beat.<service>`), without which silence would look like peace. Who reads a feed drops what it
//! has cached when it hears [`Signal::Lost`], and reads a snapshot (see [`StreamReader`]) when it hears
//! [`Signal::Fresh`]. Not done here: caching, and any promise that each message comes; that is what consumers are for.

mod beats;
mod live;
mod measures;
mod message;
mod outlet;
mod pump;
mod queue;
mod reader;
mod tracker;

use std::sync::Arc;
use std::time::Duration;

use subjects::WatchContract;
use tokio::sync::watch;
use tokio::time::Instant;

use self::measures::FeedMeasures;
use self::outlet::Outlet;
use self::pump::Pump;
use self::queue::Queue;
use crate::nats::{Connection, Requester};
use crate::{Lifecycle, Metrics, StartError};

pub use self::message::StoredMessage;
pub use self::outlet::{Belief, Observe, Place};
pub use self::reader::{Page, ReadError, StreamReader};

/// Silence of a publishing service's relay, or age of what it has not sent, from which on its feed is not believed:
/// five beats.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What a feed tells its reader, in order.
#[derive(Debug)]
pub enum Signal {
    /// A message was stored.
    Event(StoredMessage),
    /// Messages may have been missed, or may be late. What was cached from the feed does not count any more. More than
    /// one may come before the next [`Signal::Fresh`].
    Lost(Loss),
    /// From now on nothing is missed that is stored behind this sequence: a snapshot read now and the messages that
    /// follow are all there is.
    Fresh(u64),
}

/// Why a feed is not to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// It has just begun.
    #[error("the feed has just begun")]
    Starting,
    /// The sequences show that a message did not come.
    #[error("a message is missing")]
    Gap,
    /// Sequences begin anew: the stream is another one.
    #[error("the stream was made anew")]
    StreamAnew,
    /// The connection to the broker was lost.
    #[error("the connection to the broker was lost")]
    Disconnected,
    /// The client dropped messages because this process did not take them in time.
    #[error("this process was too slow for the broker's client")]
    SlowConsumer,
    /// The reader of the feed did not take them in time.
    #[error("the feed's reader was too slow")]
    SlowReader,
    /// The relay of this service has not been heard for five seconds.
    #[error("nothing is heard of the relay of {0}")]
    Silent(&'static str),
    /// The relay of this service has something unsent that is older than five seconds.
    #[error("the relay of {0} is behind")]
    Behind(&'static str),
}

impl Loss {
    /// Whether messages may have been missed for good; otherwise they are only late.
    pub fn is_of_messages(self) -> bool {
        !matches!(self, Self::Silent(_) | Self::Behind(_))
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Gap => "gap",
            Self::StreamAnew => "stream_anew",
            Self::Disconnected => "disconnected",
            Self::SlowConsumer => "slow_consumer",
            Self::SlowReader => "slow_reader",
            Self::Silent(_) => "silent",
            Self::Behind(_) => "behind",
        }
    }
}

/// Whether a feed is to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Nothing is missed.
    Fresh,
    /// Not since then, for the reason that came first.
    Stale {
        /// When it began.
        since: Instant,
        /// Why.
        loss: Loss,
    },
}

/// How much may wait for a feed's reader. Beyond it the reader has lost: it is told so instead.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Messages.
    pub messages: usize,
    /// Bytes of their bodies.
    pub bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { messages: 8_192, bytes: 8 * 1024 * 1024 }
    }
}

/// Opens feeds. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Feeds {
    connection: Connection,
    requester: Requester,
    measures: FeedMeasures,
    life: Lifecycle,
}

impl Feeds {
    pub(crate) fn new(connection: Connection, requester: Requester, metrics: &Metrics, life: &Lifecycle) -> Self {
        Self { connection, requester, measures: FeedMeasures::registered(metrics), life: life.clone() }
    }

    /// Begins to watch what the service's contract declares. It is stale until the broker has answered and every
    /// publishing relay was heard. `name` tells it apart among the metrics.
    pub async fn open(
        &self,
        name: &'static str,
        watch: &'static WatchContract,
        bounds: Bounds,
    ) -> Result<Feed, StartError> {
        let queue = Arc::new(Queue::new(bounds));
        let (freshness, _) = self.start(name, watch, Outlet::Queue(Arc::clone(&queue))).await?;
        Ok(Feed { queue, freshness })
    }

    /// The same with an observer in place of a reader.
    pub async fn observe(
        &self,
        name: &'static str,
        watch: &'static WatchContract,
        observer: impl Observe,
    ) -> Result<Belief, StartError> {
        let (_, belief) = self.start(name, watch, Outlet::Observer(Box::new(observer))).await?;
        Ok(belief)
    }

    async fn start(
        &self,
        name: &'static str,
        watch: &'static WatchContract,
        outlet: Outlet,
    ) -> Result<(watch::Receiver<Freshness>, Belief), StartError> {
        let stale = Freshness::Stale { since: Instant::now(), loss: Loss::Starting };
        let (sender, freshness) = watch::channel(stale);
        let (requester, reader, measures) = (self.requester.clone(), self.reader(watch), self.measures.of(name));
        let opened = Pump::open(&self.connection, requester, watch, reader, outlet, sender, measures).await;
        let refused = |error| StartError::new(format!("the feed {name} cannot be opened")).with_source(error);
        let pump = opened.map_err(refused)?;
        let belief = pump.belief();
        self.life.spawn("feed", pump.run(self.life.stop_token()));
        Ok((freshness, belief))
    }

    /// Reads what the watched stream holds.
    pub fn reader(&self, watch: &'static WatchContract) -> StreamReader {
        StreamReader::new(self.connection.client().clone(), watch.stream)
    }
}

/// A feed and its reader's place in it.
#[derive(Debug)]
pub struct Feed {
    queue: Arc<Queue>,
    freshness: watch::Receiver<Freshness>,
}

impl Feed {
    /// What comes next; waits for it. Dropping the wait loses nothing. `None` when the process stops.
    pub async fn next(&mut self) -> Option<Signal> {
        self.queue.pop().await
    }

    /// Whether it is to be believed now.
    pub fn freshness(&self) -> Freshness {
        *self.freshness.borrow()
    }

    /// The same for others than the reader.
    pub fn watch_freshness(&self) -> watch::Receiver<Freshness> {
        self.freshness.clone()
    }
}
