//! The shapes in which the contract is read by the kernel, the gateway and the tools.

use std::sync::Arc;

use serde::{Serialize, de::DeserializeOwned};

use crate::FieldError;

/// Any message of the contract.
pub trait Body: prost::Message + Default + Serialize + DeserializeOwned + Send + Sync + 'static {}

impl<T: prost::Message + Default + Serialize + DeserializeOwned + Send + Sync + 'static> Body for T {}

/// One operation.
#[derive(Debug)]
pub struct Endpoint {
    /// `identity`.
    pub service: &'static str,
    /// Name in discovery: `get_user`.
    pub name: &'static str,
    /// Name in the contract: `GetUser`.
    pub rpc: &'static str,
    /// `svc.identity.v1.get_user`.
    pub subject: &'static str,
    /// What its caller reads.
    pub description: &'static str,
    /// Who may call.
    pub access: Access,
    /// None for an internal operation.
    pub http: Option<Http>,
    /// How long a caller waits and a handler may take.
    pub timeout_ms: u32,
    /// Whether it may be sent again after an unknown outcome.
    pub idempotent: bool,
    /// Whether request or reply carry a credential.
    pub bears_credentials: bool,
    /// The largest request body.
    pub body_max_bytes: u32,
    /// Whether it changes a resource with a revision, and not where `If-Match` names another.
    pub takes_if_match: bool,
    /// Whether the reply has a `revision`, which over HTTP is its `ETag` too.
    pub shows_revision: bool,
    /// Full name of the request message.
    pub request: &'static str,
    /// Full name of the reply message.
    pub reply: &'static str,
}

/// Who may call an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anybody.
    Public,
    /// Any valid access token.
    Token,
    /// A valid access token whose user has this permission.
    Permission(&'static str),
    /// The named services only, which the broker enforces.
    Internal(&'static [&'static str]),
}

/// The HTTP route of an operation.
#[derive(Debug)]
pub struct Http {
    /// The method.
    pub method: HttpMethod,
    /// Fields in braces by their proto names: `/api/v1/users/{user_id}`.
    pub path: &'static str,
    /// Status of success.
    pub success: u16,
    /// Proto names of the fields in the path, in its order.
    pub path_fields: &'static [&'static str],
    /// Fields taken from the query; only of methods without a body.
    pub query_fields: &'static [QueryField],
    /// Seconds for which the answer may be cached by anybody; 0 means not at all.
    pub cache_max_age_s: u32,
    /// Whether the answer is newline-delimited JSON made of the `items` of all pages.
    pub streamed: bool,
}

/// The methods that the contract uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HttpMethod {
    /// GET
    Get,
    /// POST
    Post,
    /// PUT
    Put,
    /// PATCH
    Patch,
    /// DELETE
    Delete,
}

impl HttpMethod {
    /// In capitals, as it stands on the request line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }

    /// Whether a request of this method has a body in this API.
    pub fn has_body(self) -> bool {
        !matches!(self, Self::Get | Self::Delete)
    }
}

/// A request field that a GET or DELETE takes from its query.
#[derive(Debug)]
pub struct QueryField {
    /// As the client writes it: `pageSize`.
    pub name: &'static str,
    /// As the contract names it: `page_size`.
    pub field: &'static str,
    /// Whether it may be given more than once.
    pub repeated: bool,
}

/// What a service serves, publishes, calls and consumes.
#[derive(Debug)]
pub struct ServiceContract {
    /// Micro name, queue group, schema and broker user: `identity`.
    pub name: &'static str,
    /// Full semantic version.
    pub version: &'static str,
    /// One sentence.
    pub description: &'static str,
    /// In the order of the contract.
    pub endpoints: &'static [&'static Endpoint],
    /// In order of subject.
    pub events: &'static [&'static EventContract],
    /// Subjects of other services that it may request, in order.
    pub calls: &'static [&'static str],
    /// Durable consumers that it reads.
    pub consumers: &'static [ConsumerContract],
    /// Events that each of its instances sees as they are stored.
    pub watches: &'static [WatchContract],
    /// Key-value buckets that it writes and reads.
    pub buckets: &'static [&'static str],
    /// Queues to which it submits jobs with its changes, in order.
    pub enqueues: &'static [EnqueuesContract],
    /// Jobs that it runs, in order of queue and kind.
    pub jobs: &'static [&'static JobContract],
}

impl ServiceContract {
    /// The queues that it runs, in order.
    pub fn queues(&self) -> Vec<&'static str> {
        let mut queues: Vec<_> = self.jobs.iter().map(|job| job.queue).collect();
        queues.dedup();
        queues
    }
}

/// Work that a service does in the background.
pub struct JobContract {
    /// The service that runs it.
    pub service: &'static str,
    /// The queue, which no other service runs.
    pub queue: &'static str,
    /// The kind within the queue.
    pub kind: &'static str,
    /// What it does.
    pub description: &'static str,
    /// How often it is tried unless it says otherwise.
    pub attempts_max: u32,
    /// How long one attempt may take unless it says otherwise.
    pub timeout_ms: u32,
    /// The first pause before another attempt, before jitter.
    pub backoff_base_ms: u32,
    /// The longest pause.
    pub backoff_max_ms: u32,
    /// Whether people and other languages may submit it.
    pub open: bool,
    /// At the times of which cron expression, in UTC, it is submitted without arguments.
    pub cron: Option<&'static str>,
    /// Says what is wrong with arguments.
    pub check: fn(&[u8]) -> Result<(), crate::json::DecodeError>,
}

impl std::fmt::Debug for JobContract {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobContract").field("queue", &self.queue).field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// The arguments of a job that a service runs.
pub trait JobArguments: Body {
    /// Its queue, kind and patience.
    const CONTRACT: &'static JobContract;
}

impl ServiceContract {
    /// Whether its processes decide permissions, and so hear of what changes them: those of the service that is asked, and
    /// those that ask it.
    pub fn is_guard(&self) -> bool {
        let asks = self.calls.iter().any(|call| crate::DECISIONS.contains(call));
        asks || self.endpoints.iter().any(|endpoint| crate::DECISIONS.contains(&endpoint.subject))
    }
}

/// A queue to which a service submits jobs with its changes.
#[derive(Debug)]
pub struct EnqueuesContract {
    /// The queue, whoever runs it.
    pub queue: &'static str,
    /// Whether it also submits jobs for later.
    pub delayed: bool,
}

/// Events of a stream that every instance sees as they are stored.
#[derive(Debug)]
pub struct WatchContract {
    /// The stream's name.
    pub stream: &'static str,
    /// Subjects as they are stored; the server republishes them with `live.` in front.
    pub subjects: &'static [&'static str],
}

impl WatchContract {
    /// The services whose relays feed what is watched: those with an event that a subject may cover.
    pub fn publishers(&self) -> impl Iterator<Item = &'static ServiceContract> {
        crate::SERVICES.iter().copied().filter(|service| {
            let covers = |event: &EventContract| self.subjects.iter().any(|s| crate::subject::covers(s, event.subject));
            service.events.iter().any(|event| covers(event))
        })
    }
}

/// A durable consumer.
#[derive(Debug)]
pub struct ConsumerContract {
    /// The stream's name.
    pub stream: &'static str,
    /// The durable's name; no other consumer of any stream has it.
    pub durable: &'static str,
    /// Subjects it takes.
    pub filters: &'static [&'static str],
}

/// A fact that a service publishes.
#[derive(Debug)]
pub struct EventContract {
    /// `evt.<service>.<entity>.<action>`.
    pub subject: &'static str,
    /// Who publishes it.
    pub service: &'static str,
    /// Full name of the message.
    pub message: &'static str,
    /// What it says.
    pub description: &'static str,
    /// The kind of thing it is about.
    pub target_type: &'static str,
    /// How the action ended, for its audit record.
    pub outcome: crate::audit::v1::Outcome,
}

impl EventContract {
    /// The action of its audit record: the subject without `evt.`.
    pub fn action(&self) -> &'static str {
        self.subject.strip_prefix("evt.").unwrap_or(self.subject)
    }
}

/// A message that is published as an event.
pub trait Event: Body {
    /// Its subject, publisher and meaning.
    const CONTRACT: &'static EventContract;

    /// The id of what it is about.
    fn target_id(&self) -> &str;
}

/// A request whose fields can be bound from a path or a query.
pub trait Bind {
    /// The JSON name of a field that can be bound; none for any other field.
    fn json_name(field: &str) -> Option<&'static str>;

    /// Sets a field from its text. Fails when the field cannot be bound or the text is not of its type.
    fn bind(&mut self, field: &str, value: &str) -> Result<(), BindError>;
}

/// A path or query parameter that does not fit its field.
#[derive(Debug, PartialEq, Eq)]
pub struct BindError(pub FieldError);

impl BindError {
    /// The value is not of the field's type.
    pub fn expected(json_name: &str, what: &str) -> Self {
        Self(FieldError::new(format!("/{json_name}"), "invalid", format!("must be {what}")))
    }

    /// There is no such parameter.
    pub fn unknown(field: &str) -> Self {
        Self(FieldError::new(format!("/{field}"), "unknown_field", "is not a parameter of this operation"))
    }
}

/// Takes the operations of a service `S` and serves them; implemented by the kernel.
pub trait Register<S> {
    /// What a handler learns about its call.
    type Context;
    /// How a handler fails.
    type Error;

    /// Serves one operation with this handler.
    fn register<Q, A, F, Fut>(&mut self, endpoint: &'static Endpoint, handler: F)
    where
        Q: Body + Bind,
        A: Body,
        F: Fn(Arc<S>, Arc<Self::Context>, Q) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<A, Self::Error>> + Send + 'static;
}

/// Carries calls of typed clients; implemented by the kernel.
pub trait Transport: Clone + Send + Sync + 'static {
    /// The call on whose behalf another is made.
    type Context: Sync;
    /// How a call fails.
    type Error;

    /// Calls an operation and waits for its reply, at most until the context's deadline.
    fn call<Q: Body, A: Body>(
        &self,
        cx: &Self::Context,
        endpoint: &'static Endpoint,
        request: Q,
    ) -> impl Future<Output = Result<A, Self::Error>> + Send;
}
