//! PostgreSQL and what rests on it: transactions with their events and audit records, the relay that sends those, durable
//! consumers, migrations, pages of lists.

mod database;
pub mod measures;
pub mod migrations;
pub mod outbox;
pub mod page;
pub mod provision;
mod record;
pub mod relay;
mod session;
mod transaction;

pub use database::Database;
pub use record::AuditAction;
pub use transaction::Transaction;
