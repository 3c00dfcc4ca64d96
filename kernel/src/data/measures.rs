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
    /// Messages stored again after the broker had lost them; counted among those stored too.
    pub republished: Family<ByStream, Counter>,
    /// Messages that an earlier attempt, of unknown outcome, turned out to have stored.
    pub duplicates: Family<ByStream, Counter>,
    /// Messages that were stored already although none is known to have sent them. One may follow the kill of a relay;
    /// more need a look.
    pub suspicious_duplicates: Family<ByStream, Counter>,
}

impl RelayMeasures {
    /// All at nothing, and shown among the metrics of the process.
    pub fn registered(metrics: &Metrics) -> Self {
        let measures = Self::default();
        measures.register(metrics);
        measures
    }

    fn register(&self, metrics: &Metrics) {
        metrics.register("trunkline_outbox_unsent", "Messages in the outbox that are not sent", self.depth.clone());
        metrics.register(
            "trunkline_outbox_oldest_unsent_age_seconds",
            "Age of the oldest message that is not sent",
            self.oldest_unsent_age_seconds.clone(),
        );
        metrics.register("trunkline_outbox_published", "Messages stored by the broker", self.published.clone());
        metrics.register(
            "trunkline_outbox_republished",
            "Messages stored again after the broker had lost them",
            self.republished.clone(),
        );
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

/// Told apart by consumer and what became of a message.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByOutcome {
    /// The durable's name.
    pub consumer: &'static str,
    /// `handled`, `known` (its effect was committed before), `failed`, `dead_lettered` or `replayed`.
    pub outcome: &'static str,
}

/// Told apart by consumer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByConsumer {
    /// The durable's name.
    pub consumer: &'static str,
}

/// What consumers count. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct ConsumerMeasures {
    /// Messages that came, by what became of them.
    pub messages: Family<ByOutcome, Counter>,
    /// Messages that have not been delivered yet, when the last one was.
    pub pending: Family<ByConsumer, Gauge>,
}

impl ConsumerMeasures {
    /// All at nothing, and shown among the metrics of the process.
    pub fn registered(metrics: &Metrics) -> Self {
        let measures = Self::default();
        measures.register(metrics);
        measures
    }

    fn register(&self, metrics: &Metrics) {
        metrics.register("trunkline_consumer_messages", "Messages by what became of them", self.messages.clone());
        metrics.register("trunkline_consumer_pending", "Messages that are not delivered yet", self.pending.clone());
    }

    pub(super) fn messages(&self, consumer: &'static str, outcome: &'static str, count: usize) {
        self.messages.get_or_create(&ByOutcome { consumer, outcome }).inc_by(count as u64);
    }

    pub(super) fn pending(&self, consumer: &'static str, count: u64) {
        self.pending.get_or_create(&ByConsumer { consumer }).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}
