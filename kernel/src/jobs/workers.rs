//! The handlers of the jobs that a service declares.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt as _};
use subjects::{JobArguments, JobContract, ServiceContract};

use super::engine::Engine;
use super::job::Patience;
use super::queue::QueueHandle;
use super::rate::Rate;
use super::run::{Outcome, Run, Work};
use super::slots::Concurrency;
use crate::StartError;

type Handler<S> = dyn for<'a> Fn(&'a S, &'a Run) -> BoxFuture<'a, Outcome> + Send + Sync;

/// The jobs of a service, by which it works in the background.
pub struct JobWorkers<S> {
    contract: &'static ServiceContract,
    handlers: BTreeMap<(&'static str, &'static str), Registration<S>>,
    concurrency: BTreeMap<&'static str, u32>,
    rates: BTreeMap<&'static str, Rate>,
}

struct Registration<S> {
    contract: &'static JobContract,
    handler: Arc<Handler<S>>,
}

/// The work of one queue.
struct Queue<S> {
    service: Arc<S>,
    kinds: BTreeMap<&'static str, Registration<S>>,
}

/// Jobs of a queue that one process runs at once unless it is told otherwise.
const CONCURRENCY: u32 = 50;

impl<S: Send + Sync + 'static> JobWorkers<S> {
    /// None yet, for a service of this contract.
    pub fn new(contract: &'static ServiceContract) -> Self {
        Self { contract, handlers: BTreeMap::new(), concurrency: BTreeMap::new(), rates: BTreeMap::new() }
    }

    /// Runs jobs of the type `T`, whose contract says how often they are tried and how long they may take.
    ///
    /// A job may run more than once: its runner may die behind its effect. So the handler does nothing twice that must be done
    /// once, and says in its doc why running it twice is safe.
    ///
    /// ```text
    /// jobs.handle::<SendMail, _>(|mail, run| Box::pin(handlers::send_mail(mail, run)));
    /// ```
    pub fn handle<T, H>(&mut self, handler: H)
    where
        T: JobArguments,
        H: for<'a> Fn(&'a S, &'a Run) -> BoxFuture<'a, Outcome> + Send + Sync + 'static,
    {
        let contract = T::CONTRACT;
        let registration = Registration { contract, handler: Arc::new(handler) };
        self.handlers.insert((contract.queue, contract.kind), registration);
    }

    /// How many jobs of a queue this process runs at once; 50 where it is not said.
    pub fn concurrency(&mut self, queue: &'static str, concurrency: u32) {
        self.concurrency.insert(queue, concurrency);
    }

    /// How often jobs of a queue may begin, over all instances of the service; as often as there is room where it is not said.
    pub fn rate(&mut self, queue: &'static str, rate: Rate) {
        self.rates.insert(queue, rate);
    }

    /// Starts them all. Fails when the handlers are not those that the contract declares.
    pub(crate) fn start(self, service: &Arc<S>, engine: &Engine) -> Result<Vec<QueueHandle>, StartError> {
        let declared: Vec<_> = self.contract.jobs.iter().map(|job| (job.queue, job.kind)).collect();
        let handled: Vec<_> = self.handlers.keys().copied().collect();
        if declared != handled {
            let message = format!("the contract declares the jobs {declared:?}, the service handles {handled:?}");
            return Err(StartError::new(message));
        }
        let mut queues: BTreeMap<&'static str, BTreeMap<&'static str, Registration<S>>> = BTreeMap::new();
        for ((queue, kind), registration) in self.handlers {
            queues.entry(queue).or_default().insert(kind, registration);
        }
        let start = |(queue, kinds)| {
            let concurrency = self.concurrency.get(queue).copied().unwrap_or(CONCURRENCY);
            engine.run_queue(
                queue,
                Concurrency::Here(concurrency),
                self.rates.get(queue).copied(),
                Arc::new(Queue { service: Arc::clone(service), kinds }),
            )
        };
        Ok(queues.into_iter().map(start).collect())
    }
}

impl<S: Send + Sync + 'static> Work for Queue<S> {
    fn run<'a>(&'a self, run: &'a Run) -> BoxFuture<'a, Outcome> {
        let Some(registration) = self.kinds.get(run.job.place.kind.to_string().as_str()) else {
            // Another version of this service may know it.
            return std::future::ready(Outcome::NoHandler).boxed();
        };
        if let Err(error) = (registration.contract.check)(&run.job.arguments) {
            let said = format!("the arguments are not those of the job: {error:?}");
            return std::future::ready(Outcome::Undecodable(said)).boxed();
        }
        (registration.handler)(&self.service, run)
    }

    fn patience(&self, kind: &str) -> Patience {
        self.kinds.get(kind).map_or_else(Patience::default, |registration| Patience {
            attempts_max: registration.contract.attempts_max,
            timeout_ms: registration.contract.timeout_ms,
            backoff_base_ms: registration.contract.backoff_base_ms,
            backoff_max_ms: registration.contract.backoff_max_ms,
        })
    }

    fn is_in_process(&self) -> bool {
        true
    }
}

impl<S> fmt::Debug for JobWorkers<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.handlers.keys()).finish()
    }
}
