//! How much is handled at once. Full is said at once: a request that waits in line for longer than its caller does is
//! work for nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A bound on what is in flight. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Limit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    taken: AtomicU32,
    max: u32,
}

/// One place, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place(Limit);

impl Limit {
    pub(crate) fn new(max: u32) -> Self {
        Self(Arc::new(Inner { taken: AtomicU32::new(0), max }))
    }

    /// A place, unless all are taken.
    pub(crate) fn take(&self) -> Option<Place> {
        let take = |taken: u32| (taken < self.0.max).then_some(taken + 1);
        self.0.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok().map(|_| Place(self.clone()))
    }

    /// Places taken.
    pub(crate) fn taken(&self) -> u32 {
        self.0.taken.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_come_back() {
        let limit = Limit::new(2);

        let (one, two) = (limit.take(), limit.take());
        assert!(one.is_some() && two.is_some() && limit.take().is_none());

        drop(one);
        assert!(limit.take().is_some());
        assert_eq!(limit.taken(), 1);
    }
}
