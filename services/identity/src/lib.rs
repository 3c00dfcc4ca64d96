//! The identity service: who the users are.
//!
//! Owns users, their password hashes, groups, and the roles that users and groups hold. Serves registration, users, groups,
//! and, to other services, whether a password is right and which roles a user has. Sends the platform's mail, as jobs. Publishes
//! `evt.identity.user.*` and `evt.identity.group.*`. Never issues a token, never decides a permission, never lets a password or a hash leave it.

mod bootstrap;
pub mod domain;
mod error;
mod granting;
mod handlers;
mod hashing;
mod mail;
mod notices;
pub mod settings;
mod storage;
mod users;

use std::sync::Arc;

use kernel::authorization::Decide;
use kernel::endpoint::Routes;
use kernel::{Caller, Context, Database, Error, JobWorkers, Lifecycle, Parts, Result, Service, StartError};
use subjects::ServiceContract;
use subjects::authz::v1::AuthzClient;
use subjects::identity::v1::{
    AddGroupMemberReply, AddGroupMemberRequest, AssignGroupRoleReply, AssignGroupRoleRequest, AssignRoleReply,
    AssignRoleRequest, CONTRACT, ChangePasswordReply, ChangePasswordRequest, CreateGroupRequest, CreateUserRequest,
    DeleteGroupReply, DeleteGroupRequest, DeleteUserReply, DeleteUserRequest, DisableUserRequest, EnableUserRequest,
    GetGroupRequest, GetMeRequest, GetUserRequest, GetUserRolesReply, GetUserRolesRequest, Group, IdentityService,
    IsRoleHeldReply, IsRoleHeldRequest, ListGroupMembersReply, ListGroupMembersRequest, ListGroupsReply,
    ListGroupsRequest, ListUserRolesReply, ListUserRolesRequest, ListUsersReply, ListUsersRequest, RegisterReply,
    RegisterRequest, RemoveGroupMemberReply, RemoveGroupMemberRequest, RemoveGroupRoleReply, RemoveGroupRoleRequest,
    RemoveRoleReply, RemoveRoleRequest, SendMail, SpreadNotice, UpdateGroupRequest, UpdateUserRequest, User,
    VerifyCredentialsReply, VerifyCredentialsRequest, register,
};

use hashing::Hashing;
use mail::Post;
pub use settings::IdentitySettings;
use users::Users;

/// Letters that one process has under way: a mail server has room for few.
const MAILS_AT_ONCE: u32 = 8;

/// The service.
#[derive(Debug)]
pub struct Identity {
    settings: IdentitySettings,
    database: Database,
    hashing: Hashing,
    users: Arc<Users>,
    post: Post,
    authz: AuthzClient<Caller>,
    decide: Arc<dyn Decide>,
}

impl Service for Identity {
    type Settings = IdentitySettings;

    fn contract() -> &'static ServiceContract {
        &CONTRACT
    }

    async fn build(parts: Parts<IdentitySettings>) -> Result<Self, StartError> {
        let hashing = Hashing::new(parts.compute.clone(), parts.settings.hash_parameters()?);
        let identity = Self {
            settings: parts.settings.clone(),
            database: parts.database.clone(),
            hashing,
            users: Users::new(parts.database.clone(), &parts.changes, &parts.caches),
            post: Post::open(parts.settings.mail_url.as_ref(), &parts.settings.mail_sender)?,
            authz: AuthzClient::new(parts.caller.clone()),
            decide: Arc::clone(&parts.decide),
        };
        let made = &identity;
        parts.with_database(bootstrap::TIMEOUT, |cx| async move { bootstrap::ensure_admin(made, &cx).await }).await?;
        Ok(identity)
    }

    fn routes(routes: &mut Routes<Self>) {
        register(routes);
    }

    fn jobs(jobs: &mut JobWorkers<Self>) {
        jobs.concurrency("mail", MAILS_AT_ONCE);
        jobs.handle::<SendMail, _>(|identity, run| Box::pin(handlers::send_mail(identity, run)));
        jobs.handle::<SpreadNotice, _>(|identity, run| Box::pin(handlers::spread_notice(identity, run)));
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

    async fn update_user(&self, cx: &Context, request: UpdateUserRequest) -> Result<User> {
        handlers::update_user(self, cx, request).await
    }

    async fn change_password(&self, cx: &Context, request: ChangePasswordRequest) -> Result<ChangePasswordReply> {
        handlers::change_password(self, cx, request).await
    }

    async fn disable_user(&self, cx: &Context, request: DisableUserRequest) -> Result<User> {
        handlers::disable_user(self, cx, request).await
    }

    async fn enable_user(&self, cx: &Context, request: EnableUserRequest) -> Result<User> {
        handlers::enable_user(self, cx, request).await
    }

    async fn delete_user(&self, cx: &Context, request: DeleteUserRequest) -> Result<DeleteUserReply> {
        handlers::delete_user(self, cx, request).await
    }

    async fn list_user_roles(&self, cx: &Context, request: ListUserRolesRequest) -> Result<ListUserRolesReply> {
        handlers::list_user_roles(self, cx, request).await
    }

    async fn assign_role(&self, cx: &Context, request: AssignRoleRequest) -> Result<AssignRoleReply> {
        handlers::assign_role(self, cx, request).await
    }

    async fn remove_role(&self, cx: &Context, request: RemoveRoleRequest) -> Result<RemoveRoleReply> {
        handlers::remove_role(self, cx, request).await
    }

    async fn list_groups(&self, cx: &Context, request: ListGroupsRequest) -> Result<ListGroupsReply> {
        handlers::list_groups(self, cx, request).await
    }

    async fn create_group(&self, cx: &Context, request: CreateGroupRequest) -> Result<Group> {
        handlers::create_group(self, cx, request).await
    }

    async fn get_group(&self, cx: &Context, request: GetGroupRequest) -> Result<Group> {
        handlers::get_group(self, cx, request).await
    }

    async fn update_group(&self, cx: &Context, request: UpdateGroupRequest) -> Result<Group> {
        handlers::update_group(self, cx, request).await
    }

    async fn delete_group(&self, cx: &Context, request: DeleteGroupRequest) -> Result<DeleteGroupReply> {
        handlers::delete_group(self, cx, request).await
    }

    async fn list_group_members(
        &self,
        cx: &Context,
        request: ListGroupMembersRequest,
    ) -> Result<ListGroupMembersReply> {
        handlers::list_group_members(self, cx, request).await
    }

    async fn add_group_member(&self, cx: &Context, request: AddGroupMemberRequest) -> Result<AddGroupMemberReply> {
        handlers::add_group_member(self, cx, request).await
    }

    async fn remove_group_member(
        &self,
        cx: &Context,
        request: RemoveGroupMemberRequest,
    ) -> Result<RemoveGroupMemberReply> {
        handlers::remove_group_member(self, cx, request).await
    }

    async fn assign_group_role(&self, cx: &Context, request: AssignGroupRoleRequest) -> Result<AssignGroupRoleReply> {
        handlers::assign_group_role(self, cx, request).await
    }

    async fn remove_group_role(&self, cx: &Context, request: RemoveGroupRoleRequest) -> Result<RemoveGroupRoleReply> {
        handlers::remove_group_role(self, cx, request).await
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

    async fn is_role_held(&self, cx: &Context, request: IsRoleHeldRequest) -> Result<IsRoleHeldReply> {
        handlers::is_role_held(self, cx, request).await
    }
}
