//! A user has another password: whoever signed in with an earlier one is signed out.

use kernel::{Error, Message, Result, Transaction};
use subjects::auth::v1::SessionRevoked;
use subjects::auth::v1::session_revoked::Reason;
use subjects::identity::v1::UserPasswordChanged;

use crate::Auth;
use crate::domain::{PasswordMark, SessionId, UserId};
use crate::storage;

/// Sessions of one user that are ended at once. Any more end when their token is exchanged next, which asks identity; so does a
/// session that began with the earlier password while this ran.
const SESSIONS_MAX: i64 = 1_000;

/// A session ends once, so hearing of it again changes nothing. Nor does the order, since the versions of passwords have one.
pub(crate) async fn end_sessions(auth: &Auth, tx: &mut Transaction, messages: &[Message]) -> Result<()> {
    let mut changes = Vec::new();
    for message in messages {
        let changed: UserPasswordChanged = message.decode()?;
        let user_id = UserId::parse(&changed.user_id);
        let user_id = user_id.ok_or_else(|| Error::internal().with_source("the event names no user"))?;
        let kept_session = SessionId::parse(&changed.kept_session_id);
        changes.push((user_id, PasswordMark { version: changed.password_version, kept_session }));
    }
    // One order of locks for everybody.
    changes.sort_by_key(|(user_id, password)| (user_id.0, password.version));
    for (user_id, password) in changes {
        let ended = storage::revoke_sessions_of(tx, user_id, password, auth.clock.now(), SESSIONS_MAX).await?;
        for session_id in ended {
            let revoked = SessionRevoked {
                session_id: session_id.to_string(),
                user_id: user_id.to_string(),
                reason: Reason::PasswordChanged.into(),
            };
            tx.publish(&revoked).await?;
        }
    }
    Ok(())
}
