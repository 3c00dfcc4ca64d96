//! What a handler knows about the request it serves: who asks, on whose behalf, in which trace, and until when.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::Instant;
use uuid::Uuid;

use crate::if_match::IfMatch;
use crate::{Claims, Clock, Error, Ids, Random, Result, TraceContext};

/// Everything about one request, or about one thing a service does for itself.
#[derive(Debug)]
pub struct Context {
    service: &'static str,
    acts_for_itself: bool,
    request_id: String,
    trace: TraceContext,
    deadline: Instant,
    client: Client,
    claims: Option<Arc<Claims>>,
    access_token: Option<SecretString>,
    idempotency_key: Option<String>,
    if_match: Option<IfMatch>,
    clock: Clock,
    random: Random,
}

/// What the edge saw of the client. A claim of the sender's: recorded as such, trusted for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// Textual IP address, or empty.
    pub address: String,
    /// `User-Agent`, or empty.
    pub user_agent: String,
}

/// Who acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor<'a> {
    /// A signed-in user, by id.
    User(&'a str),
    /// A service for itself, by name.
    Service(&'a str),
    /// Nobody known.
    Anonymous,
}

impl Context {
    /// A service that acts for itself, at its start or for an event: no token, no client, `timeout` from now.
    pub fn for_service(service: &'static str, clock: &Clock, random: &Random, timeout: Duration) -> Self {
        Self {
            service,
            acts_for_itself: true,
            request_id: Ids::new(clock.clone(), random.clone()).new_id().to_string(),
            trace: TraceContext::root(random, false),
            deadline: Instant::now() + timeout,
            client: Client::default(),
            claims: None,
            access_token: None,
            idempotency_key: None,
            if_match: None,
            clock: clock.clone(),
            random: random.clone(),
        }
    }

    /// A request of somebody else, yet without id, trace and caller.
    pub(crate) fn for_request(service: &'static str, clock: &Clock, random: &Random, deadline: Instant) -> Self {
        Self {
            service,
            acts_for_itself: false,
            request_id: String::new(),
            trace: TraceContext { trace_id: [0; 16], span_id: [0; 8], sampled: false },
            deadline,
            client: Client::default(),
            claims: None,
            access_token: None,
            idempotency_key: None,
            if_match: None,
            clock: clock.clone(),
            random: random.clone(),
        }
    }

    /// With the id under which logs, spans and errors find it.
    pub fn with_request_id(mut self, request_id: impl Into<String>) -> Self {
        self.request_id = request_id.into();
        self
    }

    /// Within a trace.
    pub fn with_trace(mut self, trace: TraceContext) -> Self {
        self.trace = trace;
        self
    }

    /// Until `deadline`.
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = deadline;
        self
    }

    /// For a client.
    pub fn with_client(mut self, client: Client) -> Self {
        self.client = client;
        self
    }

    /// On behalf of the holder of `access_token`, whose verified claims are `claims`.
    pub fn with_caller(mut self, claims: Arc<Claims>, access_token: SecretString) -> Self {
        self.claims = Some(claims);
        self.access_token = Some(access_token);
        self
    }

    /// With the caller's idempotency key.
    pub fn with_idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// With what the caller wants to be so of what is changed.
    pub(crate) fn with_if_match(mut self, if_match: IfMatch) -> Self {
        self.if_match = Some(if_match);
        self
    }

    /// The id under which logs, spans and errors find this request. At most 64 characters of `[A-Za-z0-9_-]`.
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// The service that handles it.
    pub fn service(&self) -> &'static str {
        self.service
    }

    /// Where in which trace.
    pub fn trace(&self) -> TraceContext {
        self.trace
    }

    /// When the caller stops waiting.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What is left until the deadline; zero when it has passed.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// What is known of the client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Claims of the verified token; `None` for a public or internal call.
    pub fn caller(&self) -> Option<&Claims> {
        self.claims.as_deref()
    }

    /// The calling user's id; 401 where no token came.
    pub fn user_id(&self) -> Result<&str> {
        self.caller().map(|claims| claims.sub.as_str()).ok_or_else(no_token)
    }

    /// The calling session's id; 401 where no token came.
    pub fn session_id(&self) -> Result<&str> {
        self.caller().map(|claims| claims.sid.as_str()).ok_or_else(no_token)
    }

    /// The caller's token as it came, to be passed on.
    pub fn access_token(&self) -> Option<&str> {
        self.access_token.as_ref().map(SecretString::expose_secret)
    }

    /// The caller's idempotency key.
    pub fn idempotency_key(&self) -> Option<&str> {
        self.idempotency_key.as_deref()
    }

    /// Refuses (412 `precondition_failed`) where the caller wants to change another revision than the resource has; `revision` is
    /// `None` where there is no such resource. Every operation that takes `If-Match` asks this, in the transaction of its change
    /// and with the resource locked: of two who have seen the same revision, the second then finds another.
    pub fn check_if_match(&self, revision: Option<i64>) -> Result<()> {
        match &self.if_match {
            Some(if_match) if !if_match.holds(revision) => {
                let detail = "This has been changed meanwhile, or is not there. Read it again, and decide anew.";
                Err(Error::new(412, "precondition_failed", detail))
            }
            _ => Ok(()),
        }
    }

    /// Who acts, for the audit record.
    pub fn actor(&self) -> Actor<'_> {
        match self.caller() {
            Some(claims) => Actor::User(&claims.sub),
            None if self.acts_for_itself => Actor::Service(self.service),
            None => Actor::Anonymous,
        }
    }

    /// The time in UTC, to the microsecond.
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// A new UUIDv7.
    pub fn new_id(&self) -> Uuid {
        Ids::new(self.clock.clone(), self.random.clone()).new_id()
    }

    /// Where the time comes from.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The source of randomness.
    pub fn random(&self) -> &Random {
        &self.random
    }
}

fn no_token() -> Error {
    Error::unauthenticated("invalid_token", "An access token is needed.")
}
