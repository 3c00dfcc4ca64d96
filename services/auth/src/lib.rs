//! The auth service: who is signed in.
//!
//! Owns sessions, refresh tokens (their hashes) and signing keys (sealed). Serves sign-in, exchange of refresh tokens,
//! sign-out, the public keys and their rotation. Prunes and rotates by itself, as jobs. Consumes what ends the sessions of a user:
//! another password, being disabled, being deleted. Publishes `evt.auth.*`. Asks identity whether a password is right, which roles a user has and by which password
//! they count; never sees a password hash, never stores a token, never decides a permission.

pub mod domain;
mod error;
mod handlers;
mod keys;
pub mod settings;
mod storage;

use kernel::endpoint::Routes;
use kernel::settings::Tokens;
use kernel::{Caller, Clock, Consumers, Context, Database, Error, JobWorkers, Parts, Result, Service, StartError};
use secrecy::ExposeSecret as _;
use subjects::ServiceContract;
use subjects::auth::v1::{
    AuthService, CONTRACT, GetJwksRequest, Jwks, LoginRequest, LogoutReply, LogoutRequest, Prune, RefreshRequest,
    RotateKeys, RotateSigningKeysReply, RotateSigningKeysRequest, TokenReply, register,
};
use subjects::identity::v1::IdentityClient;

use domain::{AccessToken, RefreshToken, Session, SigningKey, SuccessorKey};
use keys::Keyring;
pub use settings::AuthSettings;

/// The service.
#[derive(Debug)]
pub struct Auth {
    settings: AuthSettings,
    /// What every process holds to be a token of ours, and so what ours have to say.
    tokens: Tokens,
    database: Database,
    clock: Clock,
    identity: IdentityClient<Caller>,
    successor_key: SuccessorKey,
    keyring: Keyring,
}

impl Service for Auth {
    type Settings = AuthSettings;

    fn contract() -> &'static ServiceContract {
        &CONTRACT
    }

    async fn build(parts: Parts<AuthSettings>) -> Result<Self, StartError> {
        let heard_of_within = parts.process.tokens.keys_refresh_ms;
        if parts.settings.key_propagation_ms < heard_of_within.saturating_mul(2) {
            let fault =
                "auth.key_propagation_ms must be twice tokens.keys_refresh_ms at least: verifiers would not know a key";
            return Err(StartError::new(fault));
        }
        let master_key = keys::read_master_key(parts.process.key_file.as_deref())?;
        let keyring = Keyring::new(master_key.sealing_key(), parts.settings.key_propagation());
        let (database, made) = (&parts.database, &keyring);
        parts.with_database(keys::TIMEOUT, |cx| async move { made.ensure_key(database, &cx).await }).await?;
        Ok(Self {
            settings: parts.settings,
            tokens: parts.process.tokens,
            database: parts.database,
            clock: parts.clock,
            identity: IdentityClient::new(parts.caller),
            successor_key: master_key.successor_key(),
            keyring,
        })
    }

    fn routes(routes: &mut Routes<Self>) {
        register(routes);
    }

    fn consumers(consumers: &mut Consumers<Self>) {
        consumers
            .batch("EVENTS", "sessions", |auth, tx, messages| Box::pin(handlers::end_sessions(auth, tx, messages)));
    }

    fn jobs(jobs: &mut JobWorkers<Self>) {
        // Few at once: they work on the same rows, beside requests.
        jobs.concurrency("auth", 2);
        jobs.handle::<Prune, _>(|auth, run| Box::pin(handlers::prune(auth, run)));
        jobs.handle::<RotateKeys, _>(|auth, run| Box::pin(handlers::rotate_keys(auth, run)));
    }
}

impl Auth {
    /// The answer to whoever holds `refresh_token` of `session`, with a new access token signed by `key`.
    fn issue(
        &self,
        cx: &Context,
        key: &SigningKey,
        session: &Session,
        roles: &[String],
        refresh_token: &RefreshToken,
    ) -> TokenReply {
        let ttl = self.settings.access_token_ttl();
        let token =
            AccessToken::new(&self.tokens.issuer, &self.tokens.audience, session, roles, cx.new_id(), cx.now(), ttl);
        let access_token = tracing::info_span!("domain.access_token.sign").in_scope(|| token.sign(key));
        TokenReply {
            access_token: access_token.expose_secret().to_owned(),
            refresh_token: refresh_token.reveal().expose_secret().to_owned(),
            token_type: "Bearer".to_owned(),
            expires_in: self.settings.access_token_ttl_ms / 1_000,
            session_id: session.id.to_string(),
        }
    }
}

impl AuthService<Context> for Auth {
    type Error = Error;

    async fn login(&self, cx: &Context, request: LoginRequest) -> Result<TokenReply> {
        handlers::login(self, cx, request).await
    }

    async fn refresh(&self, cx: &Context, request: RefreshRequest) -> Result<TokenReply> {
        handlers::refresh(self, cx, request).await
    }

    async fn logout(&self, cx: &Context, _request: LogoutRequest) -> Result<LogoutReply> {
        handlers::logout(self, cx).await
    }

    async fn get_jwks(&self, cx: &Context, _request: GetJwksRequest) -> Result<Jwks> {
        handlers::get_jwks(self, cx).await
    }

    async fn rotate_signing_keys(
        &self,
        cx: &Context,
        _request: RotateSigningKeysRequest,
    ) -> Result<RotateSigningKeysReply> {
        handlers::rotate_signing_keys(self, cx).await
    }
}
