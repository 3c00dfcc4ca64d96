//! Somebody signs out.

use kernel::{Context, Result};
use subjects::auth::v1::session_revoked::Reason;
use subjects::auth::v1::{LogoutReply, SessionRevoked};

use crate::Auth;
use crate::domain::{RevokedReason, SessionId};
use crate::error::AuthError;
use crate::storage;

/// Ends the caller's session; its refresh token is dead with the answer. Doing it again changes nothing.
pub(crate) async fn logout(auth: &Auth, cx: &Context) -> Result<LogoutReply> {
    let session_id = SessionId::parse(cx.session_id()?).ok_or(AuthError::InvalidToken)?;
    let mut tx = auth.database.begin(cx).await?;
    if let Some(user_id) = storage::revoke_session(&mut tx, session_id, RevokedReason::Logout, cx.now()).await? {
        let revoked = SessionRevoked {
            session_id: session_id.to_string(),
            user_id: user_id.to_string(),
            reason: Reason::Logout.into(),
        };
        tx.publish(&revoked).await?;
        tx.commit().await?;
    }
    Ok(LogoutReply {})
}
