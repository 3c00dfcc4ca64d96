//! Entries of the log, newest first.

use chrono::{DateTime, Utc};
use kernel::page::Page;
use kernel::{Context, Result};
use subjects::Timestamp;
use subjects::audit::v1::{self as wire, ListEntriesReply, ListEntriesRequest};

use super::wire::{entry_to_wire, read_action};
use crate::Audit;
use crate::domain::{Fault, Filter, Outcome};
use crate::error::AuditError;
use crate::storage;

pub(crate) async fn list_entries(audit: &Audit, cx: &Context, request: ListEntriesRequest) -> Result<ListEntriesReply> {
    let list = name_list(&request);
    let details = subjects::json::encode(&request);
    let (page_size, page_token) = (request.page_size, request.page_token.clone());
    let filter = parse_filter(request).map_err(AuditError::Invalid)?;
    let page = Page::<i64>::parse(list, page_size, &page_token)?;

    let mut tx = audit.database.begin(cx).await?;
    let read = storage::list_entries(&mut tx, &filter, page.after().copied(), page.limit()).await?;
    tx.record(read_action("audit.entries.listed", "audit_log", "", details)).await?;
    tx.commit().await?;

    let cut_token = read.entries.last().filter(|_| read.is_cut).map(|last| page.token_behind(&last.sequence));
    let (entries, next_page_token) = page.cut(read.entries, |entry| entry.sequence);
    let next_page_token = cut_token.filter(|_| next_page_token.is_empty()).unwrap_or(next_page_token);
    Ok(ListEntriesReply { items: entries.into_iter().map(entry_to_wire).collect(), next_page_token })
}

/// The list that a page token counts for: the request without its page.
fn name_list(request: &ListEntriesRequest) -> String {
    let filter = ListEntriesRequest { page_size: 0, page_token: String::new(), ..request.clone() };
    format!("entries {filter:?}")
}

fn parse_filter(request: ListEntriesRequest) -> Result<Filter, Vec<Fault>> {
    let mut faults = Vec::new();
    let outcome = parse_outcome(request.outcome).map_err(|fault| faults.push(fault)).ok().flatten();
    let mut time = |pointer, given| parse_time(pointer, given).map_err(|fault| faults.push(fault)).ok().flatten();
    let (from, to) = (time("/from", request.from), time("/to", request.to));
    match Filter::parse(request.actor, request.action, request.target, outcome, from, to) {
        Ok(filter) if faults.is_empty() => Ok(filter),
        Ok(_) => Err(faults),
        Err(more) => Err(faults.into_iter().chain(more).collect()),
    }
}

fn parse_outcome(number: i32) -> Result<Option<Outcome>, Fault> {
    match wire::Outcome::try_from(number) {
        Ok(wire::Outcome::Unspecified) => Ok(None),
        Ok(wire::Outcome::Success) => Ok(Some(Outcome::Success)),
        Ok(wire::Outcome::Denied) => Ok(Some(Outcome::Denied)),
        Ok(wire::Outcome::Failure) => Ok(Some(Outcome::Failure)),
        Err(_) => {
            let detail = "Give SUCCESS, DENIED or FAILURE, or leave it out.";
            Err(Fault { pointer: "/outcome", code: "invalid", detail })
        }
    }
}

pub(super) fn parse_time(pointer: &'static str, given: Option<Timestamp>) -> Result<Option<DateTime<Utc>>, Fault> {
    let Some(given) = given else { return Ok(None) };
    let detail = "Give a time such as 2026-01-31T23:59:59Z.";
    given.try_into().map(Some).map_err(|_| Fault { pointer, code: "invalid_time", detail })
}
