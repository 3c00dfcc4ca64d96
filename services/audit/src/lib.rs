//! The audit service: who did what.
//!
//! Owns the immutable log. Takes records from the stream `AUDIT` and from nowhere else, gives each its place in a chain of
//! hashes, signs the chain, lists, exports and checks it. Publishes its checkpoints and no event; changes no entry, and
//! removes whole segments only, under a checkpoint, where it is told for how long to keep them.

mod bucket;
pub mod domain;
mod error;
mod handlers;
pub mod settings;
mod signing;
mod storage;

use std::sync::Arc;

use kernel::endpoint::Routes;
use kernel::{
    Bucket, BucketReader, Clock, Consumers, Context, Database, Error, Lifecycle, Parts, Random, Result, Service,
    StartError,
};
use proof::PublicKey;
use subjects::ServiceContract;
use subjects::audit::v1::{
    AuditService, CONTRACT, Entry, ExportEntriesReply, ExportEntriesRequest, GetEntryRequest, ListCheckpointsReply,
    ListCheckpointsRequest, ListEntriesReply, ListEntriesRequest, VerifyReply, VerifyRequest, register,
};

use domain::SigningKey;
pub use settings::AuditSettings;

/// The service.
#[derive(Debug)]
pub struct Audit {
    settings: AuditSettings,
    database: Database,
    bucket: BucketReader,
    key: SigningKey,
    clock: Clock,
    random: Random,
}

impl Service for Audit {
    type Settings = AuditSettings;

    fn contract() -> &'static ServiceContract {
        &CONTRACT
    }

    async fn build(parts: Parts<AuditSettings>) -> Result<Self, StartError> {
        Ok(Self {
            key: signing::read_key(parts.process.key_file.as_deref())?,
            settings: parts.settings,
            database: parts.database,
            bucket: parts.caller.bucket(Bucket::Checkpoints),
            clock: parts.clock,
            random: parts.random,
        })
    }

    fn routes(routes: &mut Routes<Self>) {
        register(routes);
    }

    fn consumers(consumers: &mut Consumers<Self>) {
        consumers
            .batch("AUDIT", "audit", |audit, tx, messages| Box::pin(handlers::append_records(audit, tx, messages)));
    }

    async fn run(self: Arc<Self>, life: Lifecycle) -> Result<(), StartError> {
        signing::keep(&self, &life).await;
        Ok(())
    }
}

impl Audit {
    /// The keys whose signatures count.
    fn trusted_keys(&self) -> Vec<PublicKey> {
        self.settings.former_public_keys().chain([self.key.public_key()]).collect()
    }
}

impl AuditService<Context> for Audit {
    type Error = Error;

    async fn list_entries(&self, cx: &Context, request: ListEntriesRequest) -> Result<ListEntriesReply> {
        handlers::list_entries(self, cx, request).await
    }

    async fn get_entry(&self, cx: &Context, request: GetEntryRequest) -> Result<Entry> {
        handlers::get_entry(self, cx, request).await
    }

    async fn export_entries(&self, cx: &Context, request: ExportEntriesRequest) -> Result<ExportEntriesReply> {
        handlers::export_entries(self, cx, request).await
    }

    async fn list_checkpoints(&self, cx: &Context, request: ListCheckpointsRequest) -> Result<ListCheckpointsReply> {
        handlers::list_checkpoints(self, cx, request).await
    }

    async fn verify(&self, cx: &Context, request: VerifyRequest) -> Result<VerifyReply> {
        handlers::verify(self, cx, request).await
    }
}
