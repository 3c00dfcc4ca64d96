//! The last events that came, for all clients at once. Each client has its own place in them; one that falls behind what
//! is kept has lost its place, not the events.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernel::feed::{Feed, Loss, Signal, StoredMessage};
use tokio::sync::watch;

/// Bytes of the events kept.
const BUFFER_BYTES_MAX: usize = 8 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct Tail {
    ring: Mutex<Ring>,
    messages_max: usize,
    /// Told at each change.
    changes: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Ring {
    messages: VecDeque<Arc<StoredMessage>>,
    bytes: usize,
    /// Of the first message kept, counted from the gateway's start.
    first: u64,
    /// How often messages may have been missed.
    losses: u64,
    /// How often the stream was made anew.
    anew: u64,
}

/// The state of the tail at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    losses: u64,
    end: u64,
}

/// A client's place.
#[derive(Debug)]
pub(super) struct Cursor {
    losses: u64,
    next: u64,
}

/// What a place shows.
#[derive(Debug)]
pub(super) enum Next {
    Message(Arc<StoredMessage>),
    /// Nothing yet.
    Wait,
    /// The place is not kept any more: its client is too slow.
    Behind,
    /// Messages may be missing: read what is stored.
    Lost,
}

impl Tail {
    pub(super) fn new(messages_max: usize) -> Self {
        Self { ring: Mutex::default(), messages_max, changes: watch::Sender::new(()) }
    }

    /// Takes what the feed tells, until the process stops.
    pub(super) async fn fill(self: Arc<Self>, mut feed: Feed) {
        while let Some(signal) = feed.next().await {
            match signal {
                Signal::Event(message) => self.push(message),
                Signal::Lost(loss) if loss.is_of_messages() => self.lose(loss),
                // What is late comes by itself.
                Signal::Lost(_) | Signal::Fresh(_) => {}
            }
        }
    }

    fn push(&self, message: StoredMessage) {
        let mut ring = self.ring();
        ring.bytes += message.size();
        ring.messages.push_back(Arc::new(message));
        while ring.messages.len() > self.messages_max || ring.bytes > BUFFER_BYTES_MAX {
            let Some(oldest) = ring.messages.pop_front() else { break };
            ring.bytes -= oldest.size();
            ring.first += 1;
        }
        drop(ring);
        self.changes.send_replace(());
    }

    fn lose(&self, loss: Loss) {
        let mut ring = self.ring();
        ring.first += ring.messages.len() as u64;
        ring.messages.clear();
        ring.bytes = 0;
        ring.losses += 1;
        ring.anew += u64::from(loss == Loss::StreamAnew);
        drop(ring);
        self.changes.send_replace(());
    }

    /// The present moment, taken before the stream is read.
    pub(super) fn mark(&self) -> Mark {
        let ring = self.ring();
        Mark { losses: ring.losses, end: ring.end() }
    }

    /// A place from which on nothing is missing for whoever has read the whole stream since `mark`; it shows some of what
    /// was read again. `None` where the tail has moved on too far meanwhile.
    pub(super) fn attach(&self, mark: Mark) -> Option<Cursor> {
        let ring = self.ring();
        let unbroken = ring.losses == mark.losses && ring.first <= mark.end;
        // From the first that is kept: a replica that was read may lag behind what has been told.
        unbroken.then_some(Cursor { losses: ring.losses, next: ring.first })
    }

    /// Looks at a place and moves it on.
    pub(super) fn next(&self, cursor: &mut Cursor) -> Next {
        let ring = self.ring();
        if cursor.losses != ring.losses {
            return Next::Lost;
        }
        let Some(index) = cursor.next.checked_sub(ring.first) else { return Next::Behind };
        match usize::try_from(index).ok().and_then(|index| ring.messages.get(index)) {
            Some(message) => {
                cursor.next += 1;
                Next::Message(Arc::clone(message))
            }
            None => Next::Wait,
        }
    }

    /// How often the stream was made anew.
    pub(super) fn anew(&self) -> u64 {
        self.ring().anew
    }

    /// Tells of changes from now on.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Every step leaves the ring whole.
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn end(&self) -> u64 {
        self.first + self.messages.len() as u64
    }
}
