//! From a route to its service and back: who asks, what is asked, the call, the answer. The body is not looked into on
//! either way, but for the revision of what is edited.

use std::time::Duration;

use axum::RequestPartsExt as _;
use axum::body::Body;
use axum::extract::{RawPathParams, Request};
use axum::response::Response;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use kernel::telemetry::{self, Kind};
use kernel::{Problem, Reply, TraceContext};
use subjects::wire::v1::{Binding, CallContext};
use subjects::{Access, HttpMethod};
use tracing::Instrument as _;

use crate::edge::{Edge, Route};
use crate::head::Head;
use crate::lines::Pages;
use crate::refusal::Refusal;
use crate::server::Exchange;
use crate::{bearer, body, path, query, reply};

/// What of a user agent goes on to be recorded, in bytes.
const USER_AGENT_BYTES_MAX: usize = 256;

/// Serves a request by its endpoint.
pub(crate) async fn forward(edge: &Edge, route: &Route, request: Request) -> Result<Response, Refusal> {
    let (mut parts, body) = request.into_parts();
    let exchange = parts.extensions.remove::<Exchange>().expect("the server adds it to every request");
    let span = telemetry::span(Kind::Server, &route.span_name, exchange.trace);
    span.record("request.id", exchange.request_id.as_str());
    let trace = telemetry::trace_of(&span).or(exchange.trace).unwrap_or_else(|| edge.new_trace());

    let outcome = answer(edge, route, &exchange, trace, &mut parts, body).instrument(span.clone()).await;

    let status = outcome.as_ref().map_or_else(|refusal| refusal.error.status(), |response| response.status().as_u16());
    telemetry::record_status(&span, status);
    route.metrics.answered(status, exchange.started.elapsed().as_secs_f64());
    outcome
}

async fn answer(
    edge: &Edge,
    route: &Route,
    exchange: &Exchange,
    trace: TraceContext,
    parts: &mut Parts,
    body: Body,
) -> Result<Response, Refusal> {
    let _place = edge.places.take().ok_or_else(Refusal::overloaded)?;
    let _place_of_endpoint = route.places.take().ok_or_else(Refusal::overloaded)?;
    check_credential_rate(route, exchange)?;
    let token = authenticate(edge, route, &exchange.head).await?;
    check_preconditions(route, &exchange.head)?;
    let bindings = bindings(route, parts).await?;
    let body = read_body(edge, route, &exchange.head, body).await?;
    let context = CallContext {
        access_token: token.unwrap_or_default().to_owned(),
        trace_id: trace.trace_id.to_vec(),
        span_id: trace.span_id.to_vec(),
        sampled: trace.sampled,
        request_id: exchange.request_id.as_str().to_owned(),
        client_address: exchange.client.to_string(),
        user_agent: user_agent(&exchange.head),
        bindings,
        idempotency_key: exchange.head.idempotency_key.as_ref().map(text).unwrap_or_default(),
        if_match: exchange.head.if_match.as_ref().map(text),
        ..CallContext::default()
    };
    let timeout = Duration::from_millis(route.endpoint.timeout_ms.into());
    if route.http.streamed {
        let pages = Pages::new(&edge.caller, route.endpoint, context.clone(), timeout, &route.streams)?;
        let reply = edge.caller.forward(route.endpoint, context, body, timeout).await?;
        return if reply.status == 200 { pages.answer(&reply.body) } else { pass_on(route, reply) };
    }
    let reply = edge.caller.forward(route.endpoint, context, body, timeout).await?;
    pass_on(route, reply)
}

fn check_credential_rate(route: &Route, exchange: &Exchange) -> Result<(), Refusal> {
    let Some(rate) = &route.credential_rate else { return Ok(()) };
    let span = telemetry::span(Kind::Internal, "gateway.rate_limit.check", None);
    span.in_scope(|| rate.check(exchange.client)).map_err(Refusal::rate_limited)
}

/// The caller's token, verified, where the endpoint asks for one; none goes on where it does not.
async fn authenticate<'a>(edge: &Edge, route: &Route, head: &'a Head) -> Result<Option<&'a str>, Refusal> {
    match route.endpoint.access {
        Access::Public | Access::Internal(_) => Ok(None),
        Access::Token | Access::Permission(_) => {
            let authorization = head.authorization.as_ref().ok_or_else(Refusal::no_token)?;
            let token = bearer::token(authorization).ok_or_else(Refusal::malformed_token)?;
            edge.tokens.verify(token).await?;
            Ok(Some(token))
        }
    }
}

/// Who asks that nothing be overwritten must not be told that it was done without a look: `If-Match` is the service's to hold,
/// the others nobody would.
fn check_preconditions(route: &Route, head: &Head) -> Result<(), Refusal> {
    let changes = route.http.method != HttpMethod::Get;
    if changes && (head.if_none_match.is_some() || head.if_unmodified_since) {
        return Err(Refusal::unsupported_precondition());
    }
    Ok(())
}

/// For the service to judge. What is no text becomes something that is neither a key nor a tag of ours.
fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// Path and query parameters, by the contract's names for their fields.
async fn bindings(route: &Route, parts: &mut Parts) -> Result<Vec<Binding>, Refusal> {
    let mut bindings = Vec::new();
    if !route.http.path_fields.is_empty() {
        // The path has been found plain, so its parameters can be decoded.
        let parameters = parts.extract::<RawPathParams>().await.map_err(|_| Refusal::malformed_path())?;
        for (field, value) in &parameters {
            if !path::is_parameter(value) {
                return Err(Refusal::malformed_path());
            }
            bindings.push(Binding { field: field.to_owned(), value: value.to_owned() });
        }
    }
    if let Some(query) = parts.uri.query() {
        query::bind(query, route.http.query_fields, &mut bindings)?;
    }
    Ok(bindings)
}

async fn read_body(edge: &Edge, route: &Route, head: &Head, body: Body) -> Result<Bytes, Refusal> {
    if route.http.method.has_body() {
        body::read(head, body, route.endpoint.body_max_bytes, edge.body_timeout).await
    } else {
        body::refuse(body, edge.body_timeout).await.map(|()| Bytes::new())
    }
}

/// The client's name for itself, cut short; empty where it is not text.
pub(crate) fn user_agent(head: &Head) -> String {
    let Some(value) = &head.user_agent else { return String::new() };
    let text = std::str::from_utf8(value.as_bytes()).unwrap_or_default();
    let mut end = text.len().min(USER_AGENT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// A service's reply as an answer. What it refuses keeps its number and its words.
fn pass_on(route: &Route, reply: Reply) -> Result<Response, Refusal> {
    if reply.status == 200 {
        return Ok(reply::success(route.endpoint, route.http, reply.body));
    }
    let status = StatusCode::from_u16(reply.status).map_err(|_| Refusal::bad_reply())?;
    if !(status.is_client_error() || status.is_server_error()) || reply.body.is_empty() {
        return Err(Refusal::bad_reply());
    }
    let bad_token = status == StatusCode::UNAUTHORIZED
        && serde_json::from_slice::<Problem>(&reply.body).is_ok_and(|problem| problem.code == "invalid_token");
    Ok(reply::service_problem(status, reply.body, reply.retry_after_s, bad_token))
}
