//! Spans to a collector by OTLP over HTTP, configured by the variables of OpenTelemetry alone.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

use crate::StartError;

/// Variables of which one switches the export on.
const SWITCHES: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

/// How long the last spans may take.
const SHUT_DOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends spans from a thread of its own.
#[derive(Debug)]
pub(super) struct Exporter(SdkTracerProvider);

impl Exporter {
    /// `None` where no collector is named, or the SDK is switched off.
    pub(super) fn from_environment(service: &'static str, instance: &str) -> Result<Option<Self>, StartError> {
        let is_on = SWITCHES.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
        if !is_on || std::env::var("OTEL_SDK_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let exporter = SpanExporter::builder().with_http().build();
        let exporter = exporter.map_err(|error| StartError::new("spans cannot be exported").with_source(error))?;
        let resource = Resource::builder()
            .with_service_name(service)
            .with_attribute(KeyValue::new("service.namespace", "trunkline"))
            .with_attribute(KeyValue::new("service.instance.id", instance.to_owned()))
            .build();
        Ok(Some(Self(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())))
    }

    pub(super) fn tracer(&self) -> SdkTracer {
        self.0.tracer("trunkline")
    }

    pub(super) fn shut_down(self) {
        if let Err(error) = self.0.shutdown_with_timeout(SHUT_DOWN_TIMEOUT) {
            tracing::warn!(%error, "The last spans could not be sent.");
        }
    }
}
