//! PostgreSQL and what rests on it: transactions with their events and audit records, the relay that sends those, durable
//! consumers, migrations, pages of lists.

pub mod consumer;
mod database;
pub mod measures;
pub mod migrations;
pub mod outbox;
pub mod page;
pub mod provision;
mod publisher;
mod record;
pub mod relay;
mod session;
mod transaction;

pub use consumer::{Consumers, Message};
pub use database::Database;
pub use outbox::Bucket;
pub use record::AuditAction;
pub use transaction::{Committed, Transaction};
