//! What a cache holds, what is on its way into it, and what was dropped meanwhile. Each method is one step under the lock.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;

use quick_cache::{DefaultHashBuilder, Equivalent, Lifecycle, Weighter, unsync};
use tokio::sync::watch;

use super::flight::{Boarding, Flight, Landing};
use super::measures::Measures;
use super::{Bounds, Name};

/// Drops that are remembered for the sake of fills under way. A fill that lasts longer is not stored.
const DROPS_MAX: usize = 1_024;

/// Room that is made beforehand; the table grows with what is in it.
const PLACES_AT_FIRST: usize = 1_024;

pub(super) struct State<K: Name, V: Clone, T: Name> {
    entries: Entries<K, V, T>,
    weigh: fn(&K, &V, &[T]) -> u64,
    /// What an entry weighs at least, so that no more than their bound fit.
    least: u64,
    /// Whose entries a tag drops. Only tags of entries that are there.
    tagged: HashMap<T, HashSet<K>>,
    /// Those that may be joined.
    flights: HashMap<K, watch::Receiver<Option<Landing<V>>>>,
    /// Fills under way, those included that may not be joined any more.
    under_way: usize,
    /// The number of the last drop.
    version: u64,
    /// Drops since the fills under way began, or the last of them, each with its number.
    drops: VecDeque<(u64, Drop<K, T>)>,
    /// The last drop that is not remembered, or that concerned everything.
    forgotten: u64,
    suspended: bool,
    measures: Measures,
}

type Entries<K, V, T> = unsync::Cache<K, Entry<V, T>, Scale, DefaultHashBuilder, Evictions>;

enum Drop<K, T> {
    Key(K),
    Tag(T),
}

#[derive(Clone)]
struct Entry<V, T> {
    value: V,
    tags: Box<[T]>,
    weight: u64,
}

/// Reads what was weighed when the entry was stored: its weight may not change.
#[derive(Clone)]
struct Scale;

impl<K, V, T> Weighter<K, Entry<V, T>> for Scale {
    fn weight(&self, _: &K, entry: &Entry<V, T>) -> u64 {
        entry.weight
    }
}

/// Collects what had to make room.
#[derive(Clone)]
struct Evictions;

struct Evicted<K, V, T>(Vec<(K, Entry<V, T>)>);

impl<K, V, T> Default for Evicted<K, V, T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K, V, T> Lifecycle<K, Entry<V, T>> for Evictions {
    type RequestState = Evicted<K, V, T>;

    fn on_evict(&self, evicted: &mut Evicted<K, V, T>, key: K, entry: Entry<V, T>) {
        evicted.0.push((key, entry));
    }
}

impl<K: Name, V: Clone, T: Name> State<K, V, T> {
    pub(super) fn new(bounds: Bounds, weigh: fn(&K, &V, &[T]) -> u64, measures: Measures) -> Self {
        let places = bounds.entries.max(1);
        let hasher = DefaultHashBuilder::default();
        Self {
            entries: unsync::Cache::with(places.min(PLACES_AT_FIRST), bounds.weight, Scale, hasher, Evictions),
            weigh,
            least: bounds.weight.div_ceil(places as u64).max(1),
            tagged: HashMap::new(),
            flights: HashMap::new(),
            under_way: 0,
            version: 0,
            drops: VecDeque::new(),
            forgotten: 0,
            suspended: false,
            measures,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn get<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> Option<V> {
        self.entries.get(key).map(|entry| entry.value.clone())
    }

    /// Finds a fill to wait for, or begins one.
    pub(super) fn board(&mut self, key: &K) -> Boarding<V> {
        if self.suspended {
            return Boarding::Alone;
        }
        if let Some(entry) = self.entries.get(key) {
            return Boarding::Filled(entry.value.clone());
        }
        if let Some(flight) = self.flights.get(key) {
            return Boarding::Join(flight.clone());
        }
        let flight = Flight::begin(self.version);
        self.flights.insert(key.clone(), flight.join());
        self.under_way += 1;
        Boarding::Lead(flight)
    }

    /// The first drop since the flight began that concerns what it brings, as far as that is known.
    pub(super) fn void_since(&self, key: &K, tags: &[T], flight: &Flight<V>) -> Option<u64> {
        if self.forgotten > flight.began {
            return Some(flight.began + 1);
        }
        let concerns = |drop: &Drop<K, T>| match drop {
            Drop::Key(dropped) => dropped == key,
            Drop::Tag(dropped) => tags.contains(dropped),
        };
        let mut since = self.drops.iter().filter(|(version, _)| *version > flight.began);
        since.find(|(_, drop)| concerns(drop)).map(|(version, _)| *version)
    }

    /// Nobody waits for this flight any more.
    pub(super) fn end(&mut self, key: &K, flight: &Flight<V>) {
        if self.flights.get(key).is_some_and(|joinable| joinable.same_channel(&flight.join())) {
            self.flights.remove(key);
        }
        self.under_way -= 1;
        if self.under_way == 0 {
            self.drops.clear();
        }
    }

    pub(super) fn store(&mut self, key: K, value: V, tags: Vec<T>) {
        self.remove(&key);
        for tag in &tags {
            self.tagged.entry(tag.clone()).or_default().insert(key.clone());
        }
        let weight = (self.weigh)(&key, &value, &tags).max(self.least);
        let entry = Entry { value, tags: tags.into(), weight };
        let mut evicted = Evicted::default();
        self.entries.insert_with_lifecycle(key, entry, &mut evicted);
        self.measures.fills.inc();
        self.measures.evictions.inc_by(evicted.0.len() as u64);
        for (key, entry) in evicted.0 {
            self.forget_tags(&key, &entry.tags);
        }
        self.measure();
    }

    pub(super) fn invalidate(&mut self, key: &K) {
        self.flights.remove(key);
        let dropped = self.remove(key);
        self.note_drop(Drop::Key(key.clone()), usize::from(dropped));
    }

    pub(super) fn invalidate_tag(&mut self, tag: &T) {
        let keys = self.tagged.get(tag).cloned().unwrap_or_default();
        for key in &keys {
            self.remove(key);
        }
        self.note_drop(Drop::Tag(tag.clone()), keys.len());
    }

    pub(super) fn clear(&mut self) {
        let entries = self.len();
        self.entries.clear();
        self.tagged.clear();
        self.flights.clear();
        self.version += 1;
        self.forgotten = self.version;
        self.drops.clear();
        self.measures.invalidations.inc_by(entries as u64);
        self.measure();
    }

    pub(super) fn suspend(&mut self) {
        self.suspended = true;
        self.clear();
    }

    pub(super) fn resume(&mut self) {
        self.suspended = false;
        self.clear();
    }

    fn note_drop(&mut self, drop: Drop<K, T>, entries: usize) {
        self.version += 1;
        if self.under_way > 0 {
            self.drops.push_back((self.version, drop));
            if self.drops.len() > DROPS_MAX
                && let Some((version, _)) = self.drops.pop_front()
            {
                self.forgotten = version;
            }
        }
        self.measures.invalidations.inc_by(entries as u64);
        self.measure();
    }

    fn remove(&mut self, key: &K) -> bool {
        let Some((key, entry)) = self.entries.remove(key) else { return false };
        self.forget_tags(&key, &entry.tags);
        true
    }

    fn forget_tags(&mut self, key: &K, tags: &[T]) {
        for tag in tags {
            if let Some(keys) = self.tagged.get_mut(tag) {
                keys.remove(key);
                if keys.is_empty() {
                    self.tagged.remove(tag);
                }
            }
        }
    }

    fn measure(&self) {
        self.measures.entries.set(i64::try_from(self.entries.len()).unwrap_or(i64::MAX));
        self.measures.weight.set(i64::try_from(self.entries.weight()).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
impl<K: Name, V: Clone, T: Name> State<K, V, T> {
    /// Whether tags name the entries that bear them, and no others.
    pub(super) fn is_indexed_exactly(&self) -> bool {
        let mut index: HashMap<T, HashSet<K>> = HashMap::new();
        for (key, entry) in self.entries.iter() {
            for tag in &entry.tags {
                index.entry(tag.clone()).or_default().insert(key.clone());
            }
        }
        index == self.tagged
    }

    pub(super) fn is_idle(&self) -> bool {
        self.under_way == 0 && self.flights.is_empty() && self.drops.is_empty()
    }
}
