//! Calls of other services: what the typed clients of the contract stand on, and the gateway's way through.
//!
//! A call never waits longer than what is left to the one it is made for. What nobody serves fails at once. Only what
//! the contract calls idempotent is tried again, within the deadline and a budget.

mod retry;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, Subject};
use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use subjects::wire::v1::{CallContext, call_context::Codec};
use subjects::{Body, Endpoint, Problem, Transport};
use tokio::time::Instant;
use tracing::Instrument as _;

use self::retry::Retries;
use crate::metrics::{ByCall, Name};
use crate::nats::{RequestError, Requester, headers};
use crate::{Bucket, BucketReader, Context, Error, Metrics, Random, Result, telemetry, wire};

/// Calls operations of the platform's services. Cheap to clone.
#[derive(Clone)]
pub struct Caller {
    inner: Arc<Inner>,
    /// Sent along by typed clients.
    if_match: Option<Arc<str>>,
}

struct Inner {
    requester: Requester,
    retries: Retries,
    outcomes: Family<ByCall, Counter>,
    replied: HashMap<&'static str, Counter>,
}

/// What a service answered to a call that was passed through.
#[derive(Clone, Debug)]
pub struct Reply {
    /// 200, or the number of the error that the service answered.
    pub status: u16,
    /// JSON: the reply message, or problem details.
    pub body: Bytes,
    /// Seconds after which the caller may try again, where the service said so.
    pub retry_after_s: Option<u32>,
}

impl Caller {
    /// Calls over `requester`.
    pub(crate) fn new(requester: Requester, random: Random, metrics: &Metrics) -> Self {
        let outcomes: Family<ByCall, Counter> = metrics.counters(Name::Calls);
        let replied = subjects::endpoints()
            .map(|endpoint| {
                let label = ByCall { endpoint: endpoint.subject, outcome: "replied" };
                (endpoint.subject, outcomes.get_or_create_owned(&label))
            })
            .collect();
        let inner = Inner { requester, retries: Retries::new(random), outcomes, replied };
        Self { inner: Arc::new(inner), if_match: None }
    }

    /// The same, whose typed clients change a resource only while it has this revision, as its message shows it; else the call
    /// fails with 412 `precondition_failed`: `AuthzClient::new(caller.if_match(&role.revision)).update_role(…)`. For operations
    /// that take `If-Match`; others refuse it.
    pub fn if_match(&self, revision: &str) -> Self {
        Self { inner: Arc::clone(&self.inner), if_match: Some(format!("\"{revision}\"").into()) }
    }

    /// Reads what is stored in a bucket of the service's contract.
    pub fn bucket(&self, bucket: Bucket) -> BucketReader {
        BucketReader::new(self.inner.requester.clone(), bucket)
    }

    /// Passes a JSON request through unparsed and waits at most `timeout`. `context` says who asks; its codec, its
    /// time-out and, where spans are exported, its span are set here.
    ///
    /// An error reply of the service is a [`Reply`]. No reply is an [`Error`]: 503 where nobody serves the operation or
    /// the broker is gone, 504 where the outcome is unknown, 413 where the body is more than the broker takes.
    pub async fn forward(
        &self,
        endpoint: &'static Endpoint,
        mut context: CallContext,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Reply> {
        context.set_codec(Codec::Json);
        let deadline = Instant::now() + timeout;
        let message = self.exchange(endpoint, context, body, deadline).await?;
        let status = headers::error_code(&message);
        let retry_after_s = status.and_then(|_| headers::retry_after_s(&message));
        Ok(Reply { status: status.unwrap_or(200), body: message.payload, retry_after_s })
    }

    /// Sends until there is a reply or no more may be tried.
    async fn exchange(
        &self,
        endpoint: &'static Endpoint,
        mut context: CallContext,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Message> {
        let span = telemetry::call_span(endpoint, &mut context);
        // Had the first been carried out, the second would find another revision and say that nothing was changed.
        let may_repeat = endpoint.idempotent && context.if_match.is_none();
        let exchange = async {
            self.inner.retries.earn();
            let mut attempt = 0;
            loop {
                attempt += 1;
                let error = match self.send(endpoint, &mut context, body.clone(), deadline).await {
                    Ok(message) => {
                        self.count(endpoint, "replied");
                        return Ok(message);
                    }
                    Err(error) => error,
                };
                self.count(endpoint, outcome(error));
                let pause =
                    if may_repeat && is_passing(error) { self.inner.retries.pause(attempt, deadline) } else { None };
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return Err(to_error(endpoint, error)),
                }
            }
        };
        exchange.instrument(span).await
    }

    async fn send(
        &self,
        endpoint: &'static Endpoint,
        context: &mut CallContext,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Message, RequestError> {
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        context.timeout_ms = u32::try_from(left).unwrap_or(u32::MAX);
        if context.timeout_ms == 0 {
            return Err(RequestError::TimedOut);
        }
        let subject = Subject::from_static(endpoint.subject);
        self.inner.requester.request(subject, Some(wire::to_headers(context)), body, deadline).await
    }

    fn count(&self, endpoint: &'static Endpoint, outcome: &'static str) {
        match self.inner.replied.get(endpoint.subject).filter(|_| outcome == "replied") {
            Some(counter) => counter.inc(),
            None => self.inner.outcomes.get_or_create(&ByCall { endpoint: endpoint.subject, outcome }).inc(),
        };
    }
}

impl std::fmt::Debug for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caller").finish_non_exhaustive()
    }
}

impl Transport for Caller {
    type Context = Context;
    type Error = Error;

    async fn call<Q: Body, A: Body>(&self, cx: &Context, endpoint: &'static Endpoint, request: Q) -> Result<A> {
        let trace = cx.trace();
        let access = endpoint.access;
        let needs_token = matches!(access, subjects::Access::Token | subjects::Access::Permission(_));
        let context = CallContext {
            codec: Codec::Protobuf.into(),
            access_token: cx.access_token().filter(|_| needs_token).unwrap_or_default().to_owned(),
            trace_id: trace.trace_id.to_vec(),
            span_id: trace.span_id.to_vec(),
            sampled: trace.sampled,
            request_id: cx.request_id().to_owned(),
            client_address: cx.client().address.clone(),
            user_agent: cx.client().user_agent.clone(),
            if_match: self.if_match.as_deref().map(str::to_owned),
            ..CallContext::default()
        };
        let timeout = Duration::from_millis(endpoint.timeout_ms.into());
        let deadline = cx.deadline().min(Instant::now() + timeout);
        let message = self.exchange(endpoint, context, request.encode_to_vec().into(), deadline).await?;
        match headers::error_code(&message) {
            None => A::decode(message.payload).map_err(|error| Error::internal().with_source(error)),
            Some(status) => Err(reply_error(status, &message)),
        }
    }
}

/// What the other service answered, as an error of one's own.
fn reply_error(status: u16, message: &Message) -> Error {
    let error = match serde_json::from_slice::<Problem>(&message.payload) {
        Ok(problem) => Error::from_problem(Problem { status, ..problem }),
        Err(_) => Error::new(status, "internal", "Another service refused without saying why."),
    };
    match headers::retry_after_s(message) {
        Some(seconds) => error.retry_after(Duration::from_secs(seconds.into())),
        None => error,
    }
}

/// Whether another attempt may go better.
fn is_passing(error: RequestError) -> bool {
    match error {
        RequestError::NoResponders
        | RequestError::TimedOut
        | RequestError::NotConnected
        | RequestError::ConnectionLost => true,
        RequestError::Denied | RequestError::TooLarge | RequestError::Full => false,
    }
}

fn outcome(error: RequestError) -> &'static str {
    match error {
        RequestError::NoResponders => "no_responders",
        RequestError::TimedOut => "timed_out",
        RequestError::NotConnected => "not_connected",
        RequestError::ConnectionLost => "connection_lost",
        RequestError::Denied => "denied",
        RequestError::TooLarge => "too_large",
        RequestError::Full => "full",
    }
}

fn to_error(endpoint: &'static Endpoint, error: RequestError) -> Error {
    let after = Duration::from_secs(1);
    match error {
        RequestError::NoResponders => {
            Error::unavailable(format!("The service {} does not run just now.", endpoint.service)).retry_after(after)
        }
        RequestError::NotConnected => Error::unavailable("The message broker is not reachable.").retry_after(after),
        RequestError::TimedOut => Error::deadline_exceeded(),
        RequestError::ConnectionLost => {
            Error::new(504, "outcome_unknown", "The connection was lost before the answer; the outcome is unknown.")
        }
        RequestError::Denied => Error::internal(),
        RequestError::TooLarge => Error::new(413, "payload_too_large", "The request is larger than the broker takes."),
        RequestError::Full => Error::new(503, "overloaded", "Too many calls are waiting.").retry_after(after),
    }
    .with_source(error)
}
