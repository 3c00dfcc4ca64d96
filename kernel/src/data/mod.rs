//! PostgreSQL and what rests on it: transactions with their events and audit records, the relay that sends those, durable
//! consumers, migrations, pages of lists.

pub mod migrations;
pub mod provision;
mod session;
