//! What this process knows: the roles made ready for deciding, and what users hold, each read once and kept until an event
//! says that it changed. Where what is kept is not new enough, or may have been missed, the truth is read past it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::BoxFuture;
use kernel::authorization::{Change, Changes, Consistency, ConsistencyToken, Decide, Listen, WAIT_MAX};
use kernel::cache::{Bounds, Cache, Caches, Filled};
use kernel::{Caller, Context, Database, Error, Result};
use subjects::identity::v1::{GetUserRolesRequest, IdentityClient};
use uuid::Uuid;

use crate::domain::{Catalogue, Engine, Fault, GroupHolding, Holdings, Policy};
use crate::storage;

/// What is kept of users at most.
const HOLDINGS_BOUNDS: Bounds = Bounds { entries: 100_000, weight: 32 * 1024 * 1024 };

/// There is one policy.
const POLICY_BOUNDS: Bounds = Bounds { entries: 1, weight: 1 };

/// Bytes of a user's holdings beside the names in it, about.
const HOLDINGS_BYTES: u64 = 160;
/// Bytes of a name in it beside its text, about.
const NAME_BYTES: u64 = 24;

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
    holdings: Cache<Uuid, Arc<Holdings>, Ground>,
    engine: Cache<(), Arc<Engine>>,
    engines: AtomicU64,
}

/// What a decision about one user is made from.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) engine: Arc<Engine>,
    pub(crate) holdings: Arc<Holdings>,
    /// Everything up to here is known in it; `None` where that cannot be told.
    pub(crate) token: Option<ConsistencyToken>,
}

/// What is known at a moment.
#[derive(Debug)]
pub(crate) struct Look<'a> {
    knowledge: &'a Knowledge,
    /// Whether what is kept may be used.
    at_hand: bool,
    token: Option<ConsistencyToken>,
    engine: Arc<Engine>,
}

impl Look<'_> {
    /// What is known of a user.
    #[tracing::instrument(name = "domain.permission.resolve", skip_all)]
    pub(crate) async fn at_user(&self, cx: &Context, user_id: Uuid) -> Result<Known> {
        let Look { knowledge, token, engine, .. } = self;
        let read = async || {
            let holdings = knowledge.read_holdings(cx, user_id).await?;
            let groups = holdings.groups.iter().map(|group| Ground::Group(group.id.as_str().into()));
            let grounds: Vec<_> = groups.chain([Ground::User(user_id)]).collect();
            // Of nobody nothing is kept: who asks for made-up users drives nobody out.
            let counts = holdings.counts;
            let holdings = Arc::new(holdings);
            Ok(if counts { Filled::tagged(holdings, grounds) } else { Filled::passing(holdings) })
        };
        let holdings = if self.at_hand {
            knowledge.holdings.get_or_fill(user_id, read).await?
        } else {
            Arc::new(knowledge.read_holdings(cx, user_id).await?)
        };
        Ok(Known { engine: Arc::clone(engine), holdings, token: *token })
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
            engines: AtomicU64::new(0),
        });
        knowledge.lost();
        changes.listen(Arc::<Self>::clone(&knowledge));
        knowledge
    }

    /// What is known of a user, as new as it must be.
    pub(crate) async fn of_user(&self, cx: &Context, user_id: Uuid, consistency: Consistency) -> Result<Known> {
        self.look(consistency).await?.at_user(cx, user_id).await
    }

    /// The same, only to decide about what is declared: where it must be read, of the policy only the user's part is. So nobody
    /// waits for thousands of roles at each decision while what is kept cannot be used.
    pub(crate) async fn of_holder(&self, cx: &Context, user_id: Uuid, consistency: Consistency) -> Result<Known> {
        if self.is_at_hand(consistency).await {
            return self.look_at_hand().await?.at_user(cx, user_id).await;
        }
        let token = self.changes.token();
        let holdings = self.read_holdings(cx, user_id).await?;
        let roles: Vec<String> = holdings.roles().map(str::to_owned).collect();
        let policy = storage::load_policy_of(&mut *self.database.pool().acquire().await?, &roles).await?;
        Ok(Known { engine: self.compile(policy), holdings: Arc::new(holdings), token })
    }

    /// A look at what is known, for one user or several. Waits a little for what is on its way here; what does not come is
    /// read.
    pub(crate) async fn look(&self, consistency: Consistency) -> Result<Look<'_>> {
        if self.is_at_hand(consistency).await {
            return self.look_at_hand().await;
        }
        let token = self.changes.token();
        Ok(Look { knowledge: self, at_hand: false, token, engine: self.read_engine().await? })
    }

    async fn look_at_hand(&self) -> Result<Look<'_>> {
        // Asked before anything is read, which may be newer, and is never older.
        let token = self.changes.token();
        Ok(Look { knowledge: self, at_hand: true, token, engine: self.engine().await? })
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
        self.engine.get_or_fill((), async || self.read_engine().await.map(Filled::new)).await
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
        let principal = self.engine.principal(self.holdings.roles());
        self.engine.decide(&principal, permission).unwrap_or(false)
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
