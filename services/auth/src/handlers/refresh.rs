//! A client exchanges its refresh token.

use kernel::{Context, Error, Result, Transaction};
use subjects::auth::v1::session_revoked::Reason;
use subjects::auth::v1::{RefreshRequest, SessionRefreshed, SessionReuseDetected, SessionRevoked, TokenReply};
use subjects::identity::v1::GetUserRolesRequest;

use crate::Auth;
use crate::domain::{Exchange, PasswordMark, RefreshToken, RevokedReason, Session, SessionId, UserId};
use crate::error::AuthError;
use crate::storage;

/// Of any number of exchanges of one token at once, one rotates it and the others repeat its answer.
pub(crate) async fn refresh(auth: &Auth, cx: &Context, request: RefreshRequest) -> Result<TokenReply> {
    let token = RefreshToken::parse(&request.refresh_token).ok_or(AuthError::InvalidToken)?;
    let user_id = storage::find_user_of(&mut *auth.database.pool().acquire().await?, token.hash())
        .await?
        .ok_or(AuthError::InvalidToken)?;
    // Asked before the session is locked: nobody waits for a lock while another service thinks.
    let standing = find_standing(auth, cx, user_id).await?;

    let key = auth.keyring.signing_key(&auth.database, cx.now()).await?;

    let mut tx = auth.database.begin(cx).await?;
    let session = storage::lock_session_of(&mut tx, token.hash()).await?.ok_or(AuthError::InvalidToken)?;
    let kept = storage::find_token(&mut tx, token.hash()).await?.ok_or(AuthError::InvalidToken)?;
    let exchange = session.exchange(&kept, cx.now(), auth.settings.lifetimes());
    let successor = token.successor(&auth.successor_key);
    match (exchange, standing) {
        (Exchange::Refuse, _) => Err(AuthError::InvalidToken.into()),
        (Exchange::Revoke, _) => {
            let detected = SessionReuseDetected { session_id: session.id.to_string(), user_id: user_id.to_string() };
            tx.publish(&detected).await?;
            revoke(tx, cx, &session, RevokedReason::RefreshTokenReused).await
        }
        (Exchange::Rotate | Exchange::Repeat, None) => revoke(tx, cx, &session, RevokedReason::UserGone).await,
        (Exchange::Rotate | Exchange::Repeat, Some(standing)) if !session.counts_under(standing.password) => {
            revoke(tx, cx, &session, RevokedReason::PasswordChanged).await
        }
        (Exchange::Repeat, Some(standing)) => Ok(auth.issue(cx, &key, &session, &standing.roles, &successor)),
        (Exchange::Rotate, Some(standing)) => {
            rotate(auth, cx, tx, &session, &token, &successor).await?;
            Ok(auth.issue(cx, &key, &session, &standing.roles, &successor))
        }
    }
}

/// What the user is now.
struct Standing {
    roles: Vec<String>,
    password: PasswordMark,
}

/// `None` for a user who may not sign in any more.
async fn find_standing(auth: &Auth, cx: &Context, user_id: UserId) -> Result<Option<Standing>> {
    let request = GetUserRolesRequest { user_id: user_id.to_string() };
    match auth.identity.get_user_roles(cx, request).await {
        Ok(reply) => {
            let kept_session = SessionId::parse(&reply.kept_session_id);
            let password = PasswordMark { version: reply.password_version, kept_session };
            Ok(Some(Standing { roles: reply.roles, password }))
        }
        Err(error) if error.status() == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

async fn rotate(
    auth: &Auth,
    cx: &Context,
    mut tx: Transaction,
    session: &Session,
    token: &RefreshToken,
    successor: &RefreshToken,
) -> Result<()> {
    let now = cx.now();
    let expires_at = session.token_expires_at(now, auth.settings.lifetimes());
    storage::insert_token(&mut tx, successor.hash(), session.id, now, expires_at).await?;
    storage::mark_exchanged(&mut tx, token.hash(), successor.hash(), now).await?;
    storage::touch_session(&mut tx, session.id, now).await?;
    let user_id = session.user_id.to_string();
    tx.act_as_user(&user_id);
    tx.publish(&SessionRefreshed { session_id: session.id.to_string(), user_id }).await?;
    tx.commit().await.map(|_| ())
}

/// Ends the session; the caller hears what it would hear of any token that does not count.
async fn revoke(
    mut tx: Transaction,
    cx: &Context,
    session: &Session,
    reason: RevokedReason,
) -> Result<TokenReply, Error> {
    storage::revoke_session(&mut tx, session.id, reason, cx.now()).await?;
    let revoked = SessionRevoked {
        session_id: session.id.to_string(),
        user_id: session.user_id.to_string(),
        reason: Reason::from(reason).into(),
    };
    tx.publish(&revoked).await?;
    tx.commit().await?;
    Err(AuthError::InvalidToken.into())
}
