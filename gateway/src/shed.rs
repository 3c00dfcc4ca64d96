//! How many requests are answered at once. One more is refused at once instead of waiting: a queue here would only add
//! to the time after which its requests fail.

use std::sync::atomic::{AtomicU32, Ordering};

/// A number of places.
#[derive(Debug)]
pub(crate) struct Places {
    taken: AtomicU32,
    max: u32,
}

impl Places {
    pub(crate) fn new(max: u32) -> Self {
        Self { taken: AtomicU32::new(0), max }
    }

    /// One place, until it is dropped; `None` when all are taken.
    pub(crate) fn take(&self) -> Option<Place<'_>> {
        if self.taken.fetch_add(1, Ordering::Relaxed) < self.max {
            return Some(Place(self));
        }
        self.taken.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

/// A taken place.
#[derive(Debug)]
pub(crate) struct Place<'a>(&'a Places);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::Places;

    #[test]
    fn places_are_bounded_and_come_back() {
        let places = Places::new(2);
        let (first, second) = (places.take(), places.take());
        assert!(first.is_some() && second.is_some() && places.take().is_none());

        drop(first);

        assert!(places.take().is_some());
    }
}
