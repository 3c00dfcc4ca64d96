//! Background jobs: the runner's side of the queue protocol, which ARCHITECTURE.md tells under "One job".
//!
//! A service that declares jobs in its contract runs their queues ([`JobWorkers`]); the jobs service runs every other queue,
//! by having the work done elsewhere ([`Delegate`]). Submitting with a change of one's own is the outbox's; keeping the
//! history, dead letters and queues is the jobs service's.

mod broker;
mod delegate;
mod engine;
mod job;
mod journal;
mod keys;
mod leases;
mod ledger;
mod pull;
mod queue;
mod rate;
mod run;
mod slots;
mod unreadable;
mod workers;

pub use broker::{Envelope, Found, JobBroker, QueueState, Stored, Submission, Ticks};
pub use delegate::{Delegate, Workers};
pub use engine::Engine;
pub(crate) use engine::EngineParts;
pub use job::{Job, Patience};
pub use queue::QueueHandle;
pub use rate::Rate;
pub use run::{Outcome, Run, Work};
pub use slots::Concurrency;
pub use workers::JobWorkers;
