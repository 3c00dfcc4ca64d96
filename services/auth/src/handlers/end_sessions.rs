//! A user has another password, was disabled or is gone: whoever signed in before is signed out.

use kernel::{Error, Message, Result, Transaction};
use subjects::Event as _;
use subjects::auth::v1::SessionRevoked;
use subjects::auth::v1::session_revoked::Reason;
use subjects::identity::v1::{UserDeleted, UserDisabled, UserPasswordChanged};

use crate::Auth;
use crate::domain::{PasswordMark, RevokedReason, SessionId, UserId};
use crate::storage;

/// Sessions of one user that are ended at once. Any more end when their token is exchanged next, which asks identity; so does a
/// session that began with the earlier password while this ran.
const SESSIONS_MAX: i64 = 1_000;

/// What ends sessions: those of this user that do not count under this password.
struct Ending {
    user_id: UserId,
    password: PasswordMark,
    reason: RevokedReason,
}

/// A session ends once, so hearing of it again changes nothing. Nor does the order, since the versions of passwords have one: who
/// was disabled and enabled again keeps what began after that, however late this is heard of.
pub(crate) async fn end_sessions(auth: &Auth, tx: &mut Transaction, messages: &[Message]) -> Result<()> {
    let mut endings = messages.iter().map(read).collect::<Result<Vec<_>>>()?;
    // One order of locks for everybody.
    endings.sort_by_key(|ending| (ending.user_id.0, ending.password.version));
    for Ending { user_id, password, reason } in endings {
        let ended = storage::revoke_sessions_of(tx, user_id, password, reason, auth.clock.now(), SESSIONS_MAX).await?;
        for session_id in ended {
            let revoked = SessionRevoked {
                session_id: session_id.to_string(),
                user_id: user_id.to_string(),
                reason: Reason::from(reason).into(),
            };
            tx.publish(&revoked).await?;
        }
    }
    Ok(())
}

fn read(message: &Message) -> Result<Ending> {
    let subject = message.subject();
    let (user_id, version, kept_session, reason) = if subject == UserPasswordChanged::CONTRACT.subject {
        let changed: UserPasswordChanged = message.decode()?;
        let kept_session = SessionId::parse(&changed.kept_session_id);
        (changed.user_id, changed.password_version, kept_session, RevokedReason::PasswordChanged)
    } else if subject == UserDisabled::CONTRACT.subject {
        let disabled: UserDisabled = message.decode()?;
        (disabled.user_id, disabled.password_version, None, RevokedReason::UserGone)
    } else if subject == UserDeleted::CONTRACT.subject {
        let deleted: UserDeleted = message.decode()?;
        // Nobody comes back under the id.
        (deleted.user_id, u32::MAX, None, RevokedReason::UserGone)
    } else {
        return Err(Error::internal().with_source("the event ends no sessions"));
    };
    let user_id = UserId::parse(&user_id);
    let user_id = user_id.ok_or_else(|| Error::internal().with_source("the event names no user"))?;
    Ok(Ending { user_id, password: PasswordMark { version, kept_session }, reason })
}
