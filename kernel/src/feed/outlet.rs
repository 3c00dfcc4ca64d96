//! Where a feed's signals go: into the queue of a reader who takes them when it comes to it, or straight to an observer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::queue::Queue;
use super::{Loss, Signal, StoredMessage};

/// Hears what a feed tells within the task that reads it: nothing lies between a message's arrival and its effect. It must
/// not block.
pub trait Observe: Send + 'static {
    /// A message was stored.
    fn event(&mut self, message: &StoredMessage);

    /// Messages may have been missed, or may be late. May be said more than once.
    fn lost(&mut self, loss: Loss);

    /// From now on nothing is missed that is stored behind this place.
    fn fresh(&mut self, place: Place);
}

/// A place in a stream that may be made anew, when its sequences begin anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// When the stream was made.
    pub created: DateTime<Utc>,
    /// The sequence; 0 stands before the first message.
    pub sequence: u64,
}

/// Until when a feed may be believed if nothing more is heard of it. Cheap to clone; to be asked at each use.
#[derive(Clone, Debug)]
pub struct Belief(Arc<Until>);

#[derive(Debug)]
struct Until {
    origin: Instant,
    /// Milliseconds after the origin; 0 where it is not believed.
    until_ms: AtomicU64,
}

impl Belief {
    pub(super) fn none() -> Self {
        Self(Arc::new(Until { origin: Instant::now(), until_ms: AtomicU64::new(0) }))
    }

    /// Whether the feed is believed at this moment, even where its own task has not run for a while.
    pub fn holds(&self) -> bool {
        let until_ms = self.0.until_ms.load(Ordering::Acquire);
        until_ms != 0 && self.0.origin.elapsed().as_millis() < u128::from(until_ms)
    }

    pub(super) fn until(&self, instant: Instant) {
        let until_ms = instant.saturating_duration_since(self.0.origin).as_millis();
        self.0.until_ms.store(u64::try_from(until_ms).unwrap_or(u64::MAX), Ordering::Release);
    }

    pub(super) fn end(&self) {
        self.0.until_ms.store(0, Ordering::Release);
    }
}

pub(super) enum Outlet {
    Queue(Arc<Queue>),
    Observer(Box<dyn Observe>),
}

impl Outlet {
    /// False where the reader has lost.
    pub(super) fn event(&mut self, message: StoredMessage) -> bool {
        match self {
            Self::Queue(queue) => queue.push(Signal::Event(message)),
            Self::Observer(observer) => {
                observer.event(&message);
                true
            }
        }
    }

    pub(super) fn lost(&mut self, loss: Loss) -> bool {
        match self {
            Self::Queue(queue) => queue.push(Signal::Lost(loss)),
            Self::Observer(observer) => {
                observer.lost(loss);
                true
            }
        }
    }

    pub(super) fn fresh(&mut self, place: Place) -> bool {
        match self {
            Self::Queue(queue) => queue.push(Signal::Fresh(place.sequence)),
            Self::Observer(observer) => {
                observer.fresh(place);
                true
            }
        }
    }

    /// Whether its reader should be let run.
    pub(super) fn is_crowded(&self) -> bool {
        match self {
            Self::Queue(queue) => queue.is_crowded(),
            Self::Observer(_) => false,
        }
    }

    /// Whether everything has been taken.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Queue(queue) => queue.is_empty(),
            Self::Observer(_) => true,
        }
    }

    pub(super) fn close(&self) {
        if let Self::Queue(queue) = self {
            queue.close();
        }
    }
}
