//! Infrastructure of every service: process life, NATS, endpoints, calls, database, telemetry.
//!
//! What a service's author needs is re-exported here. No business rule lives in this crate, and no other crate talks to
//! the broker, reads the system clock, starts a thread or sets up telemetry.

mod caller;
mod clock;
pub mod compute;
mod context;
pub mod data;
mod error;
mod lifecycle;
pub mod metrics;
mod nats;
mod random;
pub mod settings;
pub mod telemetry;
pub mod tokens;
mod trace;
mod wire;

pub use caller::{Caller, Reply};
pub use clock::Clock;
pub use compute::ComputePool;
pub use context::{Actor, Client, Context};
pub use data::{AuditAction, Database, Transaction, page};
pub use error::{Error, Result, StartError};
pub use lifecycle::Lifecycle;
pub use metrics::Metrics;
pub use random::{Ids, Random};
pub use settings::Settings;
pub use subjects::{FieldError, Problem};
pub use tokens::{Claims, TokenVerifier};
pub use trace::TraceContext;
