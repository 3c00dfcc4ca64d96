//! What a service gives to the kernel, and what the kernel gives to it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use subjects::ServiceContract;

use crate::authorization::{Changes, Decide};
use crate::endpoint::Routes;
use crate::jobs::{Engine, JobWorkers};
use crate::readiness::Readiness;
use crate::settings::{Process, Settings};
use crate::sockets::InheritedSockets;
use crate::status::Status;
use crate::{
    Caches, Caller, Clock, ComputePool, Consumers, Context, Database, Feeds, Ids, Lifecycle, Metrics, Random,
    StartError, TokenVerifier, start,
};

/// A deployable service. `kernel::run::<Self>()` is all of its `main`.
pub trait Service: Sized + Send + Sync + 'static {
    /// Its own settings, in the section that bears its name.
    type Settings: Settings;

    /// Whether it has a schema; without one [`Parts::database`] refuses every use.
    const DATABASE: bool = true;

    /// What it serves, publishes, calls and consumes.
    fn contract() -> &'static ServiceContract;

    /// Builds it. The broker is connected and the schema is the right one; nothing is served yet.
    fn build(parts: Parts<Self::Settings>) -> impl Future<Output = Result<Self, StartError>> + Send;

    /// Registers what it serves: `identity::v1::register(routes)`. Every endpoint of the contract must be there.
    fn routes(_routes: &mut Routes<Self>) {}

    /// Takes the messages of the durable consumers that the contract declares, all of them.
    fn consumers(_consumers: &mut Consumers<Self>) {}

    /// Who decides the permissions of its own endpoints; by default authz, which is asked where nothing is at hand.
    fn decide(self: &Arc<Self>) -> Option<Arc<dyn Decide>> {
        None
    }

    /// Runs the jobs that the contract declares, all of them.
    fn jobs(_jobs: &mut JobWorkers<Self>) {}

    /// What it does beside answering, from when it serves until `life` stops. Returning before that is a failure.
    fn run(self: Arc<Self>, life: Lifecycle) -> impl Future<Output = Result<(), StartError>> + Send {
        async move {
            life.stopping().await;
            Ok(())
        }
    }
}

/// What a service is built from.
#[derive(Debug)]
pub struct Parts<T> {
    /// The service's own settings, checked.
    pub settings: T,
    /// What every process is told.
    pub process: Process,
    /// Its database; refuses every use where [`Service::DATABASE`] is false.
    pub database: Database,
    /// For calls of other services: `IdentityClient::new(parts.caller.clone())`.
    pub caller: Caller,
    /// The time.
    pub clock: Clock,
    /// Randomness.
    pub random: Random,
    /// Identifiers.
    pub ids: Ids,
    /// For who is shown tokens outside of the kernel's endpoints: the gateway.
    pub tokens: TokenVerifier,
    /// For what every instance sees as it happens, as its contract's `watches` declare.
    pub feeds: Feeds,
    /// For what is worth keeping at hand.
    pub caches: Caches,
    /// For who keeps what rests on who may what.
    pub changes: Changes,
    /// For who runs queues that no contract declares: the jobs service. Services that declare jobs have it too.
    pub jobs: Option<Engine>,
    /// Decides permissions, for who serves outside of the kernel's endpoints: the gateway.
    pub decide: Arc<dyn Decide>,
    /// Threads for work that keeps a core busy.
    pub compute: ComputePool,
    /// The metrics of the process.
    pub metrics: Metrics,
    /// The life of the process.
    pub life: Lifecycle,
    /// Sockets that were handed down, the admin port's aside.
    pub sockets: InheritedSockets,
    /// Which process this is.
    pub instance: Instance,
    /// Whether the process can serve; a service may add conditions of its own.
    pub readiness: Readiness,
    /// Where this process is, as it tells others.
    pub status: Status,
}

impl<T> Parts<T> {
    /// Does a step that needs the database, in a context in which the service acts for itself and has `timeout` for each
    /// attempt. It is tried again for as long as the database is away or full; so it must be safe to repeat.
    pub async fn with_database<V, F>(
        &self,
        timeout: Duration,
        step: impl Fn(Arc<Context>) -> F + Send + Sync,
    ) -> Result<V, StartError>
    where
        F: Future<Output = Result<V, StartError>> + Send,
        V: Send,
    {
        start::await_database(&self.random, || {
            step(Arc::new(Context::for_service(self.instance.service, &self.clock, &self.random, timeout)))
        })
        .await
    }
}

/// Which process this is.
#[derive(Clone, Debug)]
pub struct Instance {
    /// The service's name.
    pub service: &'static str,
    /// Unique in the world; its id in discovery.
    pub id: String,
    /// What people call it: `1`.
    pub name: String,
}
