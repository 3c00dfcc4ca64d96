//! The authz service: who may do what.
//!
//! Owns roles, what they permit and what they inherit. Serves them, and decisions with their reasons. Publishes
//! `evt.authz.role.*`. Asks identity which roles a user holds; never stores that, never issues a token.

mod catalogue;
pub mod domain;
mod error;
mod granting;
mod handlers;
mod knowledge;
mod storage;

use std::sync::Arc;

use kernel::authorization::Decide;
use kernel::endpoint::Routes;
use kernel::settings::NoSettings;
use kernel::{Caller, Context, Database, Error, Parts, Result, Service, StartError};
use subjects::ServiceContract;
use subjects::authz::v1::{
    AuthorizeReply, AuthorizeRequest, AuthzService, CONTRACT, CheckBatchReply, CheckBatchRequest, CheckReply,
    CheckRequest, CreateRoleRequest, DeleteRoleReply, DeleteRoleRequest, ExplainReply, ExplainRequest, GetRoleRequest,
    GrantPermissionRequest, ListPermissionsReply, ListPermissionsRequest, ListRolesReply, ListRolesRequest,
    ListUserPermissionsReply, ListUserPermissionsRequest, Permission, RecordDenialReply, RecordDenialRequest,
    ReviewGrantReply, ReviewGrantRequest, RevokePermissionRequest, Role, UpdateRoleRequest, register,
};
use subjects::identity::v1::IdentityClient;

use domain::Catalogue;
use knowledge::Knowledge;

/// The service.
#[derive(Debug)]
pub struct Authz {
    database: Database,
    identity: IdentityClient<Caller>,
    /// What the contract declares, in order of name.
    declared: Vec<Permission>,
    catalogue: Catalogue,
    knowledge: Arc<Knowledge>,
}

impl Service for Authz {
    type Settings = NoSettings;

    fn contract() -> &'static ServiceContract {
        &CONTRACT
    }

    async fn build(parts: Parts<NoSettings>) -> Result<Self, StartError> {
        let Parts { database, caller, changes, caches, .. } = parts;
        let declared = catalogue::declared();
        let catalogue = catalogue::catalogue(&declared);
        let identity = IdentityClient::new(caller);
        let knowledge = Knowledge::new(database.clone(), identity.clone(), catalogue.clone(), &changes, &caches);
        Ok(Self { database, identity, declared, catalogue, knowledge })
    }

    fn routes(routes: &mut Routes<Self>) {
        register(routes);
    }

    fn decide(self: &Arc<Self>) -> Option<Arc<dyn Decide>> {
        Some(Arc::<Knowledge>::clone(&self.knowledge))
    }
}

impl AuthzService<Context> for Authz {
    type Error = Error;

    async fn list_roles(&self, cx: &Context, request: ListRolesRequest) -> Result<ListRolesReply> {
        handlers::list_roles(self, cx, request).await
    }

    async fn create_role(&self, cx: &Context, request: CreateRoleRequest) -> Result<Role> {
        handlers::create_role(self, cx, request).await
    }

    async fn get_role(&self, cx: &Context, request: GetRoleRequest) -> Result<Role> {
        handlers::get_role(self, cx, request).await
    }

    async fn update_role(&self, cx: &Context, request: UpdateRoleRequest) -> Result<Role> {
        handlers::update_role(self, cx, request).await
    }

    async fn delete_role(&self, cx: &Context, request: DeleteRoleRequest) -> Result<DeleteRoleReply> {
        handlers::delete_role(self, cx, request).await
    }

    async fn grant_permission(&self, cx: &Context, request: GrantPermissionRequest) -> Result<Role> {
        handlers::grant_permission(self, cx, request).await
    }

    async fn revoke_permission(&self, cx: &Context, request: RevokePermissionRequest) -> Result<Role> {
        handlers::revoke_permission(self, cx, request).await
    }

    async fn list_permissions(&self, _cx: &Context, request: ListPermissionsRequest) -> Result<ListPermissionsReply> {
        handlers::list_permissions(self, &request)
    }

    async fn check(&self, cx: &Context, request: CheckRequest) -> Result<CheckReply> {
        handlers::check(self, cx, request).await
    }

    async fn check_batch(&self, cx: &Context, request: CheckBatchRequest) -> Result<CheckBatchReply> {
        handlers::check_batch(self, cx, request).await
    }

    async fn explain(&self, cx: &Context, request: ExplainRequest) -> Result<ExplainReply> {
        handlers::explain(self, cx, request).await
    }

    async fn list_user_permissions(
        &self,
        cx: &Context,
        request: ListUserPermissionsRequest,
    ) -> Result<ListUserPermissionsReply> {
        handlers::list_user_permissions(self, cx, request).await
    }

    async fn authorize(&self, cx: &Context, request: AuthorizeRequest) -> Result<AuthorizeReply> {
        handlers::authorize(self, cx, request).await
    }

    async fn record_denial(&self, cx: &Context, request: RecordDenialRequest) -> Result<RecordDenialReply> {
        handlers::record_denial(self, cx, request).await
    }

    async fn review_grant(&self, cx: &Context, request: ReviewGrantRequest) -> Result<ReviewGrantReply> {
        handlers::review_grant(self, cx, request).await
    }
}
