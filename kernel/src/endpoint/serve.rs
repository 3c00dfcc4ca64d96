//! The stack around every handler, in the order in which it refuses.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, Subject};
use bytes::Bytes;
use futures::FutureExt as _;
use secrecy::SecretString;
use subjects::{Access, Endpoint, ServiceContract};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::Instrument as _;

use super::limit::{Limit, Place};
use super::measures::{Counters, Measures};
use super::reply::{NoReply, Replier, reply_subject};
use super::request::{Envelope, Presented};
use super::route::{Call, Handler, Permit, Routes};
use super::subscription;
use crate::authorization::Decide;
use crate::nats::{Connection, Requester};
use crate::telemetry::{self, Kind};
use crate::tokens::invalid_token;
use crate::{
    Claims, Clock, Context, Database, Error, Lifecycle, Metrics, Random, Result, StartError, TokenVerifier,
    TraceContext, settings,
};

/// How long a refused caller waits for the record of its refusal; then the refusal is told and the missing record
/// logged.
const RECORD_TIMEOUT: Duration = Duration::from_secs(1);

/// What the stack needs.
pub(crate) struct ServerParts {
    pub(crate) connection: Connection,
    pub(crate) requester: Requester,
    pub(crate) tokens: TokenVerifier,
    pub(crate) decide: Arc<dyn Decide>,
    /// Takes the records of refusals; `None` for a service without a database.
    pub(crate) database: Option<Database>,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
    pub(crate) metrics: Metrics,
    pub(crate) limits: settings::Endpoints,
    pub(crate) life: Lifecycle,
}

/// Serves the endpoints of one service.
pub(crate) struct Server<S> {
    service: Arc<S>,
    parts: ServerParts,
    replier: Replier,
    in_flight: Limit,
    counters: Counters,
}

/// One endpoint as it is served.
pub(super) struct Served<S> {
    pub(super) endpoint: &'static Endpoint,
    handler: Handler<S>,
    measures: Arc<Measures>,
    in_flight: Limit,
    span: String,
}

/// Room for one request, here and in the process.
type Places = (Place, Place);

impl<S: Send + Sync + 'static> Server<S> {
    /// Subscribes to every endpoint of the contract and answers until the process stops, and then until nothing can be
    /// on its way any more. Gives the measures of each.
    pub(crate) async fn start(
        contract: &'static ServiceContract,
        service: Arc<S>,
        routes: Routes<S>,
        parts: ServerParts,
        drain_timeout: Duration,
    ) -> Result<Vec<(&'static Endpoint, Arc<Measures>)>, StartError> {
        let routes = routes
            .complete(contract)
            .map_err(|missing| StartError::new(format!("endpoints without a handler: {}", missing.join(", "))))?;
        let counters = Counters::new(&parts.metrics);
        let server = Arc::new(Self {
            service,
            replier: Replier::new(parts.connection.client().clone()),
            in_flight: Limit::new(parts.limits.in_flight_max),
            counters,
            parts,
        });
        let mut measured = Vec::with_capacity(routes.len());
        for (endpoint, handler) in routes {
            let measures = Arc::new(Measures::new(endpoint, &server.counters));
            measured.push((endpoint, Arc::clone(&measures)));
            let served = Arc::new(Served {
                endpoint,
                handler,
                measures,
                in_flight: Limit::new(server.parts.limits.in_flight_per_endpoint_max),
                span: format!("endpoint.{}.{}", endpoint.service, endpoint.name),
            });
            let source = subscription::Source {
                connection: server.parts.connection.clone(),
                requester: server.parts.requester.clone(),
                subject: endpoint.subject,
                queue: contract.name,
                drain_timeout,
            };
            let subscription = source.subscribe().await?;
            let life = server.parts.life.clone();
            let reader = Reader { server: Arc::clone(&server), served };
            server.parts.life.spawn(endpoint.subject, async move { subscription.read(&life, &reader).await });
        }
        Ok(measured)
    }

    /// What can be refused without waiting is refused here, in the reader; the rest runs beside the others.
    async fn receive(self: &Arc<Self>, served: &Arc<Served<S>>, message: Message) {
        let arrived = Instant::now();
        let to = match reply_subject(&message) {
            Ok(to) => to,
            Err(NoReply::Absent) => {
                self.counters.no_reply.inc();
                return;
            }
            Err(NoReply::Foreign) => {
                self.counters.foreign_reply.inc();
                let reply = message.reply.as_deref().unwrap_or_default();
                tracing::warn!(
                    endpoint = served.endpoint.subject,
                    reply,
                    "A request asks for its answer outside of the inboxes; dropped."
                );
                return;
            }
        };
        let envelope = Envelope::read(&message);
        let request_id = match &envelope {
            Ok(envelope) if !envelope.request_id.is_empty() => envelope.request_id.clone(),
            _ => self.new_request_id(),
        };
        let admitted = envelope.and_then(|envelope| self.admit(served, envelope, &message.payload, arrived));
        match admitted {
            Ok((envelope, deadline, places)) => {
                let (server, served) = (Arc::clone(self), Arc::clone(served));
                let request = Admitted { envelope, body: message.payload, request_id, deadline, arrived };
                let mut answering = Box::pin(async move {
                    server.answer(&served, to, request).await;
                    drop(places);
                });
                // What is answered from memory needs no task of its own, which costs more than the answer; what waits
                // goes on beside the others.
                if (&mut answering).now_or_never().is_none() {
                    self.parts.life.spawn_once(answering);
                }
            }
            Err(error) => self.refuse(served, to, &error, &request_id, arrived).await,
        }
    }

    /// Deadline, size, concurrency.
    fn admit(
        &self,
        served: &Served<S>,
        envelope: Envelope,
        body: &Bytes,
        arrived: Instant,
    ) -> Result<(Envelope, Instant, Places)> {
        let endpoint = served.endpoint;
        let timeout_ms = envelope.timeout_ms.unwrap_or(u32::MAX).min(endpoint.timeout_ms);
        if timeout_ms == 0 {
            return Err(Error::deadline_exceeded());
        }
        if body.len() > endpoint.body_max_bytes as usize {
            let detail =
                format!("The body is larger than the {} bytes that this operation takes.", endpoint.body_max_bytes);
            return Err(Error::new(413, "body_too_large", detail));
        }
        let full = || {
            let detail = "The service handles as much as it can. Try again later.";
            Error::new(503, "overloaded", detail).retry_after(Duration::from_secs(1))
        };
        let in_process = self.in_flight.take().ok_or_else(full)?;
        let in_endpoint = served.in_flight.take().ok_or_else(full)?;
        self.counters.in_flight.set(self.in_flight.taken().into());
        let deadline = arrived + Duration::from_millis(timeout_ms.into());
        Ok((envelope, deadline, (in_process, in_endpoint)))
    }

    async fn answer(self: &Arc<Self>, served: &Served<S>, to: Subject, request: Admitted) {
        let Admitted { envelope, body, request_id, deadline, arrived } = request;
        let names_codec = envelope.names_codec.then_some(envelope.codec);
        let span = telemetry::span(Kind::Server, &served.span, envelope.trace);
        let id = request_id.clone();
        let work = AssertUnwindSafe(self.handle(served, envelope, body, id, deadline, &span)).catch_unwind();
        let outcome = match timeout_at(deadline, work.instrument(span.clone())).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_panic)) => Err(Error::internal().with_source("the handler panicked")),
            Err(_) => Err(Error::deadline_exceeded()),
        };
        let outcome = match outcome {
            Ok(body) if !self.replier.fits(&body) => {
                let detail = "The answer is larger than can be sent; ask for less.";
                Err(Error::new(500, "reply_too_large", detail))
            }
            outcome => outcome,
        };
        match outcome {
            Ok(body) => {
                telemetry::record_status(&span, 200);
                served.measures.record(arrived.elapsed(), None);
                self.replier.succeed(to, body, names_codec).await;
            }
            Err(error) => {
                telemetry::record_status(&span, error.status());
                self.refuse(served, to, &error, &request_id, arrived).await;
            }
        }
    }

    /// Token, precondition, body, permission, handler.
    async fn handle(
        self: &Arc<Self>,
        served: &Served<S>,
        envelope: Envelope,
        body: Bytes,
        request_id: String,
        deadline: Instant,
        span: &tracing::Span,
    ) -> Result<Bytes> {
        let endpoint = served.endpoint;
        let caller = self.identify(endpoint.access, envelope.presented).await?;
        if envelope.if_match.is_some() && !endpoint.takes_if_match {
            // Who sends it counts on not overwriting anything.
            let detail = "This operation does not take If-Match. Leave it out.";
            return Err(Error::malformed("precondition_not_supported", detail));
        }
        let trace = telemetry::trace_of(span).or(envelope.trace);
        let trace = trace.unwrap_or_else(|| TraceContext::root(&self.parts.random, false));
        let mut cx = Context::for_request(endpoint.service, &self.parts.clock, &self.parts.random, deadline)
            .with_request_id(request_id)
            .with_trace(trace)
            .with_client(envelope.client);
        if let Some((claims, token)) = caller {
            cx = cx.with_caller(claims, token);
        }
        if !envelope.idempotency_key.is_empty() {
            cx = cx.with_idempotency_key(envelope.idempotency_key);
        }
        if let Some(if_match) = envelope.if_match {
            cx = cx.with_if_match(if_match);
        }
        if !span.is_disabled() {
            span.record("request.id", cx.request_id());
        }
        let cx = Arc::new(cx);
        let permit: Option<Permit> = match endpoint.access {
            Access::Permission(permission) => {
                let (server, cx) = (Arc::clone(self), Arc::clone(&cx));
                Some(Box::pin(async move { server.permit(&cx, endpoint, permission).await }))
            }
            Access::Public | Access::Token | Access::Internal(_) => None,
        };
        let call = Call { cx: Arc::clone(&cx), codec: envelope.codec, body, bindings: envelope.bindings };
        telemetry::in_context(cx, (served.handler)(Arc::clone(&self.service), call, permit)).await
    }

    /// Where no token is needed none is looked at, so that a stale one cannot keep anybody from signing in again.
    async fn identify(&self, access: Access, presented: Presented) -> Result<Option<(Arc<Claims>, SecretString)>> {
        match (access, presented) {
            (Access::Public | Access::Internal(_), _) => Ok(None),
            (Access::Token | Access::Permission(_), Presented::Token(token)) => {
                let claims = self.parts.tokens.verify(&token).await?;
                Ok(Some((claims, SecretString::from(token))))
            }
            (Access::Token | Access::Permission(_), Presented::Nothing | Presented::Garbage) => Err(invalid_token()),
        }
    }

    async fn permit(&self, cx: &Context, endpoint: &'static Endpoint, permission: &'static str) -> Result<()> {
        if self.parts.decide.decide(cx, permission).await? {
            return Ok(());
        }
        if let Some(database) = &self.parts.database {
            match timeout(RECORD_TIMEOUT, database.record_denied(cx, endpoint)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(?error, "A refusal could not be recorded."),
                Err(_) => tracing::error!("A refusal could not be recorded in time."),
            }
        }
        Err(Error::forbidden(format!("The permission {permission} is needed.")))
    }

    async fn refuse(&self, served: &Served<S>, to: Subject, error: &Error, request_id: &str, arrived: Instant) {
        let endpoint = served.endpoint.subject;
        match error.status() {
            500 => tracing::error!(endpoint, request_id, ?error, "A request failed."),
            501.. => tracing::warn!(endpoint, request_id, ?error, "A request could not be served."),
            _ => tracing::debug!(endpoint, request_id, ?error, "A request was refused."),
        }
        served.measures.record(arrived.elapsed(), Some(error));
        self.replier.fail(to, error, request_id).await;
    }

    fn new_request_id(&self) -> String {
        crate::Ids::new(self.parts.clock.clone(), self.parts.random.clone()).new_id().to_string()
    }
}

/// Hands the messages of one endpoint to its server.
struct Reader<S> {
    server: Arc<Server<S>>,
    served: Arc<Served<S>>,
}

impl<S: Send + Sync + 'static> subscription::Take for Reader<S> {
    async fn take(&self, message: Message) {
        self.server.receive(&self.served, message).await;
    }
}

/// A request that has been let in.
struct Admitted {
    envelope: Envelope,
    body: Bytes,
    request_id: String,
    deadline: Instant,
    arrived: Instant,
}
