//! The identity service: who the users are.
//!
//! Owns users, their password hashes and the roles they hold. Serves registration, users, and, to other services, whether
//! a password is right and which roles a user has. Publishes `evt.identity.user.*`. Never issues a token, never decides a
//! permission, never lets a password or a hash leave it.

mod bootstrap;
pub mod domain;
mod error;
mod handlers;
mod hashing;
pub mod settings;
mod storage;
mod users;

use std::sync::Arc;

use kernel::endpoint::Routes;
use kernel::{Context, Database, Error, Lifecycle, Parts, Result, Service, StartError};
use subjects::ServiceContract;
use subjects::identity::v1::{
    CONTRACT, CreateUserRequest, GetMeRequest, GetUserRequest, GetUserRolesReply, GetUserRolesRequest, IdentityService,
    ListUsersReply, ListUsersRequest, RegisterReply, RegisterRequest, User, VerifyCredentialsReply,
    VerifyCredentialsRequest, register,
};

use hashing::Hashing;
pub use settings::IdentitySettings;
use users::Users;

/// The service.
#[derive(Debug)]
pub struct Identity {
    settings: IdentitySettings,
    database: Database,
    hashing: Hashing,
    users: Arc<Users>,
}

impl Service for Identity {
    type Settings = IdentitySettings;

    fn contract() -> &'static ServiceContract {
        &CONTRACT
    }

    async fn build(parts: Parts<IdentitySettings>) -> Result<Self, StartError> {
        let hashing = Hashing::new(parts.compute.clone(), parts.settings.hash_parameters()?);
        let users = Users::new(parts.database.clone(), &parts.changes, &parts.caches);
        let identity = Self { settings: parts.settings.clone(), database: parts.database.clone(), hashing, users };
        let made = &identity;
        parts.with_database(bootstrap::TIMEOUT, |cx| async move { bootstrap::ensure_admin(made, &cx).await }).await?;
        Ok(identity)
    }

    fn routes(routes: &mut Routes<Self>) {
        register(routes);
    }

    async fn run(self: Arc<Self>, life: Lifecycle) -> Result<(), StartError> {
        self.hashing.release_idle_memory(life.stopping()).await;
        Ok(())
    }
}

impl IdentityService<Context> for Identity {
    type Error = Error;

    async fn register(&self, cx: &Context, request: RegisterRequest) -> Result<RegisterReply> {
        handlers::register(self, cx, request).await
    }

    async fn create_user(&self, cx: &Context, request: CreateUserRequest) -> Result<User> {
        handlers::create_user(self, cx, request).await
    }

    async fn get_user(&self, cx: &Context, request: GetUserRequest) -> Result<User> {
        handlers::get_user(self, cx, request).await
    }

    async fn get_me(&self, cx: &Context, _request: GetMeRequest) -> Result<User> {
        handlers::get_me(self, cx).await
    }

    async fn list_users(&self, cx: &Context, request: ListUsersRequest) -> Result<ListUsersReply> {
        handlers::list_users(self, cx, request).await
    }

    async fn verify_credentials(
        &self,
        cx: &Context,
        request: VerifyCredentialsRequest,
    ) -> Result<VerifyCredentialsReply> {
        handlers::verify_credentials(self, cx, request).await
    }

    async fn get_user_roles(&self, cx: &Context, request: GetUserRolesRequest) -> Result<GetUserRolesReply> {
        handlers::get_user_roles(self, cx, request).await
    }
}
