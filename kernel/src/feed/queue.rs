//! What waits for a feed's reader. Bounded: where it is full, everything in it is worthless, since the reader must begin
//! anew anyway, so that it is dropped and the reader is told.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::{Bounds, Loss, Signal};

#[derive(Debug)]
pub(super) struct Queue {
    bounds: Bounds,
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    signals: VecDeque<Signal>,
    bytes: usize,
    closed: bool,
}

impl Queue {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, waiting: Mutex::default(), filled: Notify::new() }
    }

    /// Adds a signal. False where there was no room: the reader has lost everything that waited, and this.
    pub(super) fn push(&self, signal: Signal) -> bool {
        let mut waiting = self.waiting();
        let bytes = size(&signal);
        let fits =
            waiting.signals.len() < self.bounds.messages && waiting.bytes.saturating_add(bytes) <= self.bounds.bytes;
        if fits {
            waiting.bytes += bytes;
            waiting.signals.push_back(signal);
        } else {
            waiting.signals.clear();
            waiting.signals.push_back(Signal::Lost(Loss::SlowReader));
            waiting.bytes = 0;
        }
        drop(waiting);
        self.filled.notify_one();
        fits
    }

    /// Whether it is half full.
    pub(super) fn is_crowded(&self) -> bool {
        let waiting = self.waiting();
        waiting.signals.len() > self.bounds.messages / 2 || waiting.bytes > self.bounds.bytes / 2
    }

    /// Whether the reader has taken everything.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting().signals.is_empty()
    }

    /// Nothing more will come.
    pub(super) fn close(&self) {
        self.waiting().closed = true;
        self.filled.notify_one();
    }

    /// The next signal; `None` when nothing more will come.
    pub(super) async fn pop(&self) -> Option<Signal> {
        loop {
            {
                let mut waiting = self.waiting();
                if let Some(signal) = waiting.signals.pop_front() {
                    waiting.bytes -= size(&signal);
                    return Some(signal);
                }
                if waiting.closed {
                    return None;
                }
            }
            // One reader: a note that comes between the look and the wait is kept for it.
            self.filled.notified().await;
        }
    }

    /// Every step leaves the queue whole.
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn size(signal: &Signal) -> usize {
    match signal {
        Signal::Event(message) => message.size(),
        Signal::Lost(_) | Signal::Fresh(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reader_that_takes_nothing_is_told_that_it_lost() {
        let queue = Queue::new(Bounds { messages: 3, bytes: 1_000 });
        for sequence in 0..3 {
            assert!(queue.push(Signal::Fresh(sequence)));
        }
        assert!(!queue.push(Signal::Fresh(3)));
        assert!(queue.push(Signal::Fresh(4)));

        assert!(matches!(queue.pop().await, Some(Signal::Lost(Loss::SlowReader))));
        assert!(matches!(queue.pop().await, Some(Signal::Fresh(4))));
        queue.close();
        assert!(queue.pop().await.is_none());
    }
}
