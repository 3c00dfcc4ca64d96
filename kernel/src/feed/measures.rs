//! What feeds count.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::Loss;
use crate::Metrics;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByFeed {
    feed: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByLoss {
    feed: &'static str,
    reason: &'static str,
}

/// Of all feeds of a process.
#[derive(Clone, Debug, Default)]
pub(super) struct FeedMeasures {
    events: Family<ByFeed, Counter>,
    losses: Family<ByLoss, Counter>,
    stale_seconds: Family<ByFeed, Gauge<f64, AtomicU64>>,
}

/// Of one feed.
#[derive(Clone, Debug)]
pub(super) struct Measures {
    name: &'static str,
    pub(super) events: Counter,
    losses: Family<ByLoss, Counter>,
    /// For how long it has not been believed; 0 while it is.
    pub(super) stale_seconds: Gauge<f64, AtomicU64>,
}

impl FeedMeasures {
    pub(super) fn registered(metrics: &Metrics) -> Self {
        let own = Self::default();
        metrics.register("trunkline_feed_events", "Messages that came by a feed", own.events.clone());
        metrics.register("trunkline_feed_losses", "Times a feed could not be believed, by reason", own.losses.clone());
        metrics.register(
            "trunkline_feed_stale_seconds",
            "For how long a feed is not believed; 0 while it is",
            own.stale_seconds.clone(),
        );
        own
    }

    pub(super) fn of(&self, name: &'static str) -> Measures {
        Measures {
            name,
            events: self.events.get_or_create_owned(&ByFeed { feed: name }),
            losses: self.losses.clone(),
            stale_seconds: self.stale_seconds.get_or_create_owned(&ByFeed { feed: name }),
        }
    }
}

impl Measures {
    pub(super) fn lost(&self, loss: Loss) {
        self.losses.get_or_create(&ByLoss { feed: self.name, reason: loss.kind() }).inc();
    }
}
