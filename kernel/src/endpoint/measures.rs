//! What is counted of an endpoint: for discovery (ADR-32) and for the metrics page, from the same place.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use subjects::Endpoint;

use crate::metrics::{ByEndpoint, ByKind, ByStatus, DurationBuckets, Name};
use crate::{Error, Metrics};

/// What the endpoints of a process have in common.
#[derive(Clone, Debug)]
pub(crate) struct Counters {
    answered: Family<ByStatus, Counter>,
    durations: Family<ByEndpoint, Histogram, DurationBuckets>,
    pub(super) in_flight: Gauge,
    pub(super) no_reply: Counter,
    pub(super) foreign_reply: Counter,
}

impl Counters {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let dropped: Family<ByKind, Counter> = metrics.counters(Name::RequestsDropped);
        Self {
            answered: metrics.counters(Name::Requests),
            durations: metrics.durations(Name::RequestDuration),
            in_flight: metrics.gauge(Name::RequestsInFlight),
            no_reply: dropped.get_or_create_owned(&ByKind { kind: "no_reply" }),
            foreign_reply: dropped.get_or_create_owned(&ByKind { kind: "foreign_reply" }),
        }
    }
}

/// Of one endpoint.
#[derive(Debug)]
pub(crate) struct Measures {
    endpoint: &'static Endpoint,
    counters: Counters,
    succeeded: Counter,
    duration: Histogram,
    requests: AtomicU64,
    errors: AtomicU64,
    nanos: AtomicU64,
    last_error: Mutex<String>,
}

/// As discovery tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) nanos: u64,
    /// `status:code`, without what the caller was told.
    pub(crate) last_error: String,
}

impl Measures {
    pub(crate) fn new(endpoint: &'static Endpoint, counters: &Counters) -> Self {
        let subject = endpoint.subject;
        Self {
            endpoint,
            succeeded: counters.answered.get_or_create_owned(&ByStatus { endpoint: subject, status: 200 }),
            duration: counters.durations.get_or_create_owned(&ByEndpoint { endpoint: subject }),
            counters: counters.clone(),
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            nanos: AtomicU64::new(0),
            last_error: Mutex::default(),
        }
    }

    /// A request was answered.
    pub(crate) fn record(&self, took: Duration, error: Option<&Error>) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.duration.observe(took.as_secs_f64());
        let Some(error) = error else {
            self.succeeded.inc();
            return;
        };
        self.errors.fetch_add(1, Ordering::Relaxed);
        let label = ByStatus { endpoint: self.endpoint.subject, status: error.status() };
        self.counters.answered.get_or_create(&label).inc();
        let text = format!("{}:{}", error.status(), error.code());
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            requests: self.requests.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            nanos: self.nanos.load(Ordering::Relaxed),
            last_error: self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}
