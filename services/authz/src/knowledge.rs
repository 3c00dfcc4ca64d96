//! What this process knows: the roles made ready for deciding, and what users hold, each read once and kept until an event
//! says that it changed. Where what is kept is not new enough, or may have been missed, the truth is read past it.

use std::collections::{BTreeSet, HashMap};
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures::future::BoxFuture;
use kernel::authorization::{Change, Changes, Consistency, ConsistencyToken, Decide, Listen, WAIT_MAX};
use kernel::cache::{Bounds, Cache, Caches, Filled};
use kernel::{Caller, Context, Database, Error, Result};
use subjects::identity::v1::{GetUserRolesRequest, IdentityClient};
use uuid::Uuid;

use crate::domain::{Catalogue, Engine, Fault, GroupHolding, Holdings, Pattern, Policy, Principal};
use crate::storage;

/// What is kept of users at most.
const HOLDINGS_BOUNDS: Bounds = Bounds { entries: 100_000, weight: 32 * 1024 * 1024 };

/// There is one policy.
const POLICY_BOUNDS: Bounds = Bounds { entries: 1, weight: 1 };

/// Bytes of a user's holdings beside the names in it, about.
const HOLDINGS_BYTES: u64 = 208;
/// Bytes of a name in it beside its text, about.
const NAME_BYTES: u64 = 28;

/// What holdings rest on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Ground {
    User(Uuid),
    Group(Box<str>),
}

/// Knows roles and holdings.
#[derive(Debug)]
pub(crate) struct Knowledge {
    database: Database,
    identity: IdentityClient<Caller>,
    catalogue: Catalogue,
    changes: Changes,
    holdings: Cache<Uuid, Arc<Held>, Ground>,
    engine: Cache<(), Arc<Engine>>,
    /// Reads of the whole truth that have begun.
    truths: AtomicU64,
    /// The number of the last one that ended, and what it brought for as long as somebody makes use of that.
    last_truth: tokio::sync::Mutex<(u64, Weak<Engine>)>,
    engines: AtomicU64,
}

/// What a decision about one user is made from.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) engine: Arc<Engine>,
    pub(crate) holdings: Arc<Held>,
    /// Whether the engine knows all roles, and not only those that decide.
    pub(crate) is_whole: bool,
    /// Everything up to here is known in it; `None` where that cannot be told.
    pub(crate) token: Option<ConsistencyToken>,
}

/// What a user holds, made ready for the engine that decided last.
#[derive(Debug)]
pub(crate) struct Held {
    holdings: Holdings,
    ready: Mutex<Option<Principal>>,
}

impl Held {
    fn new(holdings: Holdings) -> Arc<Self> {
        Arc::new(Self { holdings, ready: Mutex::default() })
    }

    /// Whether the user has the permission, or all that a pattern covers.
    fn permits(&self, engine: &Engine, permission: &str) -> bool {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Ok(allowed)) = ready.as_ref().map(|principal| engine.decide(principal, permission)) {
            return allowed;
        }
        let principal = ready.insert(engine.principal(self.holdings.roles()));
        engine.decide(principal, permission).unwrap_or(false)
    }
}

impl Deref for Held {
    type Target = Holdings;

    fn deref(&self) -> &Holdings {
        &self.holdings
    }
}

/// What is kept, at a moment.
#[derive(Debug)]
struct Look<'a> {
    knowledge: &'a Knowledge,
    token: Option<ConsistencyToken>,
    engine: Arc<Engine>,
}

impl Look<'_> {
    /// What is known of a user.
    async fn at_user(&self, cx: &Context, user_id: Uuid) -> Result<Known> {
        let Look { knowledge, token, engine } = self;
        let holdings = match knowledge.holdings.get(&user_id) {
            Some(holdings) => holdings,
            // Seldom: apart, so that the answer from what is kept is not moved about with the room that reading takes.
            None => Box::pin(knowledge.fill_holdings(cx, user_id)).await?,
        };
        Ok(Known { engine: Arc::clone(engine), holdings, is_whole: true, token: *token })
    }
}

impl Knowledge {
    pub(crate) fn new(
        database: Database,
        identity: IdentityClient<Caller>,
        catalogue: Catalogue,
        changes: &Changes,
        caches: &Caches,
    ) -> Arc<Self> {
        let knowledge = Arc::new(Self {
            database,
            identity,
            catalogue,
            changes: changes.clone(),
            holdings: caches.open("holdings", HOLDINGS_BOUNDS, |_, holdings, _| weigh(holdings)),
            engine: caches.open("policy", POLICY_BOUNDS, |(), _, _| 1),
            truths: AtomicU64::new(0),
            last_truth: tokio::sync::Mutex::new((0, Weak::new())),
            engines: AtomicU64::new(0),
        });
        knowledge.lost();
        changes.listen(Arc::<Self>::clone(&knowledge));
        knowledge
    }

    /// What is known of a user with all roles beside, as new as it must be. Waits a little for what is on its way here; what
    /// does not come is read, so this is for who must know of roles that the user does not hold.
    pub(crate) async fn of_user(&self, cx: &Context, user_id: Uuid, consistency: Consistency) -> Result<Known> {
        if self.is_at_hand(consistency).await {
            return self.look().await?.at_user(cx, user_id).await;
        }
        let token = self.changes.token();
        let engine = self.read_truth().await?;
        let holdings = Held::new(self.read_holdings(cx, user_id).await?);
        Ok(Known { engine, holdings, is_whole: true, token })
    }

    /// The same, only to decide: where it must be read, of the policy only the user's part is. So nobody makes others wait for
    /// thousands of roles, be it by asking for the truth, or while what is kept cannot be used.
    pub(crate) async fn of_holder(&self, cx: &Context, user_id: Uuid, consistency: Consistency) -> Result<Known> {
        if self.is_at_hand(consistency).await {
            return self.look().await?.at_user(cx, user_id).await;
        }
        let mut known = Box::pin(self.read_holders(cx, BTreeSet::from([user_id]))).await?;
        Ok(known.remove(&user_id).expect("who is read is known"))
    }

    /// The same of several, all by one policy.
    pub(crate) async fn of_holders(
        &self,
        cx: &Context,
        users: BTreeSet<Uuid>,
        consistency: Consistency,
    ) -> Result<HashMap<Uuid, Known>> {
        if !self.is_at_hand(consistency).await {
            return self.read_holders(cx, users).await;
        }
        let look = self.look().await?;
        let mut known = HashMap::with_capacity(users.len());
        for user_id in users {
            known.insert(user_id, look.at_user(cx, user_id).await?);
        }
        Ok(known)
    }

    #[tracing::instrument(name = "domain.permission.read", skip_all)]
    async fn read_holders(&self, cx: &Context, users: BTreeSet<Uuid>) -> Result<HashMap<Uuid, Known>> {
        let token = self.changes.token();
        let mut held = Vec::with_capacity(users.len());
        for user_id in users {
            held.push((user_id, self.read_holdings(cx, user_id).await?));
        }
        let roles: BTreeSet<&str> = held.iter().flat_map(|(_, holdings)| holdings.roles()).collect();
        let roles: Vec<String> = roles.into_iter().map(str::to_owned).collect();
        let policy = storage::load_policy_of(&mut *self.database.pool().acquire().await?, &roles).await?;
        let engine = self.compile(policy);
        let known = held.into_iter().map(|(user_id, holdings)| {
            let (engine, holdings) = (Arc::clone(&engine), Held::new(holdings));
            (user_id, Known { engine, holdings, is_whole: false, token })
        });
        Ok(known.collect())
    }

    /// Whether the permission, or one that the pattern covers, is declared or named by a role.
    pub(crate) async fn knows(&self, known: &Known, pattern: &Pattern) -> Result<bool> {
        if known.engine.knows(pattern) || known.is_whole {
            return Ok(known.engine.knows(pattern));
        }
        // Named by a role which the user does not hold, and declared no more, or by another version of this service.
        Box::pin(async { Ok(storage::is_named(&mut *self.database.pool().acquire().await?, pattern).await?) }).await
    }

    /// What a user holds, for who has found nothing kept of it.
    #[tracing::instrument(name = "domain.permission.resolve", skip_all)]
    async fn fill_holdings(&self, cx: &Context, user_id: Uuid) -> Result<Arc<Held>> {
        let read = async || {
            let holdings = self.read_holdings(cx, user_id).await?;
            let groups = holdings.groups.iter().map(|group| Ground::Group(group.id.as_str().into()));
            let grounds: Vec<_> = groups.chain([Ground::User(user_id)]).collect();
            // Of nobody nothing is kept: who asks for made-up users drives nobody out.
            let counts = holdings.counts;
            let held = Held::new(holdings);
            Ok(if counts { Filled::tagged(held, grounds) } else { Filled::passing(held) })
        };
        self.holdings.fill(user_id, read).await
    }

    async fn look(&self) -> Result<Look<'_>> {
        // Asked before anything is read, which may be newer, and is never older.
        let token = self.changes.token();
        Ok(Look { knowledge: self, token, engine: self.engine().await? })
    }

    /// Whether what is kept may be used for an answer that must be so new.
    async fn is_at_hand(&self, consistency: Consistency) -> bool {
        let is_reached = match consistency {
            Consistency::Any => true,
            Consistency::AtLeast(token) => self.changes.reach(token, WAIT_MAX).await,
            Consistency::Latest => false,
        };
        is_reached && self.changes.are_believed()
    }

    /// The policy as it is kept; read where it is not.
    async fn engine(&self) -> Result<Arc<Engine>> {
        match self.engine.get(&()) {
            Some(engine) => Ok(engine),
            None => Box::pin(self.engine.fill((), async || self.read_engine().await.map(Filled::new))).await,
        }
    }

    /// The policy as it is stored at some moment from now on. One reads at a time, and what that brings is for all who came before
    /// it began: however many ask for the truth, others are served in between.
    async fn read_truth(&self) -> Result<Arc<Engine>> {
        let arrived = self.truths.load(Ordering::Relaxed);
        let mut last = self.last_truth.lock().await;
        if last.0 > arrived
            && let Some(engine) = last.1.upgrade()
        {
            return Ok(engine);
        }
        let number = self.truths.fetch_add(1, Ordering::Relaxed) + 1;
        let engine = self.read_engine().await?;
        *last = (number, Arc::downgrade(&engine));
        Ok(engine)
    }

    /// The policy as it is stored.
    async fn read_engine(&self) -> Result<Arc<Engine>> {
        let policy = storage::load_policy(&mut *self.database.pool().acquire().await?).await?;
        Ok(self.compile(policy))
    }

    fn compile(&self, policy: Policy) -> Arc<Engine> {
        let version = self.engines.fetch_add(1, Ordering::Relaxed);
        Arc::new(Engine::new(policy, self.catalogue.permissions(), version))
    }

    /// What a user holds, as identity says now.
    pub(crate) async fn read_holdings(&self, cx: &Context, user_id: Uuid) -> Result<Holdings> {
        let request = GetUserRolesRequest { user_id: user_id.to_string() };
        let reply = match self.identity.get_user_roles(cx, request).await {
            Ok(reply) => reply,
            Err(error) if error.status() == 404 => return Ok(Holdings::default()),
            Err(error) => return Err(error),
        };
        let groups = reply.groups.into_iter();
        let groups = groups.map(|group| GroupHolding { id: group.id, name: group.name, roles: group.roles });
        Ok(Holdings { counts: true, own: reply.roles, groups: groups.collect() })
    }
}

impl Decide for Knowledge {
    /// Authz decides on its own operations by what it knows, and asks nobody for it but identity.
    fn decide<'a>(&'a self, cx: &'a Context, permission: &'a str) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let Ok(user_id) = parse_user_id(cx.user_id()?) else { return Ok(false) };
            let known = self.of_holder(cx, user_id, Consistency::Any).await.map_err(|error| {
                let detail = "Whether this is allowed cannot be decided just now.";
                Error::new(503, "authorization_unavailable", detail).with_source(error)
            })?;
            Ok(known.allows(permission))
        })
    }
}

impl Known {
    /// Whether the user has the permission, or all that a pattern covers.
    pub(crate) fn allows(&self, permission: &str) -> bool {
        self.holdings.permits(&self.engine, permission)
    }
}

impl Listen for Knowledge {
    fn changed(&self, change: Change<'_>) {
        match change {
            Change::User(user) => {
                if let Ok(user) = user.parse() {
                    self.holdings.invalidate(&user);
                    self.holdings.invalidate_tag(&Ground::User(user));
                }
            }
            Change::Group(group) => self.holdings.invalidate_tag(&Ground::Group(group.into())),
            Change::Role(_) => self.engine.invalidate(&()),
        }
    }

    fn lost(&self) {
        self.holdings.suspend();
        self.engine.suspend();
    }

    fn fresh(&self) {
        self.holdings.resume();
        self.engine.resume();
    }
}

fn weigh(holdings: &Holdings) -> u64 {
    let own = holdings.own.iter();
    let grouped = holdings.groups.iter().flat_map(|group| group.roles.iter().chain([&group.id, &group.name]));
    HOLDINGS_BYTES + own.chain(grouped).map(|name| name.len() as u64 + NAME_BYTES).sum::<u64>()
}

/// Takes the hyphenated form only, in any case.
pub(crate) fn parse_user_id(given: &str) -> Result<Uuid, Fault> {
    const INVALID: Fault = Fault::new("/userId", "invalid_id", "Give the id of a user, a UUID.");
    if given.len() != uuid::fmt::Hyphenated::LENGTH {
        return Err(INVALID);
    }
    Uuid::try_parse(given).map_err(|_| INVALID)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Description, Role, RoleName};

    fn engine(version: u64, permissions: &[&str]) -> Engine {
        let role = Role {
            name: RoleName::parse("/name", "support").unwrap(),
            description: Description::default(),
            permissions: permissions.iter().map(|text| Pattern::parse(text).unwrap()).collect(),
            inherits: std::iter::empty().collect(),
            built_in: false,
        };
        Engine::new(std::iter::once(role).collect(), [], version)
    }

    #[test]
    fn what_was_made_ready_for_one_policy_does_not_decide_by_another() {
        let held = Held::new(Holdings { counts: true, own: vec!["support".to_owned()], groups: Vec::new() });
        let (before, after) = (engine(0, &["identity.users.read"]), engine(1, &["audit.entries.read"]));

        for _ in 0..2 {
            assert!(held.permits(&before, "identity.users.read") && !held.permits(&before, "audit.entries.read"));
            assert!(held.permits(&after, "audit.entries.read") && !held.permits(&after, "identity.users.read"));
        }
    }
}
