//! What caches count.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::Metrics;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCache {
    cache: &'static str,
}

/// Of all caches of a process.
#[derive(Clone, Debug, Default)]
pub(super) struct CacheMeasures {
    hits: Family<ByCache, Counter>,
    misses: Family<ByCache, Counter>,
    fills: Family<ByCache, Counter>,
    void: Family<ByCache, Counter>,
    invalidations: Family<ByCache, Counter>,
    evictions: Family<ByCache, Counter>,
    entries: Family<ByCache, Gauge>,
    weight: Family<ByCache, Gauge>,
}

/// Of one cache.
#[derive(Clone, Debug)]
pub(super) struct Measures {
    /// Values found.
    pub(super) hits: Counter,
    /// Values not found.
    pub(super) misses: Counter,
    /// Values stored.
    pub(super) fills: Counter,
    /// Values read and not stored, since what they rest on changed meanwhile.
    pub(super) void: Counter,
    /// Entries dropped by a change.
    pub(super) invalidations: Counter,
    /// Entries that made room.
    pub(super) evictions: Counter,
    pub(super) entries: Gauge,
    pub(super) weight: Gauge,
}

impl CacheMeasures {
    pub(super) fn registered(metrics: &Metrics) -> Self {
        let own = Self::default();
        metrics.register("trunkline_cache_hits", "Values found in a cache", own.hits.clone());
        metrics.register("trunkline_cache_misses", "Values not found in a cache", own.misses.clone());
        metrics.register("trunkline_cache_fills", "Values stored in a cache", own.fills.clone());
        metrics.register("trunkline_cache_void_fills", "Values not stored, outdated meanwhile", own.void.clone());
        let dropped = "Entries of a cache dropped by a change";
        metrics.register("trunkline_cache_invalidations", dropped, own.invalidations.clone());
        metrics.register("trunkline_cache_evictions", "Entries of a cache that made room", own.evictions.clone());
        metrics.register("trunkline_cache_entries", "Entries in a cache", own.entries.clone());
        metrics.register("trunkline_cache_weight", "Weight of the entries in a cache", own.weight.clone());
        own
    }

    pub(super) fn of(&self, cache: &'static str) -> Measures {
        let label = ByCache { cache };
        Measures {
            hits: self.hits.get_or_create_owned(&label),
            misses: self.misses.get_or_create_owned(&label),
            fills: self.fills.get_or_create_owned(&label),
            void: self.void.get_or_create_owned(&label),
            invalidations: self.invalidations.get_or_create_owned(&label),
            evictions: self.evictions.get_or_create_owned(&label),
            entries: self.entries.get_or_create_owned(&label),
            weight: self.weight.get_or_create_owned(&label),
        }
    }
}
