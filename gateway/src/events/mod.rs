//! `GET /api/v1/events`: events as they are stored, as server-sent events (WHATWG HTML §9.2). All streams of a gateway
//! live on one feed; what a client missed is read from the broker's stream, so that `Last-Event-ID` leaves nothing out.

mod admission;
mod filter;
mod message;
mod metrics;
mod stream;
mod tail;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::{HeaderName, HeaderValue, StatusCode};
use kernel::authorization::{Changes, Decide};
use kernel::feed::{Bounds, StreamReader};
use kernel::telemetry::{self, Kind};
use kernel::{Client, Clock, Context, Error, FieldError, Parts, Random, StartError, TokenVerifier};
use secrecy::SecretString;
use subjects::QueryField;
use subjects::authz::v1::{AuthzClient, RecordDenialRequest};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::admission::Admission;
use self::filter::Filter;
use self::metrics::EventMetrics;
use self::stream::EventStream;
use self::tail::Tail;
use crate::edge::Edge;
use crate::head::Head;
use crate::refusal::Refusal;
use crate::server::{Exchange, LongLived};
use crate::settings::GatewaySettings;
use crate::{bearer, body, forward, query, reply};

const PARAMETERS: &[QueryField] = &[QueryField { name: "subject", field: "subject", repeated: false }];

const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
/// Proxies that would collect an answer before they pass it on must not (nginx).
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
const NO: HeaderValue = HeaderValue::from_static("no");

/// Reads of the broker's stream at once, by all clients together.
const READS_MAX: usize = 8;

/// How long a decision may take.
const DECIDE_TIMEOUT: Duration = Duration::from_secs(2);

/// The live tail of a gateway.
pub(crate) struct Events {
    tail: Arc<Tail>,
    reader: StreamReader,
    reads: Semaphore,
    admission: Arc<Admission>,
    tokens: TokenVerifier,
    decide: Arc<dyn Decide>,
    changes: Changes,
    clock: Clock,
    random: Random,
    stopping: CancellationToken,
    heartbeat: Duration,
    metrics: EventMetrics,
}

impl Events {
    /// Begins to watch.
    pub(crate) async fn open(parts: &Parts<GatewaySettings>) -> Result<Arc<Self>, StartError> {
        let settings = &parts.settings.events;
        let watch = &subjects::GATEWAY.watches[0];
        let feed = parts.feeds.open("live_tail", watch, Bounds::default()).await?;
        let tail = Arc::new(Tail::new(settings.buffer_messages as usize));
        parts.life.spawn("live tail", Arc::clone(&tail).fill(feed));
        Ok(Arc::new(Self {
            tail,
            reader: parts.feeds.reader(watch),
            reads: Semaphore::new(READS_MAX),
            admission: Admission::new(settings.streams_max, settings.streams_per_user_max),
            tokens: parts.tokens.clone(),
            decide: Arc::clone(&parts.decide),
            changes: parts.changes.clone(),
            clock: parts.clock.clone(),
            random: parts.random.clone(),
            stopping: parts.life.stop_token(),
            heartbeat: Duration::from_millis(settings.heartbeat_ms.into()),
            metrics: EventMetrics::new(&parts.metrics),
        }))
    }

    /// The user and what remains of the token's life, where it counts and its user may see what `filter` covers.
    async fn permit(&self, authorization: &HeaderValue, filter: &Filter) -> Result<(String, Duration), Error> {
        let token = bearer::token(authorization).ok_or_else(|| Refusal::malformed_token().error)?;
        let claims = self.tokens.verify(token).await?;
        let (user, expires) = (claims.sub.clone(), claims.exp);
        let cx = Context::for_service(subjects::GATEWAY.name, &self.clock, &self.random, DECIDE_TIMEOUT);
        let cx = cx.with_caller(claims, SecretString::from(token));
        let permission = filter.permission();
        if !self.decide.decide(&cx, permission).await? {
            return Err(Error::forbidden(format!("The permission {permission} is needed.")));
        }
        let left = u64::try_from(expires - self.clock.unix_seconds()).unwrap_or(0);
        Ok((user, Duration::from_secs(left)))
    }

    /// Has it written down that the token's user was refused. They are refused all the same where that cannot be done.
    async fn record_denial(&self, edge: &Edge, exchange: &Exchange, authorization: &HeaderValue, filter: &Filter) {
        let Some(token) = bearer::token(authorization) else { return };
        let Ok(claims) = self.tokens.verify(token).await else { return };
        let client = Client { address: exchange.client.to_string(), user_agent: forward::user_agent(&exchange.head) };
        let cx = Context::for_service(subjects::GATEWAY.name, &self.clock, &self.random, DECIDE_TIMEOUT);
        let cx = cx.with_client(client).with_request_id(exchange.request_id.as_str());
        let request = RecordDenialRequest { user_id: claims.sub.clone(), permission: filter.permission().to_owned() };
        if let Err(error) = AuthzClient::new(edge.caller.clone()).record_denial(&cx, request).await {
            tracing::warn!(?error, "A refusal of the live tail is not in the audit log.");
        }
    }
}

/// `GET /api/v1/events?subject=evt.identity.>`.
pub(crate) async fn tail(State(edge): State<Arc<Edge>>, request: Request) -> Result<Response, Refusal> {
    let (mut parts, body) = request.into_parts();
    let exchange = parts.extensions.remove::<Exchange>().expect("the server adds it to every request");
    let span = telemetry::span(Kind::Server, "http.gateway.tail_events", exchange.trace);
    span.record("request.id", exchange.request_id.as_str());
    let outcome = open(&edge, &exchange, parts.uri.query().unwrap_or_default(), body).await;
    let status = outcome.as_ref().map_or_else(|refusal| refusal.error.status(), |response| response.status().as_u16());
    telemetry::record_status(&span, status);
    outcome
}

async fn open(edge: &Edge, exchange: &Exchange, query: &str, body: Body) -> Result<Response, Refusal> {
    let (events, head) = (&edge.events, &exchange.head);
    let authorization = head.authorization.as_ref().ok_or_else(Refusal::no_token)?;
    let filter = filter(query)?;
    let last_event_id = last_event_id(head)?;
    let (user, life) = match events.permit(authorization, &filter).await {
        Ok(permitted) => permitted,
        Err(error) => {
            if error.status() == 403 {
                events.record_denial(edge, exchange, authorization, &filter).await;
            }
            return Err(error.into());
        }
    };
    body::refuse(body, edge.body_timeout).await?;
    let place = events.admission.admit(&user)?;
    let authorization = authorization.clone();
    let stream = EventStream::begin(Arc::clone(events), authorization, life, filter, last_event_id, place).await?;
    let mut response = reply::with_body(StatusCode::OK, EVENT_STREAM, Body::from_stream(stream.into_chunks()));
    response.headers_mut().insert(ACCEL_BUFFERING, NO);
    response.extensions_mut().insert(LongLived);
    Ok(response)
}

fn filter(query: &str) -> Result<Filter, Refusal> {
    let mut bindings = Vec::new();
    query::bind(query, PARAMETERS, &mut bindings)?;
    let text = bindings.first().map_or("evt.>", |binding| binding.value.as_str());
    let fault = |detail| Error::invalid(vec![FieldError::new("/subject", "invalid_subject", detail)]).into();
    Filter::parse(text).map_err(fault)
}

/// The sequence behind which the client wants to go on.
fn last_event_id(head: &Head) -> Result<Option<u64>, Refusal> {
    let Some(value) = head.last_event_id.as_ref().filter(|value| !value.is_empty()) else { return Ok(None) };
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let sequence: Option<u64> = digits.and_then(|digits| digits.parse().ok());
    let fault = || FieldError::new("/Last-Event-ID", "invalid", "must be the id of an event: a stream sequence");
    sequence.map(Some).ok_or_else(|| Error::invalid(vec![fault()]).into())
}
