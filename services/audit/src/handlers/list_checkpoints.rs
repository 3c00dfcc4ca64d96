//! Signed checkpoints, newest first.

use kernel::page::Page;
use kernel::{Context, Result};
use subjects::audit::v1::{ListCheckpointsReply, ListCheckpointsRequest};

use super::wire::{checkpoint_to_wire, read_action};
use crate::Audit;
use crate::storage;

pub(crate) async fn list_checkpoints(
    audit: &Audit,
    cx: &Context,
    request: ListCheckpointsRequest,
) -> Result<ListCheckpointsReply> {
    let page = Page::<i64>::parse("checkpoints", request.page_size, &request.page_token)?;
    let mut tx = audit.database.begin(cx).await?;
    let checkpoints = storage::list_checkpoints(&mut tx, page.after().copied(), page.limit()).await?;
    let details = subjects::json::encode(&request);
    tx.record(read_action("audit.checkpoints.listed", "audit_log", "", details)).await?;
    tx.commit().await?;
    let (checkpoints, next_page_token) = page.cut(checkpoints, |checkpoint| checkpoint.sequence);
    Ok(ListCheckpointsReply { items: checkpoints.iter().map(checkpoint_to_wire).collect(), next_page_token })
}
