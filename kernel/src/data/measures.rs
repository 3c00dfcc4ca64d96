//! What the data part counts.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::Metrics;

/// Told apart by stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByStream {
    /// `EVENTS`.
    pub stream: &'static str,
}

/// What a relay counts. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct RelayMeasures {
    /// Messages in the outbox that are not sent.
    pub depth: Gauge,
    /// Age of the oldest of them.
    pub oldest_unsent_age_seconds: Gauge<f64, AtomicU64>,
    /// Messages stored by the broker.
    pub published: Family<ByStream, Counter>,
    /// Messages that an earlier attempt, of unknown outcome, turned out to have stored.
    pub duplicates: Family<ByStream, Counter>,
    /// Messages that were stored already although none is known to have sent them. One may follow the kill of a relay;
    /// more need a look.
    pub suspicious_duplicates: Family<ByStream, Counter>,
}

impl RelayMeasures {
    /// Registers them all.
    pub fn register(&self, metrics: &Metrics) {
        metrics.register("trunkline_outbox_unsent", "Messages in the outbox that are not sent", self.depth.clone());
        metrics.register(
            "trunkline_outbox_oldest_unsent_age_seconds",
            "Age of the oldest message that is not sent",
            self.oldest_unsent_age_seconds.clone(),
        );
        metrics.register("trunkline_outbox_published", "Messages stored by the broker", self.published.clone());
        metrics.register(
            "trunkline_outbox_duplicates",
            "Messages that an earlier attempt had stored",
            self.duplicates.clone(),
        );
        metrics.register(
            "trunkline_outbox_suspicious_duplicates",
            "Messages stored already although none is known to have sent them",
            self.suspicious_duplicates.clone(),
        );
    }
}
