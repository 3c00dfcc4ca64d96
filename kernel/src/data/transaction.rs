//! One change: the service's own statements, and the events, audit records and jobs that leave with its commit or not at all.

use std::fmt;
use std::ops::{Deref, DerefMut};

use sqlx::{PgConnection, Postgres};
use subjects::audit::v1::Outcome;
use subjects::subject::Token;
use subjects::{Access, Endpoint, Event, job};
use tokio::time::Instant;
use tracing::{Instrument as _, Span};
use uuid::Uuid;

use super::database::{Database, is_broken};
use super::outbox::{self, Bucket, Draft, Stream};
use super::record::{AuditAction, Origin};
use crate::authorization::changes;
use crate::jobs::Submission;
use crate::{Context, Error, Result, telemetry};

/// A transaction for one request or message. Dropped without [`commit`](Transaction::commit), it is rolled back.
///
/// Dereferences to the connection, so that a service's storage takes `&mut PgConnection`.
pub struct Transaction {
    inner: sqlx::Transaction<'static, Postgres>,
    database: Database,
    origin: Origin,
    /// Not yet written: all go in one statement, which costs the server a fraction of one for each.
    drafts: Vec<Draft>,
    drafts_bytes: usize,
    filled_outbox: bool,
    /// The last event that changes who may what.
    change: Option<Uuid>,
    until: Instant,
    span: Span,
}

/// Bytes of messages that wait to be written; more are written at once.
const DRAFTS_BYTES_MAX: usize = 1024 * 1024;

/// What came of a commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Where authorisation changed and this was heard of: the place of its event, for who wants to be answered from
    /// knowledge that is as new. Else empty.
    pub consistency_token: String,
}

impl Transaction {
    pub(super) fn new(
        database: Database,
        inner: sqlx::Transaction<'static, Postgres>,
        cx: &Context,
        span: Span,
    ) -> Self {
        let origin = Origin::new(cx, telemetry::trace_of(&span).unwrap_or_else(|| cx.trace()));
        Self {
            inner,
            database,
            origin,
            drafts: Vec::new(),
            drafts_bytes: 0,
            filled_outbox: false,
            change: None,
            until: cx.deadline(),
            span,
        }
    }

    /// Makes this user the actor of what is published and recorded from here on: for a request without an access token by
    /// which somebody has shown who they are.
    pub fn act_as_user(&mut self, user_id: &str) {
        self.origin.act_as_user(user_id);
    }

    /// What the actor is called, for the records written from here on. Personal: kept where it can be erased.
    pub fn name_actor(&mut self, name: &str) {
        self.origin.name_actor(name);
    }

    /// What the things acted upon from here on are called. Personal: kept where it can be erased.
    pub fn name_target(&mut self, name: &str) {
        self.origin.name_target(name);
    }

    /// Publishes an event and writes the record of its action to the audit log, both when the transaction commits.
    ///
    /// Fails with 500 when the event is larger than the outbox takes ([`outbox::PAYLOAD_BYTES_MAX`]).
    pub async fn publish<E: Event>(&mut self, event: &E) -> Result<()> {
        let contract = E::CONTRACT;
        if contract.service != self.database.service() {
            return Err(misuse(format!("{} is not an event of {}", contract.subject, self.database.service())));
        }
        let action = AuditAction {
            action: contract.action(),
            target_type: contract.target_type,
            target_id: event.target_id(),
            outcome: contract.outcome,
            details: String::from_utf8(subjects::json::encode(event)).expect("JSON is UTF-8"),
        };
        let draft = Draft::event(&self.origin, event);
        if subjects::AUTHORIZATION.subjects.contains(&contract.subject) {
            self.change = Some(draft.id());
        }
        self.write(vec![draft, Draft::record(&self.origin, &action)]).await
    }

    /// Writes the record of an action that no event stands for to the audit log.
    pub async fn record(&mut self, action: AuditAction<'_>) -> Result<()> {
        if !action.is_of(self.database.service()) {
            return Err(misuse(format!("{:?} is not an action of {}", action.action, self.database.service())));
        }
        self.write(vec![Draft::record(&self.origin, &action)]).await
    }

    /// Puts JSON under a key of a bucket when the transaction commits, before the events of the same transaction. The key is
    /// one word fit for a subject.
    pub async fn put(&mut self, bucket: Bucket, key: &str, value: Vec<u8>) -> Result<()> {
        let service = self.database.service();
        if !Stream::of(service).contains(&Stream::Bucket(bucket)) {
            return Err(misuse(format!("{} is not a bucket of {service}", bucket.name())));
        }
        if Token::parse(key).is_none() {
            return Err(misuse(format!("{key:?} cannot be a key of {}", bucket.name())));
        }
        self.write(vec![Draft::value(&self.origin, bucket, key, value)]).await
    }

    /// Submits a job when the transaction commits: `tx.enqueue(Submission::of(&SendMail { … }, cx.new_id()))`. The contract of
    /// this service must name the queue under `enqueues`, and there as delayed where the job is for later.
    ///
    /// It is stored once however often it is sent; what runs it may run it more than once.
    pub async fn enqueue(&mut self, job: Submission) -> Result<()> {
        let service = self.database.service();
        let (queue, kind) = (job.place.queue.to_string(), job.place.kind.to_string());
        let declared = subjects::service(service).map_or(&[][..], |contract| contract.enqueues);
        let declared = declared.iter().find(|enqueues| enqueues.queue == queue);
        let is_delayed = job.is_delayed(self.origin.now());
        if declared.is_none_or(|declared| is_delayed && !declared.delayed) {
            return Err(misuse(format!("{service} does not declare that it enqueues to {queue}")));
        }
        // Nobody would hear of what the runner finds wrong.
        let checked = match (job::runner_of(&queue), job::find(&queue, &kind)) {
            (Some(_), Some(contract)) => (contract.check)(&job.arguments),
            (Some(_), None) => return Err(misuse(format!("{kind} is no kind of the queue {queue}"))),
            (None, _) => subjects::json::check_any(&job.arguments),
        };
        checked.map_err(|error| misuse(format!("{queue}.{kind} does not take these arguments: {error:?}")))?;
        self.write(vec![Draft::job(&self.origin, job)]).await
    }

    async fn write(&mut self, drafts: Vec<Draft>) -> Result<()> {
        drafts.iter().try_for_each(Draft::check)?;
        self.drafts_bytes += drafts.iter().map(Draft::bytes).sum::<usize>();
        self.drafts.extend(drafts);
        if self.drafts_bytes > DRAFTS_BYTES_MAX { self.flush().await } else { Ok(()) }
    }

    /// Writes the messages that wait.
    async fn flush(&mut self) -> Result<()> {
        if self.drafts.is_empty() {
            return Ok(());
        }
        let drafts = std::mem::take(&mut self.drafts);
        self.drafts_bytes = 0;
        outbox::insert(&mut self.inner, drafts).instrument(self.span.clone()).await?;
        self.filled_outbox = true;
        Ok(())
    }

    /// Commits, and wakes the relay where there is something to send. Where who may what was changed, it then waits, at most
    /// 200 ms, until the event has come by here as it does in every other process: who hears of success after that finds the
    /// change in force.
    ///
    /// When the connection breaks meanwhile, whether the change was made is unknown: 503 `outcome_unknown`.
    pub async fn commit(mut self) -> Result<Committed> {
        self.flush().await?;
        let Self { inner, database, filled_outbox, change, until, span, .. } = self;
        let outcome = inner.commit().instrument(span).await;
        if filled_outbox {
            database.wake_relay();
        }
        outcome.map_err(|error| {
            if is_broken(&error) {
                let detail = "The connection to the database broke; whether the change was made is unknown.";
                Error::new(503, "outcome_unknown", detail).with_source(error)
            } else {
                error.into()
            }
        })?;
        let mut committed = Committed::default();
        if let (Some(event), Some(changes)) = (change, database.changes()) {
            let within = changes::WAIT_MAX.min(until.saturating_duration_since(Instant::now()));
            if let Some(token) = changes.await_event(event, within).await {
                committed.consistency_token = token.to_string();
            }
        }
        Ok(committed)
    }
}

impl Database {
    /// Records in the audit log that `cx` was refused `endpoint`, in a transaction of its own.
    pub async fn record_denied(&self, cx: &Context, endpoint: &Endpoint) -> Result<()> {
        let details = match endpoint.access {
            Access::Permission(permission) => format!(r#"{{"permission":"{permission}"}}"#),
            Access::Public | Access::Token | Access::Internal(_) => "{}".to_owned(),
        };
        let mut transaction = self.begin(cx).await?;
        let action = AuditAction {
            action: &format!("{}.{}.denied", endpoint.service, endpoint.name),
            target_type: "endpoint",
            target_id: endpoint.rpc,
            outcome: Outcome::Denied,
            details,
        };
        transaction.record(action).await?;
        transaction.commit().await.map(|_| ())
    }
}

fn misuse(message: String) -> Error {
    Error::internal().with_source(message)
}

impl Deref for Transaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.inner
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.inner
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("database", &self.database).finish_non_exhaustive()
    }
}
