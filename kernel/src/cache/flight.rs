//! Fills under way, and those who wait for them.

use tokio::sync::watch;

use crate::Result;

/// What to do about a key.
pub(super) enum Boarding<V> {
    /// It has come meanwhile.
    Filled(V),
    /// Fill, and land.
    Lead(Flight<V>),
    /// Wait for who fills.
    Join(watch::Receiver<Option<Landing<V>>>),
    /// Fill for oneself: nothing is stored just now.
    Alone,
}

/// A fill under way.
pub(super) struct Flight<V> {
    /// The last drop before it began.
    pub(super) began: u64,
    landed: watch::Sender<Option<Landing<V>>>,
}

/// How a fill ended.
#[derive(Clone)]
pub(super) struct Landing<V> {
    pub(super) outcome: Result<V>,
    /// The first drop since it began that concerns it.
    pub(super) void_since: Option<u64>,
}

impl<V> Landing<V> {
    /// Whether it may be given to who came when `arrived` was the last drop.
    pub(super) fn counts_for(&self, arrived: u64) -> bool {
        self.void_since.is_none_or(|void_since| arrived < void_since)
    }
}

impl<V> Flight<V> {
    pub(super) fn begin(began: u64) -> Self {
        Self { began, landed: watch::Sender::new(None) }
    }

    pub(super) fn join(&self) -> watch::Receiver<Option<Landing<V>>> {
        self.landed.subscribe()
    }

    pub(super) fn land(&self, landing: Landing<V>) {
        self.landed.send_replace(Some(landing));
    }
}
