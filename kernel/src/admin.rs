//! The admin port of a process: metrics, liveness, readiness. Never on the public one.

use std::net::SocketAddr;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;

use crate::readiness::Readiness;
use crate::sockets::InheritedSockets;
use crate::{Lifecycle, Metrics, StartError};

/// OpenMetrics 1.0, which Prometheus asks for.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone)]
struct Admin {
    metrics: Metrics,
    readiness: Readiness,
}

/// Listens on the socket named `admin`, or else on `address`, until `life` stops. Returns where.
pub(crate) async fn start(
    address: SocketAddr,
    sockets: &InheritedSockets,
    metrics: Metrics,
    readiness: Readiness,
    life: &Lifecycle,
) -> Result<SocketAddr, StartError> {
    let fault = |error| StartError::new(format!("the admin port {address} cannot be opened")).with_source(error);
    let listener = match sockets.take("admin") {
        Some(socket) => TcpListener::from_std(socket).map_err(fault)?,
        None => TcpListener::bind(address).await.map_err(fault)?,
    };
    let local = listener.local_addr().map_err(fault)?;
    let router = Router::new()
        .route("/metrics", get(read_metrics))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(read_readiness))
        .with_state(Admin { metrics, readiness });
    let stop = life.stop_token();
    life.spawn("admin port", async move {
        let serve = axum::serve(listener, router);
        // Open connections are not waited for: whoever asks here asks again.
        if let Some(Err(error)) = stop.run_until_cancelled(serve.into_future()).await {
            tracing::error!(%error, "The admin port broke.");
        }
    });
    Ok(local)
}

async fn read_metrics(State(admin): State<Admin>) -> Response {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], admin.metrics.encode()).into_response()
}

async fn read_readiness(State(admin): State<Admin>) -> Response {
    let report = admin.readiness.report().await;
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(report)).into_response()
}
