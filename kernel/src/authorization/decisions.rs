//! Decisions of a process that asks authz: kept while they count, asked once where several wait for the same.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use prometheus_client::metrics::counter::Counter;
use quick_cache::Equivalent;
use subjects::authz::v1::{AuthorizeReply, AuthorizeRequest, AuthzClient};

use super::{Change, Changes, Consistency, Decide, Listen};
use crate::cache::{Bounds, Cache, Caches, Filled};
use crate::metrics::{ByKind, Name};
use crate::{Caller, Context, Error, Metrics, Result};

/// What a process keeps at most.
const BOUNDS: Bounds = Bounds { entries: 65_536, weight: 16 * 1024 * 1024 };

/// Bytes of an entry beside the text in it, about.
const ENTRY_BYTES: u64 = 96;
const TAG_BYTES: u64 = 48;

/// Who asks, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Question {
    user: Box<str>,
    permission: Box<str>,
}

/// The same without owning it, to look it up.
struct Asked<'a> {
    user: &'a str,
    permission: &'a str,
}

/// What an answer rests on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Ground {
    User(Box<str>),
    Group(Box<str>),
    Role(Box<str>),
}

/// Decides by what is kept, else by authz.
pub(crate) struct Decisions {
    authz: AuthzClient<Caller>,
    changes: Changes,
    kept: Cache<Question, bool, Ground>,
    outcomes: Outcomes,
}

struct Outcomes {
    remembered: Counter,
    asked: Counter,
    asked_for_truth: Counter,
    unanswered: Counter,
}

impl Decisions {
    pub(crate) fn new(caller: Caller, changes: &Changes, caches: &Caches, metrics: &Metrics) -> Arc<Self> {
        let outcomes = metrics.counters::<ByKind>(Name::Decisions);
        let outcome = |kind| outcomes.get_or_create_owned(&ByKind { kind });
        let kept = caches.open("decisions", BOUNDS, |question, _, grounds| weigh(question, grounds));
        kept.suspend();
        let decisions = Arc::new(Self {
            authz: AuthzClient::new(caller),
            changes: changes.clone(),
            kept,
            outcomes: Outcomes {
                remembered: outcome("remembered"),
                asked: outcome("asked"),
                asked_for_truth: outcome("asked_for_truth"),
                unanswered: outcome("unanswered"),
            },
        });
        changes.listen(Arc::<Self>::clone(&decisions));
        decisions
    }

    async fn decide(&self, cx: &Context, permission: &str) -> Result<bool> {
        let user = cx.user_id()?;
        if !self.changes.are_believed() {
            self.outcomes.asked_for_truth.inc();
            return Ok(self.ask(cx, user, permission, Consistency::LATEST.to_owned()).await?.allowed);
        }
        if let Some(allowed) = self.kept.get(&Asked { user, permission }) {
            self.outcomes.remembered.inc();
            return Ok(allowed);
        }
        let question = Question { user: user.into(), permission: permission.into() };
        let read = async || {
            self.outcomes.asked.inc();
            // What this process has heard, the answer must know of: else it could be kept with nothing left to drop it.
            let known = self.changes.token().map_or_else(|| Consistency::LATEST.to_owned(), |token| token.to_string());
            let reply = self.ask(cx, user, permission, known).await?;
            let grounds = [Ground::User(user.into())]
                .into_iter()
                .chain(reply.group_ids.into_iter().map(|group| Ground::Group(group.into())))
                .chain(reply.roles.into_iter().map(|role| Ground::Role(role.into())));
            Ok(Filled::tagged(reply.allowed, grounds))
        };
        self.kept.fill(question, read).await
    }

    async fn ask(&self, cx: &Context, user: &str, permission: &str, known: String) -> Result<AuthorizeReply> {
        let request =
            AuthorizeRequest { user_id: user.to_owned(), permission: permission.to_owned(), consistency_token: known };
        self.authz.authorize(cx, request).await.map_err(|error| {
            self.outcomes.unanswered.inc();
            Error::new(503, "authorization_unavailable", "Whether this is allowed cannot be decided just now.")
                .retry_after(Duration::from_secs(1))
                .with_source(error)
        })
    }
}

impl Decide for Decisions {
    fn decide<'a>(&'a self, cx: &'a Context, permission: &'a str) -> BoxFuture<'a, Result<bool>> {
        Box::pin(self.decide(cx, permission))
    }
}

impl Listen for Decisions {
    fn changed(&self, change: Change<'_>) {
        self.kept.invalidate_tag(&match change {
            Change::User(user) => Ground::User(user.into()),
            Change::Group(group) => Ground::Group(group.into()),
            Change::Role(role) => Ground::Role(role.into()),
        });
    }

    fn lost(&self) {
        self.kept.suspend();
    }

    fn fresh(&self) {
        self.kept.resume();
    }
}

impl std::fmt::Debug for Decisions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decisions").field("kept", &self.kept.len()).finish_non_exhaustive()
    }
}

fn weigh(question: &Question, grounds: &[Ground]) -> u64 {
    let texts = grounds.iter().map(|ground| match ground {
        Ground::User(text) | Ground::Group(text) | Ground::Role(text) => text.len() as u64 + TAG_BYTES,
    });
    ENTRY_BYTES + (question.user.len() + question.permission.len()) as u64 + texts.sum::<u64>()
}

impl Hash for Question {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Asked { user: &self.user, permission: &self.permission }.hash(state);
    }
}

impl Hash for Asked<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.user.hash(state);
        self.permission.hash(state);
    }
}

impl Equivalent<Question> for Asked<'_> {
    fn equivalent(&self, question: &Question) -> bool {
        *self.user == *question.user && *self.permission == *question.permission
    }
}
