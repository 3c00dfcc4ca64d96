//! One entry, by id.

use kernel::{Context, Result};
use subjects::audit::v1::{Entry, GetEntryRequest};
use uuid::Uuid;

use super::wire::{entry_to_wire, read_action};
use crate::Audit;
use crate::domain::Fault;
use crate::error::AuditError;
use crate::storage;

pub(crate) async fn get_entry(audit: &Audit, cx: &Context, request: GetEntryRequest) -> Result<Entry> {
    let id = parse_id(&request.entry_id)?;
    let mut tx = audit.database.begin(cx).await?;
    let entry = storage::find_entry(&mut tx, id).await?.ok_or(AuditError::NotFound(id))?;
    let target = id.to_string();
    tx.record(read_action("audit.entry.read", "audit_entry", &target, b"{}".to_vec())).await?;
    tx.commit().await?;
    Ok(entry_to_wire(entry))
}

/// Takes the hyphenated form only, in any case.
fn parse_id(given: &str) -> Result<Uuid, AuditError> {
    let invalid = Fault { pointer: "/entryId", code: "invalid_id", detail: "Give the id of an entry, a UUID." };
    let id = (given.len() == uuid::fmt::Hyphenated::LENGTH).then(|| Uuid::try_parse(given).ok()).flatten();
    id.ok_or_else(|| AuditError::Invalid(vec![invalid]))
}
