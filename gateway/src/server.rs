//! The way of one request through the edge: a name, a sound head, an allowed page, a client within its rate, a plain
//! path; then its route; then the fields that every answer carries.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{HeaderValue, Request, StatusCode, Version};
use kernel::{Error, TraceContext};
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::Instant;
use tower::Service as _;

use crate::edge::Edge;
use crate::head::{self, Head};
use crate::link::{self, Link};
use crate::refusal::Refusal;
use crate::request_id::RequestId;
use crate::wire::Refuse;
use crate::{client, path, percent, reply, routes};

/// What the route of a request needs to know beside the request.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) head: Head,
    pub(crate) request_id: RequestId,
    pub(crate) client: IpAddr,
    /// The client's trace, where it named one.
    pub(crate) trace: Option<TraceContext>,
    pub(crate) started: Instant,
}

/// Marks an answer whose body goes on for long: its request is not over with its head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LongLived;

/// Answers requests.
pub(crate) struct Server {
    edge: Arc<Edge>,
    router: Router,
    bare_refusals: Refuse,
    draining: OnceLock<Instant>,
}

impl Server {
    pub(crate) fn new(edge: Arc<Edge>) -> Self {
        let router = routes::router(&edge);
        let refusing = Arc::clone(&edge);
        let bare_refusals = Arc::new(move |status| bare_refusal(&refusing, status));
        Self { edge, router, bare_refusals, draining: OnceLock::new() }
    }

    /// Writes what stands for the parser's own refusals.
    pub(crate) fn bare_refusals(&self) -> Refuse {
        Arc::clone(&self.bare_refusals)
    }

    /// How many connections are open, as a metric.
    pub(crate) fn open_connections(&self) -> &Gauge {
        &self.edge.metrics.connections
    }

    /// From now on each answer is its connection's last.
    pub(crate) fn begin_drain(&self) {
        let _ = self.draining.set(Instant::now());
    }

    /// For how long the server has been draining, if it has.
    pub(crate) fn draining(&self) -> Option<Duration> {
        self.draining.get().map(Instant::elapsed)
    }

    /// Answers one request; never fails.
    pub(crate) async fn answer<B>(&self, request: Request<B>, link: &Arc<Link>) -> Response
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let running = link.begin();
        let request_id = RequestId::of(request.headers(), || self.edge.new_id());
        let http1 = request.version() != Version::HTTP_2;
        let mut origin = None;
        let mut last = self.draining.get().is_some();
        let outcome = match read_head(&request, link) {
            Ok(head) => {
                origin.clone_from(&head.origin);
                last |= head.wants_upgrade;
                self.admit_and_route(request, head, &request_id, link).await
            }
            Err(refusal) => Err(refusal),
        };
        let mut response = outcome.unwrap_or_else(|refusal| self.render(&refusal, &request_id));
        if let Some(refusal) = response.extensions_mut().remove::<Arc<Refusal>>() {
            response = self.render(&refusal, &request_id);
        }
        if response.extensions_mut().remove::<LongLived>().is_some() {
            response = response.map(|body| held(body, running));
        }
        let headers = response.headers_mut();
        self.edge.finish(headers, origin.as_ref(), &request_id);
        if !http1 {
            headers.remove(CONNECTION); // RFC 9113 §8.2.2.
        } else if last {
            reply::close(headers);
        }
        response
    }

    async fn admit_and_route<B>(
        &self,
        request: Request<B>,
        head: Head,
        request_id: &RequestId,
        link: &Link,
    ) -> Result<Response, Refusal>
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let client = client::address(link.peer, request.headers(), self.edge.trusted_proxies());
        self.edge.check_rate(client, request.uri().path())?;
        if head.is_preflight {
            return self.edge.preflight(head.origin.as_ref());
        }
        if request.uri().path() == "*" {
            return Ok(reply::options(head::ALLOW_ALL));
        }
        if !path::is_plain(request.uri().path()) {
            return Err(Refusal::malformed_path());
        }
        if request.uri().query().is_some_and(|query| percent::decode(query, true).is_none()) {
            return Err(Refusal::malformed_query("An escape in the query is not complete or not UTF-8."));
        }
        let trace = head.traceparent.as_ref().and_then(|value| TraceContext::parse(value.to_str().ok()?));
        let exchange = Exchange { head, request_id: request_id.clone(), client, trace, started: Instant::now() };
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(exchange);
        let mut router = self.router.clone();
        match AssertUnwindSafe(async move { router.call(request).await }).catch_unwind().await {
            Ok(Ok(response)) => Ok(response),
            Err(_) => Err(Error::internal().with_source("answering it panicked").into()),
        }
    }

    fn render(&self, refusal: &Refusal, request_id: &RequestId) -> Response {
        self.edge.metrics.refused(refusal.error.code());
        if refusal.error.status() == 500 {
            tracing::error!(request_id = request_id.as_str(), error = ?refusal.error, "A request failed at the edge.");
        }
        reply::refusal(refusal, request_id)
    }
}

/// A body that keeps its request in progress for as long as it lasts.
fn held(body: Body, running: link::Request) -> Body {
    Body::from_stream(body.into_data_stream().inspect(move |_| _ = &running))
}

fn read_head<B>(request: &Request<B>, link: &Link) -> Result<Head, Refusal> {
    if link.head_is_ambiguous() {
        return Err(Refusal::malformed("The head can be read in more than one way."));
    }
    head::read(request)
}

/// A whole HTTP/1.1 answer for a request that the parser could not read.
fn bare_refusal(edge: &Edge, status: u16) -> Bytes {
    let refusal = match status {
        414 => Refusal::uri_too_long(),
        431 => Refusal::headers_too_large(),
        _ => Refusal::malformed("The request is not HTTP."),
    };
    edge.metrics.refused(refusal.error.code());
    let request_id = RequestId::from(edge.new_id());
    let problem = refusal.error.to_problem(request_id.as_str()).to_json();
    let mut response = reply::refusal(&refusal, &request_id);
    edge.finish(response.headers_mut(), None, &request_id);
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(problem.len()));
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default();
    let mut text = format!("HTTP/1.1 {status} {reason}\r\n").into_bytes();
    for (name, value) in response.headers() {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"\r\n");
    text.extend_from_slice(&problem);
    text.into()
}
