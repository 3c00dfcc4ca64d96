//! Somebody signs in with a password.

use kernel::{Context, Error, Result};
use subjects::auth::v1::{LoginFailed, LoginRequest, SessionCreated, TokenReply};
use subjects::identity::v1::VerifyCredentialsRequest;

use crate::Auth;
use crate::domain::{RefreshToken, Session, SessionId, UserId};
use crate::error::AuthError;
use crate::storage::{self, ClientClaims};

/// Whatever is wrong, address, password or user: the same answer after the same work, and a record of it.
pub(crate) async fn login(auth: &Auth, cx: &Context, request: LoginRequest) -> Result<TokenReply> {
    let LoginRequest { email, password } = request;
    let credentials = VerifyCredentialsRequest { email: email.clone(), password };
    let checked = auth.identity.verify_credentials(cx, credentials).await?;
    if !checked.valid {
        let mut tx = auth.database.begin(cx).await?;
        tx.publish(&LoginFailed { user_id: checked.user_id }).await?;
        tx.commit().await?;
        return Err(AuthError::InvalidCredentials.into());
    }

    let user_id = UserId::parse(&checked.user_id)
        .ok_or_else(|| Error::internal().with_source("identity answered with an id that is none"))?;
    // Before anything is kept, so that whoever is let in gets a token.
    let key = auth.keyring.signing_key(&auth.database, cx.now()).await?;
    let lifetimes = auth.settings.lifetimes();
    // Identity of the version before tells none; nobody had another password then.
    let password_version = checked.password_version.max(1);
    let session = Session::begin(SessionId(cx.new_id()), user_id, password_version, cx.now(), lifetimes);
    let refresh_token = RefreshToken::new(cx.random().bytes());
    let expires_at = session.token_expires_at(session.authenticated_at, lifetimes);
    let client = ClientClaims { ip_address: &cx.client().address, user_agent: &cx.client().user_agent };

    let mut tx = auth.database.begin(cx).await?;
    storage::insert_session(&mut tx, &session, client).await?;
    storage::insert_token(&mut tx, refresh_token.hash(), session.id, session.authenticated_at, expires_at).await?;
    tx.act_as_user(&checked.user_id);
    // Not of a failed login: people type passwords where addresses belong.
    tx.name_actor(&email);
    tx.publish(&SessionCreated { session_id: session.id.to_string(), user_id: checked.user_id }).await?;
    tx.commit().await?;
    Ok(auth.issue(cx, &key, &session, &checked.roles, &refresh_token))
}
