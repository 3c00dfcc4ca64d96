//! Metrics of a process, read on its admin port in the Prometheus text form. The kernel's names stand in [`Name`]; a
//! service keeps its own in one enum too and registers them by [`Metrics::register`].

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

/// Upper bounds in seconds: from what a cached answer takes to the longest time-out of the contract.
const DURATION_BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 10.0];

/// Every metric of the kernel. Counters get `_total` behind their name when they are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// Requests answered, by endpoint and status.
    Requests,
    /// Seconds from a request's arrival to its answer, by endpoint.
    RequestDuration,
    /// Requests being handled.
    RequestsInFlight,
    /// Messages that got no answer, by reason.
    RequestsDropped,
    /// Calls made, by endpoint and outcome.
    Calls,
    /// Calls that wait for their reply.
    CallsPending,
    /// 1 while the broker is connected.
    NatsConnected,
    /// Times a connection to the broker was made.
    NatsConnects,
    /// What the broker or its client complained about, by kind.
    NatsErrors,
    /// Access tokens looked at, by outcome.
    Tokens,
    /// Times the signing keys were fetched, by outcome.
    KeyFetches,
    /// Permissions decided, by where the answer came from.
    Decisions,
}

impl Name {
    /// The name and what it counts.
    pub fn text(self) -> (&'static str, &'static str) {
        match self {
            Self::Requests => ("trunkline_requests", "Requests answered"),
            Self::RequestDuration => ("trunkline_request_duration_seconds", "From arrival to answer"),
            Self::RequestsInFlight => ("trunkline_requests_in_flight", "Requests being handled"),
            Self::RequestsDropped => ("trunkline_requests_dropped", "Messages that got no answer"),
            Self::Calls => ("trunkline_calls", "Calls made"),
            Self::CallsPending => ("trunkline_calls_pending", "Calls that wait for their reply"),
            Self::NatsConnected => ("trunkline_nats_connected", "1 while the broker is connected"),
            Self::NatsConnects => ("trunkline_nats_connects", "Connections made to the broker"),
            Self::NatsErrors => ("trunkline_nats_errors", "Complaints of the broker or its client"),
            Self::Tokens => ("trunkline_tokens", "Access tokens looked at"),
            Self::KeyFetches => ("trunkline_key_fetches", "Times the signing keys were fetched"),
            Self::Decisions => ("trunkline_decisions", "Permissions decided, by where the answer came from"),
        }
    }
}

/// The label of an endpoint by itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByEndpoint {
    /// `svc.identity.v1.get_user`.
    pub endpoint: &'static str,
}

/// An endpoint and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByStatus {
    /// `svc.identity.v1.get_user`.
    pub endpoint: &'static str,
    /// 200, or the number of the error.
    pub status: u16,
}

/// An endpoint and what came of a call.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByCall {
    /// `svc.identity.v1.get_user`.
    pub endpoint: &'static str,
    /// One of a fixed few words.
    pub outcome: &'static str,
}

/// A kind, reason or outcome.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByKind {
    /// One of a fixed few words.
    pub kind: &'static str,
}

/// The metrics of a process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A counter.
    pub fn counter(&self, name: Name) -> Counter {
        self.add(name, Counter::default())
    }

    /// A gauge.
    pub fn gauge(&self, name: Name) -> Gauge {
        self.add(name, Gauge::default())
    }

    /// Counters told apart by a label set, of which there must be few.
    pub fn counters<L>(&self, name: Name) -> Family<L, Counter>
    where
        L: EncodeLabelSet + Clone + Debug + Hash + Eq + Send + Sync + 'static,
    {
        self.add(name, Family::default())
    }

    /// Histograms of durations in seconds, told apart by a label set.
    pub fn durations<L>(&self, name: Name) -> Family<L, Histogram, DurationBuckets>
    where
        L: EncodeLabelSet + Clone + Debug + Hash + Eq + Send + Sync + 'static,
    {
        self.add(name, Family::new_with_constructor(DurationBuckets))
    }

    /// Registers a metric of a service's own. `name` begins with `trunkline_<service>_`.
    pub fn register(&self, name: &'static str, help: &'static str, metric: impl Metric) {
        self.lock().register(name, help, metric);
    }

    /// All of them in the text form (OpenMetrics 1.0).
    pub fn encode(&self) -> String {
        let mut page = String::new();
        text::encode(&mut page, &self.lock()).expect("a string can be written to");
        page
    }

    fn add<M: Metric + Clone>(&self, name: Name, metric: M) -> M {
        let (name, help) = name.text();
        self.register(name, help, metric.clone());
        metric
    }

    /// Registering and reading leave the registry whole at every step.
    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes histograms with the kernel's buckets.
#[derive(Clone, Copy, Debug)]
pub struct DurationBuckets;

impl MetricConstructor<Histogram> for DurationBuckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(DURATION_BUCKETS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_names_every_label() {
        let metrics = Metrics::new();
        let requests = metrics.counters::<ByStatus>(Name::Requests);

        requests.get_or_create(&ByStatus { endpoint: "svc.identity.v1.get_me", status: 200 }).inc();

        let page = metrics.encode();
        assert!(
            page.contains(r#"trunkline_requests_total{endpoint="svc.identity.v1.get_me",status="200"} 1"#),
            "{page}"
        );
        assert!(page.ends_with("# EOF\n"));
    }
}
