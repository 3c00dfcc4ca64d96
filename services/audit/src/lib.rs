//! The audit service: who did what.
//!
//! Owns the immutable log. Takes records from the stream `AUDIT` and from nowhere else, gives each its place in a chain of
//! hashes, and lists them. Publishes nothing; changes and removes nothing.

pub mod domain;
mod error;
mod handlers;
mod storage;

use kernel::endpoint::Routes;
use kernel::settings::NoSettings;
use kernel::{Consumers, Context, Database, Error, Parts, Result, Service, StartError};
use subjects::ServiceContract;
use subjects::audit::v1::{AuditService, CONTRACT, ListEntriesReply, ListEntriesRequest, register};

/// The service.
#[derive(Debug)]
pub struct Audit {
    database: Database,
}

impl Service for Audit {
    type Settings = NoSettings;

    fn contract() -> &'static ServiceContract {
        &CONTRACT
    }

    async fn build(parts: Parts<NoSettings>) -> Result<Self, StartError> {
        Ok(Self { database: parts.database })
    }

    fn routes(routes: &mut Routes<Self>) {
        register(routes);
    }

    fn consumers(consumers: &mut Consumers<Self>) {
        consumers
            .batch("AUDIT", "audit", |audit, tx, messages| Box::pin(handlers::append_records(audit, tx, messages)));
    }
}

impl AuditService<Context> for Audit {
    type Error = Error;

    async fn list_entries(&self, cx: &Context, request: ListEntriesRequest) -> Result<ListEntriesReply> {
        handlers::list_entries(self, cx, request).await
    }
}
