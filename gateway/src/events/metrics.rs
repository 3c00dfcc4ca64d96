//! What the live tail counts.

use kernel::Metrics;
use kernel::metrics::ByKind;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

#[derive(Debug)]
pub(super) struct EventMetrics {
    /// Streams that are open.
    pub(super) streams: Gauge,
    /// Events written to clients.
    pub(super) sent: Counter,
    ended: Family<ByKind, Counter>,
}

impl EventMetrics {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let own = Self { streams: Gauge::default(), sent: Counter::default(), ended: Family::default() };
        metrics.register("trunkline_gateway_event_streams", "Clients that tail events", own.streams.clone());
        metrics.register("trunkline_gateway_events_sent", "Events written to clients", own.sent.clone());
        metrics.register("trunkline_gateway_event_streams_ended", "Streams that the gateway ended", own.ended.clone());
        own
    }

    pub(super) fn ended(&self, reason: &'static str) {
        self.ended.get_or_create(&ByKind { kind: reason }).inc();
    }
}
