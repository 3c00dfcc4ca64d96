//! What the edge counts, beside what the kernel counts of each call. Names stand here and nowhere else.

use kernel::Metrics;
use kernel::metrics::{ByEndpoint, ByStatus, DurationBuckets};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use subjects::{Endpoint, Http};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCode {
    code: String,
}

/// The gateway's metrics.
pub(crate) struct EdgeMetrics {
    answers: Family<ByStatus, Counter>,
    durations: Family<ByEndpoint, Histogram, DurationBuckets>,
    refusals: Family<ByCode, Counter>,
    /// Open connections.
    pub(crate) connections: Gauge,
}

impl EdgeMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let own = Self {
            answers: Family::default(),
            durations: Family::new_with_constructor(DurationBuckets),
            refusals: Family::default(),
            connections: Gauge::default(),
        };
        metrics.register("trunkline_gateway_answers", "Answers of endpoints over HTTP", own.answers.clone());
        metrics.register("trunkline_gateway_duration_seconds", "From head to answer", own.durations.clone());
        metrics.register("trunkline_gateway_refusals", "Requests refused at the edge", own.refusals.clone());
        metrics.register("trunkline_gateway_connections", "Open connections", own.connections.clone());
        own
    }

    /// Counts a request that ended at the edge; `code` is one of few words.
    pub(crate) fn refused(&self, code: &str) {
        self.refusals.get_or_create(&ByCode { code: code.to_owned() }).inc();
    }

    /// What is counted for one endpoint, found once.
    pub(crate) fn route(&self, endpoint: &Endpoint, http: &Http) -> RouteMetrics {
        let label = ByStatus { endpoint: endpoint.subject, status: http.success };
        RouteMetrics {
            success: self.answers.get_or_create(&label).clone(),
            duration: self.durations.get_or_create(&ByEndpoint { endpoint: endpoint.subject }).clone(),
            answers: self.answers.clone(),
            label,
        }
    }
}

/// One endpoint's counts.
pub(crate) struct RouteMetrics {
    /// Endpoint and status of success.
    label: ByStatus,
    success: Counter,
    duration: Histogram,
    answers: Family<ByStatus, Counter>,
}

impl RouteMetrics {
    /// Counts an answer that took `seconds`.
    pub(crate) fn answered(&self, status: u16, seconds: f64) {
        if status == self.label.status {
            self.success.inc();
        } else {
            self.answers.get_or_create(&ByStatus { status, ..self.label.clone() }).inc();
        }
        self.duration.observe(seconds);
    }
}
