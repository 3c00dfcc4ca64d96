//! Somebody was refused what the gateway serves by itself: the live tail of events.

use kernel::{AuditAction, Context, Result};
use subjects::audit::v1::Outcome;
use subjects::authz::v1::{RecordDenialReply, RecordDenialRequest};

use crate::Authz;
use crate::domain::Pattern;
use crate::error::AuthzError;
use crate::knowledge::parse_user_id;

pub(crate) async fn record_denial(
    authz: &Authz,
    cx: &Context,
    request: RecordDenialRequest,
) -> Result<RecordDenialReply> {
    let user_id = parse_user_id(&request.user_id).map_err(AuthzError::from)?;
    let permission = Pattern::parse(&request.permission).map_err(AuthzError::from)?;

    let mut tx = authz.database.begin(cx).await?;
    tx.act_as_user(&user_id.to_string());
    tx.record(AuditAction {
        action: "authz.tail_events.denied",
        target_type: "endpoint",
        target_id: "TailEvents",
        outcome: Outcome::Denied,
        details: serde_json::json!({ "permission": permission.as_str() }).to_string(),
    })
    .await?;
    tx.commit().await?;
    Ok(RecordDenialReply {})
}
