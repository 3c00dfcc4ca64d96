//! The log in its order, page by page, up to a checkpoint.
//!
//! The first page decides what is exported: the part from the first to the last entry of the time asked for, and on to the
//! checkpoint that covers it, which is signed there and then where there is none. Where the next page begins stands in a
//! cursor that only this service can make, so the record of the first page stands for all of them.

use kernel::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use subjects::audit::v1::{ExportEntriesReply, ExportEntriesRequest};
use subjects::free::v1::RawJson;

use super::list_entries::parse_time;
use super::wire::{checkpoint_to_wire, entry_to_wire, read_action};
use crate::domain::Filter;
use crate::error::AuditError;
use crate::storage::{self, Part};
use crate::{Audit, signing};

/// Entries of a page at most.
const PAGE_ENTRIES_MAX: i64 = 1_000;

/// Whose cursors these are.
const LIST: &str = "export";

/// What is left to be exported.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Rest {
    /// The last entry that has been exported.
    behind: i64,
    /// The last entry to be; there is a checkpoint of it.
    last: i64,
}

pub(crate) async fn export_entries(
    audit: &Audit,
    cx: &Context,
    request: ExportEntriesRequest,
) -> Result<ExportEntriesReply> {
    let mut rest = if request.page_token.is_empty() {
        begin(audit, cx, request).await?
    } else {
        audit
            .key
            .open(LIST, &request.page_token)
            .ok_or_else(|| Error::field("/pageToken", "invalid", "is not a token that an export gave"))?
    };

    let mut connection = audit.database.pool().acquire().await?;
    let part = Part { behind: rest.behind, last: rest.last, limit: PAGE_ENTRIES_MAX };
    let page = storage::read_entries(&mut connection, part).await?;
    // Nothing between is left out in silence: where entries are missing the verifier finds the gap.
    rest.behind = page.entries.last().map_or(rest.last, |last| last.sequence);
    let mut items: Vec<RawJson> = page.entries.into_iter().map(|entry| line(&entry_to_wire(entry))).collect();
    if rest.behind < rest.last {
        return Ok(ExportEntriesReply { items, next_page_token: audit.key.seal(LIST, &rest) });
    }
    let checkpoint = storage::find_covering_checkpoint(&mut connection, rest.last).await?;
    let checkpoint = checkpoint.ok_or_else(|| Error::internal().with_source("the checkpoint of an export is gone"))?;
    let RawJson { text } = line(&checkpoint_to_wire(&checkpoint));
    items.push(RawJson { text: format!(r#"{{"checkpoint":{text}}}"#) });
    Ok(ExportEntriesReply { items, next_page_token: String::new() })
}

/// Decides what is exported, and records it.
async fn begin(audit: &Audit, cx: &Context, request: ExportEntriesRequest) -> Result<Rest> {
    let details = subjects::json::encode(&request);
    let filter = parse_times(&request)?;
    let mut tx = audit.database.begin(cx).await?;
    let (first, last) = storage::find_ends(&mut tx, &filter).await?.ok_or(AuditError::NoEntries)?;
    let covering = match storage::find_covering_checkpoint(&mut tx, last).await? {
        Some(covering) => covering,
        None => signing::sign_head(audit, &mut tx).await?,
    };
    tx.record(read_action("audit.entries.exported", "audit_log", "", details)).await?;
    tx.commit().await?;
    Ok(Rest { behind: first - 1, last: covering.sequence })
}

fn parse_times(request: &ExportEntriesRequest) -> Result<Filter, AuditError> {
    let mut faults = Vec::new();
    let mut time = |pointer, given| parse_time(pointer, given).map_err(|fault| faults.push(fault)).ok().flatten();
    let (from, to) = (time("/from", request.from), time("/to", request.to));
    if !faults.is_empty() {
        return Err(AuditError::Invalid(faults));
    }
    Filter::parse(String::new(), String::new(), String::new(), None, from, to).map_err(AuditError::Invalid)
}

fn line<T: subjects::Body>(message: &T) -> RawJson {
    RawJson { text: String::from_utf8(subjects::json::encode(message)).expect("JSON is UTF-8") }
}
