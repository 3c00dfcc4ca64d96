//! Infrastructure of every service: process life, NATS, endpoints, calls, database, telemetry.
//!
//! What a service's author needs is re-exported here. No business rule lives in this crate, and no other crate talks to
//! the broker, reads the system clock, starts a thread or sets up telemetry.

mod admin;
pub mod authorization;
mod bucket;
pub mod cache;
mod caller;
mod clock;
pub mod compute;
mod context;
pub mod data;
mod discovery;
pub mod endpoint;
mod error;
pub mod feed;
mod if_match;
pub mod jobs;
mod lifecycle;
pub mod metrics;
mod nats;
mod random;
pub mod readiness;
mod run;
mod service;
pub mod settings;
mod sockets;
mod start;
mod status;
pub mod telemetry;
pub mod tokens;
mod trace;
mod wire;

pub use bucket::{BucketReader, Stored};
pub use cache::{Cache, Caches};
pub use caller::{Caller, Reply};
pub use clock::Clock;
pub use compute::ComputePool;
pub use context::{Actor, Client, Context};
pub use data::{AuditAction, Bucket, Committed, Consumers, Database, Message, Transaction, page};
pub use error::{Error, Result, StartError};
pub use feed::Feeds;
pub use jobs::JobWorkers;
pub use lifecycle::Lifecycle;
pub use metrics::Metrics;
pub use random::{Ids, Random};
pub use readiness::Readiness;
pub use run::run;
pub use service::{Instance, Parts, Service};
pub use settings::Settings;
pub use sockets::InheritedSockets;
pub use start::{Running, Start, start};
pub use status::Status;
pub use subjects::{FieldError, Problem};
pub use tokens::{Claims, TokenVerifier};
pub use trace::TraceContext;
