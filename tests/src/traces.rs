//! An OTLP/HTTP collector in the test itself, so that a scenario's hops are asserted from the spans that the services
//! really export. Deliberately keeps everything in memory: one test's worth.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{Router, extract::State, http::StatusCode, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
};
use prost::Message;

use crate::{http::Reply, wait};

/// One span, reduced to what tests ask about.
#[derive(Clone, Debug)]
pub struct Span {
    /// `service.name` of the process.
    pub service: String,
    /// Layer, entity and verb.
    pub name: String,
    /// In hexadecimal.
    pub trace_id: String,
    /// In hexadecimal.
    pub span_id: String,
    /// In hexadecimal; empty for the first of a trace.
    pub parent_span_id: String,
    /// Text, numbers and truth values, all as text.
    pub attributes: BTreeMap<String, String>,
}

/// The collector; it ends with the test's runtime.
#[derive(Clone, Default)]
pub struct Traces {
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Traces {
    /// Starts collecting, and gives the collector with the endpoint for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub async fn collect() -> (Traces, String) {
        let traces = Traces::default();
        let app = Router::new().route("/v1/traces", post(receive)).with_state(traces.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
        #[expect(clippy::disallowed_methods, reason = "ends with the runtime of the test")]
        tokio::spawn(async move { axum::serve(listener, app).await });
        (traces, endpoint)
    }

    /// Everything received so far.
    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the trace of the request that got `reply` has spans for all of `hops`; gives the whole trace. Of a process
    /// it is whole once its last span is there: name that one, an endpoint's, where the absence of others is asserted.
    pub async fn of_reply(&self, reply: &Reply, hops: &[(&str, &str)]) -> Vec<Span> {
        let id = reply.header("x-request-id").to_owned();
        assert!(!id.is_empty(), "every answer names its request: {reply:?}");
        self.trace_with(|span| span.attributes.get("request.id") == Some(&id), hops).await
    }

    /// Waits until a trace has, beside a span that `first` recognises, spans for all of `hops`; gives the whole trace.
    /// A hop is a service and a part of the span's name. Exporters send in batches, so spans come late and in any order.
    pub async fn trace_with(&self, first: impl Fn(&Span) -> bool, hops: &[(&str, &str)]) -> Vec<Span> {
        let traces = self.clone();
        let found = wait::until("a trace with all its hops", async || {
            let spans = traces.spans();
            let root = spans.iter().find(|span| first(span))?;
            let trace: Vec<Span> = spans.iter().filter(|span| span.trace_id == root.trace_id).cloned().collect();
            let complete = hops.iter().all(|hop| trace.iter().any(|span| span.is(hop)));
            complete.then_some(trace)
        });
        let trace = tokio::time::timeout(wait::WAIT_MAX / 2, found).await;
        trace.unwrap_or_else(|_| panic!("no trace has the hops {hops:?}; received:\n{}", outline(&self.spans())))
    }
}

impl Span {
    /// Whether this is a hop: a service, and a part of the span's name.
    pub fn is(&self, (service, name): &(&str, &str)) -> bool {
        self.service == *service && self.name.contains(name)
    }

    /// Whether `ancestor` is above this span in `trace`, at any distance.
    pub fn is_under(&self, ancestor: &Span, trace: &[Span]) -> bool {
        let mut parent = &self.parent_span_id;
        // No trace is deeper than it has spans, so a loop in bad data ends.
        for _ in 0..trace.len() {
            if *parent == ancestor.span_id {
                return true;
            }
            match trace.iter().find(|span| span.span_id == *parent) {
                Some(span) => parent = &span.parent_span_id,
                None => return false,
            }
        }
        false
    }
}

/// One line a span, for failure messages.
pub fn outline(spans: &[Span]) -> String {
    let mut text = String::new();
    for Span { service, name, trace_id, span_id, parent_span_id, attributes } in spans {
        let _infallible =
            writeln!(text, "{trace_id} {span_id} under {parent_span_id:>16}: {service} {name} {attributes:?}");
    }
    text
}

async fn receive(State(traces): State<Traces>, body: axum::body::Bytes) -> StatusCode {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else { return StatusCode::BAD_REQUEST };
    let mut spans = traces.spans.lock().unwrap_or_else(PoisonError::into_inner);
    for resource in request.resource_spans {
        let described = resource.resource.map(|resource| attributes(&resource.attributes)).unwrap_or_default();
        let service = described.get("service.name").cloned().unwrap_or_default();
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            spans.push(Span {
                service: service.clone(),
                name: span.name,
                trace_id: hex(&span.trace_id),
                span_id: hex(&span.span_id),
                parent_span_id: hex(&span.parent_span_id),
                attributes: attributes(&span.attributes),
            });
        }
    }
    StatusCode::OK
}

fn attributes(pairs: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |pair: &KeyValue| match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::BoolValue(truth)) => truth.to_string(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        _ => String::new(),
    };
    pairs.iter().map(|pair| (pair.key.clone(), text(pair))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
