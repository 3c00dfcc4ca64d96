//! Logs and spans. Trace ids are made and passed on in any case; spans exist only where something takes them
//! (`OTEL_EXPORTER_OTLP_ENDPOINT`), and cost next to nothing otherwise. Log lines bear the ids of the request that they
//! belong to without any span.

mod export;
mod log;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState};
use subjects::Endpoint;
use subjects::wire::v1::CallContext;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::FilterExt as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry, filter};

use crate::settings::Log;
use crate::{Context, StartError, TraceContext};

pub(crate) use log::level_filter;

/// Whether spans are exported; set once, before the first request.
static EXPORTING: AtomicBool = AtomicBool::new(false);

tokio::task_local! {
    /// The request that a task works for.
    static CURRENT: Arc<Context>;
}

/// What a span does, in the words of OpenTelemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Answers a request.
    Server,
    /// Waits for somebody else's answer.
    Client,
    /// Handles what was sent before.
    Consumer,
    /// Sends what is handled later.
    Producer,
    /// Works by itself.
    Internal,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
            Self::Consumer => "consumer",
            Self::Producer => "producer",
            Self::Internal => "internal",
        }
    }
}

/// Keeps telemetry going; flushed by [`Telemetry::shut_down`].
#[derive(Debug, Default)]
pub(crate) struct Telemetry {
    exporter: Option<export::Exporter>,
}

impl Telemetry {
    /// Sets up logs, and spans where the environment names a collector. Once a process.
    pub(crate) fn start(settings: &Log, service: &'static str, instance: &str) -> Result<Self, StartError> {
        let (level, no_spans) = (level_filter(&settings.level)?, filter::filter_fn(|metadata| !metadata.is_span()));
        let lines = log::layer(settings, service, instance);
        let exporter = export::Exporter::from_environment(service, instance)?;
        EXPORTING.store(exporter.is_some(), Ordering::Relaxed);
        let started = if let Some(exporter) = &exporter {
            let spans = filter::filter_fn(|metadata| metadata.is_span() && *metadata.level() <= tracing::Level::INFO);
            let spans = tracing_opentelemetry::layer().with_tracer(exporter.tracer()).with_filter(spans);
            Registry::default().with(lines.with_filter(level.and(no_spans))).with(spans).try_init()
        } else {
            // Filters of the whole, so that no span is made which nobody takes. A filter of the one layer would lose a line: what
            // `tracing::enabled!` asked it last would count for the next line too.
            Registry::default().with(lines).with(level).with(no_spans).try_init()
        };
        started.map_err(|error| StartError::new("logging is set up already").with_source(error))?;
        Ok(Self { exporter })
    }

    /// Sends what is still held back. Blocks, at most five seconds.
    pub(crate) fn shut_down(self) {
        if let Some(exporter) = self.exporter {
            exporter.shut_down();
        }
    }
}

/// Whether spans are exported.
pub fn is_exporting() -> bool {
    EXPORTING.load(Ordering::Relaxed)
}

/// A span named `layer.entity.verb`. Its parent is `parent`, where that is given, or else the span in which it is made.
/// A disabled span where nothing is exported.
pub fn span(kind: Kind, name: &str, parent: Option<TraceContext>) -> Span {
    if !is_exporting() {
        return Span::none();
    }
    let span = tracing::info_span!(
        "span",
        otel.name = name,
        otel.kind = kind.as_str(),
        otel.status_code = tracing::field::Empty,
        request.id = tracing::field::Empty,
        status = tracing::field::Empty,
    );
    if let Some(parent) = parent {
        let context = opentelemetry::Context::new().with_remote_span_context(remote(parent));
        // Fails only for a span that is disabled or already entered, and then the parent does not matter.
        let _ = span.set_parent(context);
    }
    span
}

/// Where in which trace a span stands; `None` for a disabled one.
pub fn trace_of(span: &Span) -> Option<TraceContext> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let context = context.span().span_context().clone();
    TraceContext::from_parts(&context.trace_id().to_bytes(), &context.span_id().to_bytes(), context.is_sampled())
}

/// The span of an outgoing call, which becomes the parent of the other side's.
pub(crate) fn call_span(endpoint: &'static Endpoint, context: &mut CallContext) -> Span {
    if !is_exporting() {
        return Span::none();
    }
    let parent = if Span::current().is_none() {
        TraceContext::from_parts(&context.trace_id, &context.span_id, context.sampled)
    } else {
        None
    };
    let span = span(Kind::Client, &format!("call.{}.{}", endpoint.service, endpoint.name), parent);
    span.record("request.id", context.request_id.as_str());
    if let Some(trace) = trace_of(&span) {
        context.trace_id = trace.trace_id.to_vec();
        context.span_id = trace.span_id.to_vec();
        context.sampled = trace.sampled;
    }
    span
}

/// Notes how what a span stands for ended.
pub fn record_status(span: &Span, status: u16) {
    if !span.is_disabled() {
        span.record("status", status);
        if status >= 500 {
            span.record("otel.status_code", "ERROR");
        }
    }
}

/// Runs `work` so that its log lines bear the ids of `cx`.
pub(crate) fn in_context<F: Future>(cx: Arc<Context>, work: F) -> impl Future<Output = F::Output> {
    CURRENT.scope(cx, work)
}

fn remote(trace: TraceContext) -> SpanContext {
    let flags = if trace.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let (trace_id, span_id) = (TraceId::from_bytes(trace.trace_id), SpanId::from_bytes(trace.span_id));
    SpanContext::new(trace_id, span_id, flags, true, TraceState::default())
}
