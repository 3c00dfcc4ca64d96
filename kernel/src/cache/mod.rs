//! Caches: what was read stays at hand until something changes it. Bounded in entries and weight, with measures.
//!
//! Cache-aside: a reader asks by key, and on a miss reads the truth; concurrent misses of one key read once. A change drops
//! what it touches and nothing else: a key, or every entry that bears a tag. Each drop has a number, and so has the beginning
//! of each fill: a fill that began before a drop that concerns it is not stored, and is not given to whoever came behind that
//! drop. So who writes, drops, and only then answers (write-through invalidation) is never followed by the old value.
//!
//! Deliberately nothing here expires by time, and nothing knows where a change is heard of: that is who owns the cache, mostly
//! by a [feed](crate::feed).

mod flight;
mod measures;
mod state;

use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quick_cache::Equivalent;

use self::flight::{Boarding, Flight, Landing};
use self::measures::{CacheMeasures, Measures};
use self::state::State;
use crate::{Metrics, Result};

/// What keys and tags must be.
pub trait Name: Clone + Eq + Hash + Send + Sync + 'static {}

impl<T: Clone + Eq + Hash + Send + Sync + 'static> Name for T {}

/// How much a cache may hold. What is used least goes first.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Entries.
    pub entries: usize,
    /// Sum of the entries' weights.
    pub weight: u64,
}

/// What was read to fill a place.
#[derive(Clone, Debug)]
pub struct Filled<V, T> {
    value: V,
    tags: Vec<T>,
    keep: bool,
}

impl<V, T> Filled<V, T> {
    /// A value that only its key drops.
    pub fn new(value: V) -> Self {
        Self { value, tags: Vec::new(), keep: true }
    }

    /// A value that rests on what the tags stand for.
    pub fn tagged(value: V, tags: impl IntoIterator<Item = T>) -> Self {
        Self { value, tags: tags.into_iter().collect(), keep: true }
    }

    /// A value that is given to who waits for it and not stored.
    pub fn passing(value: V) -> Self {
        Self { value, tags: Vec::new(), keep: false }
    }
}

/// Makes caches, and counts for all of them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Caches(CacheMeasures);

impl Caches {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self(CacheMeasures::registered(metrics))
    }

    /// A cache; `name` tells it apart among the metrics, `weigh` says what of `bounds.weight` an entry takes, mostly bytes.
    pub fn open<K: Name, V: Clone + Send + Sync + 'static, T: Name>(
        &self,
        name: &'static str,
        bounds: Bounds,
        weigh: fn(&K, &V, &[T]) -> u64,
    ) -> Cache<K, V, T> {
        let measures = self.0.of(name);
        Cache(Arc::new(Inner { state: Mutex::new(State::new(bounds, weigh, measures.clone())), measures }))
    }
}

/// Values of type `V` by key, dropped by key or by tag. Cheap to clone; clones are one cache.
pub struct Cache<K: Name, V: Clone, T: Name = ()>(Arc<Inner<K, V, T>>);

struct Inner<K: Name, V: Clone, T: Name> {
    state: Mutex<State<K, V, T>>,
    measures: Measures,
}

impl<K: Name, V: Clone, T: Name> Clone for Cache<K, V, T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Name, V: Clone, T: Name> Cache<K, V, T> {
    /// What is stored under `key`.
    pub fn get<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> Option<V> {
        let found = self.state().get(key);
        match &found {
            Some(_) => self.0.measures.hits.inc(),
            None => self.0.measures.misses.inc(),
        };
        found
    }

    /// What is stored under `key`; else what `fill` reads, which is then stored. Whoever comes while a fill of the same key
    /// is under way waits for that one, except where what it reads was dropped before they came. A fill that fails fails
    /// for all who wait; one that is given up is begun again by one of them.
    pub async fn get_or_fill<F, R>(&self, key: K, fill: F) -> Result<V>
    where
        F: FnOnce() -> R,
        R: Future<Output = Result<Filled<V, T>>>,
    {
        match self.get(&key) {
            Some(value) => Ok(value),
            None => self.fill(key, fill).await,
        }
    }

    /// The same for who has looked already and found nothing.
    pub async fn fill<F, R>(&self, key: K, fill: F) -> Result<V>
    where
        F: FnOnce() -> R,
        R: Future<Output = Result<Filled<V, T>>>,
    {
        let arrived = self.state().version();
        loop {
            let boarding = self.state().board(&key);
            match boarding {
                Boarding::Filled(value) => return Ok(value),
                Boarding::Alone => return fill().await.map(|filled| filled.value),
                Boarding::Lead(flight) => {
                    let mut lead = Lead { cache: self, key, flight: Some(flight) };
                    return lead.land(fill().await);
                }
                Boarding::Join(mut flight) => {
                    // Nobody lands a flight that was given up: then the next one here leads.
                    if let Ok(landing) = flight.wait_for(Option::is_some).await
                        && let Some(landing) = landing.as_ref()
                        && landing.counts_for(arrived)
                    {
                        return landing.outcome.clone();
                    }
                }
            }
        }
    }

    /// Drops what is stored under `key`, and what a fill that has begun would store there.
    pub fn invalidate(&self, key: &K) {
        self.state().invalidate(key);
    }

    /// Drops every entry that bears `tag`, and what fills that have begun would store with it.
    pub fn invalidate_tag(&self, tag: &T) {
        self.state().invalidate_tag(tag);
    }

    /// Drops everything.
    pub fn clear(&self) {
        self.state().clear();
    }

    /// Drops everything and gives and stores nothing, until [`Cache::resume`]: nobody knows what has changed.
    pub fn suspend(&self) {
        self.state().suspend();
    }

    /// Stores again.
    pub fn resume(&self) {
        self.state().resume();
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.state().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every step leaves the state whole.
    fn state(&self) -> MutexGuard<'_, State<K, V, T>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Name, V: Clone, T: Name> std::fmt::Debug for Cache<K, V, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("entries", &self.len()).finish_non_exhaustive()
    }
}

/// Who fills; where it goes away before it has landed, those who wait are told.
struct Lead<'a, K: Name, V: Clone, T: Name> {
    cache: &'a Cache<K, V, T>,
    key: K,
    flight: Option<Flight<V>>,
}

impl<K: Name, V: Clone, T: Name> Lead<'_, K, V, T> {
    fn land(&mut self, outcome: Result<Filled<V, T>>) -> Result<V> {
        let flight = self.flight.take().expect("it lands once");
        let mut state = self.cache.state();
        let (outcome, void_since) = match outcome {
            Ok(Filled { value, tags, keep }) => {
                let void_since = state.void_since(&self.key, &tags, &flight);
                if keep && void_since.is_none() {
                    state.store(self.key.clone(), value.clone(), tags);
                } else if void_since.is_some() {
                    self.cache.0.measures.void.inc();
                }
                (Ok(value), void_since)
            }
            Err(error) => (Err(error), None),
        };
        state.end(&self.key, &flight);
        drop(state);
        flight.land(Landing { outcome: outcome.clone(), void_since });
        outcome
    }
}

impl<K: Name, V: Clone, T: Name> Drop for Lead<'_, K, V, T> {
    fn drop(&mut self) {
        if let Some(flight) = self.flight.take() {
            self.cache.state().end(&self.key, &flight);
        }
    }
}

#[cfg(test)]
mod tests;
