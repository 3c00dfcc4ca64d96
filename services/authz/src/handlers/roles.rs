//! Roles: listed, made, shown, changed, deleted. Each change is made on all roles, under a lock, so that no two changes
//! together make a cycle.

use chrono::TimeDelta;
use kernel::page::Page;
use kernel::{Context, Error, Result};
use subjects::Endpoint;
use subjects::authz::v1::{
    CREATE_ROLE, CreateRoleRequest, DeleteRoleReply, DeleteRoleRequest, GRANT_PERMISSION, GetRoleRequest,
    GrantPermissionRequest, ListRolesReply, ListRolesRequest, PermissionGranted, PermissionRevoked, REVOKE_PERMISSION,
    RevokePermissionRequest, Role as WireRole, RoleCreated, RoleDeleted, RoleUpdated, UPDATE_ROLE, UpdateRoleRequest,
};
use subjects::identity::v1::IsRoleHeldRequest;

use crate::Authz;
use crate::domain::{Description, Fault, Pattern, PolicyError, Role, RoleName, parse_inherits, parse_permissions};
use crate::error::AuthzError;
use crate::granting::{self, Giver};
use crate::storage::{self, StoredRole};

/// How long the name of a deleted role is given to no other. Who was about to assign the old one by then has done so, and that shows,
/// or has been given up: nothing that assigns roles may take longer than 10 s, and clocks differ by a little.
const NAME_RESTS: TimeDelta = TimeDelta::seconds(15);

pub(crate) async fn list_roles(authz: &Authz, _cx: &Context, request: ListRolesRequest) -> Result<ListRolesReply> {
    let page = Page::<String>::parse("roles", request.page_size, &request.page_token)?;
    let mut connection = authz.database.pool().acquire().await?;
    let roles = storage::list_roles(&mut connection, page.after().map(String::as_str), page.limit()).await?;
    let (roles, next_page_token) = page.cut(roles, |stored| stored.role.name.to_string());
    Ok(ListRolesReply { items: roles.into_iter().map(Into::into).collect(), next_page_token })
}

pub(crate) async fn get_role(authz: &Authz, _cx: &Context, request: GetRoleRequest) -> Result<WireRole> {
    let name = parse_name(&request.role)?;
    let mut connection = authz.database.pool().acquire().await?;
    let stored = storage::find_role(&mut connection, &name).await?.ok_or_else(|| not_found(&name))?;
    Ok(stored.into())
}

pub(crate) async fn create_role(authz: &Authz, cx: &Context, request: CreateRoleRequest) -> Result<WireRole> {
    let role = Role {
        name: RoleName::parse("/name", &request.name).map_err(AuthzError::from)?,
        description: Description::parse(&request.description).map_err(AuthzError::from)?,
        permissions: parse_permissions(&request.permissions).map_err(AuthzError::from)?,
        inherits: parse_inherits(&request.inherits).map_err(AuthzError::from)?,
        built_in: false,
    };
    known(authz, &role.permissions, "/permissions")?;
    let giver = Giver::find(authz, cx).await?;
    let looked_at = cx.now();
    // Who holds the name from a role that was deleted must not get the new one by that.
    if is_held(authz, cx, &role.name).await? {
        return Err(AuthzError::HeldFromBefore(role.name).into());
    }

    let mut tx = authz.database.begin(cx).await?;
    let mut policy = storage::lock_policy(&mut tx).await?;
    if let Some(lacking) = giver.first_lacking(&policy, None, &role) {
        drop(tx);
        return Err(granting::refuse(authz, cx, &CREATE_ROLE, &role.name, &lacking).await?.into());
    }
    // Who was found worthy of the deleted role may be just about to hold its name, where nobody holds it yet. What counts is
    // when that was looked at.
    let free_at = storage::find_deletion(&mut tx, &role.name).await?.map(|deleted_at| deleted_at + NAME_RESTS);
    if let Some(wait) = free_at.and_then(|free_at| (free_at - looked_at).to_std().ok()) {
        return Err(AuthzError::JustDeleted(role.name, wait).into());
    }
    policy.create(role.clone()).map_err(AuthzError::from)?;
    let now = cx.now();
    let revision = storage::insert_role(&mut tx, &role, now).await?;
    tx.publish(&RoleCreated {
        role: role.name.to_string(),
        permissions: permissions_to_wire(&role),
        inherits: inherits_to_wire(&role),
    })
    .await?;
    let committed = tx.commit().await?;
    let stored = StoredRole { role, created_at: now, updated_at: now, revision };
    Ok(WireRole { consistency_token: committed.consistency_token, ..stored.into() })
}

pub(crate) async fn update_role(authz: &Authz, cx: &Context, request: UpdateRoleRequest) -> Result<WireRole> {
    let name = parse_name(&request.role)?;
    let description = request.description.as_deref().map(Description::parse).transpose().map_err(AuthzError::from)?;
    let permissions = request.permissions.map(|list| parse_permissions(&list.items)).transpose();
    let permissions = permissions.map_err(AuthzError::from)?;
    let inherits = request.inherits.map(|list| parse_inherits(&list.items)).transpose().map_err(AuthzError::from)?;
    known(authz, permissions.iter().flatten(), "/permissions")?;
    let change = |role: &mut Role| {
        role.description = description.unwrap_or_else(|| role.description.clone());
        role.permissions = permissions.unwrap_or_else(|| role.permissions.clone());
        role.inherits = inherits.unwrap_or_else(|| role.inherits.clone());
    };
    let event = |role: &Role| RoleUpdated {
        role: role.name.to_string(),
        permissions: permissions_to_wire(role),
        inherits: inherits_to_wire(role),
    };
    apply(authz, cx, &UPDATE_ROLE, &name, change, event).await
}

pub(crate) async fn grant_permission(authz: &Authz, cx: &Context, request: GrantPermissionRequest) -> Result<WireRole> {
    let name = parse_name(&request.role)?;
    let permission = Pattern::parse(&request.permission).map_err(AuthzError::from)?;
    known(authz, [&permission], "/permission")?;
    let event =
        |role: &Role| PermissionGranted { role: role.name.to_string(), permission: permission.as_str().to_owned() };
    let change = |role: &mut Role| _ = role.permissions.insert(permission.clone());
    apply(authz, cx, &GRANT_PERMISSION, &name, change, event).await
}

/// The permission need not be known any more: what a role names can always be taken from it.
pub(crate) async fn revoke_permission(
    authz: &Authz,
    cx: &Context,
    request: RevokePermissionRequest,
) -> Result<WireRole> {
    let name = parse_name(&request.role)?;
    let permission = Pattern::parse(&request.permission).map_err(AuthzError::from)?;
    let event =
        |role: &Role| PermissionRevoked { role: role.name.to_string(), permission: permission.as_str().to_owned() };
    let change = |role: &mut Role| _ = role.permissions.remove(&permission);
    apply(authz, cx, &REVOKE_PERMISSION, &name, change, event).await
}

pub(crate) async fn delete_role(authz: &Authz, cx: &Context, request: DeleteRoleRequest) -> Result<DeleteRoleReply> {
    let name = parse_name(&request.role)?;
    if is_held(authz, cx, &name).await? {
        // A built-in role is told to be one, whoever holds it.
        let policy = storage::load_policy(&mut *authz.database.pool().acquire().await?).await?;
        policy.clone().delete(&name).map_err(AuthzError::from)?;
        return Err(AuthzError::Held(name).into());
    }

    let mut tx = authz.database.begin(cx).await?;
    let mut policy = storage::lock_policy(&mut tx).await?;
    let stored = storage::find_role(&mut tx, &name).await?.ok_or_else(|| not_found(&name))?;
    cx.check_if_match(Some(stored.revision))?;
    policy.delete(&name).map_err(AuthzError::from)?;
    let now = cx.now();
    storage::delete_role(&mut tx, &name, now, now - NAME_RESTS).await?;
    tx.publish(&RoleDeleted { role: name.to_string() }).await?;
    let committed = tx.commit().await?;
    Ok(DeleteRoleReply { consistency_token: committed.consistency_token })
}

/// Changes one role, by somebody who may give what that adds. A change that changes nothing leaves no event.
async fn apply<E: subjects::Event>(
    authz: &Authz,
    cx: &Context,
    endpoint: &'static Endpoint,
    name: &RoleName,
    change: impl FnOnce(&mut Role),
    event: impl FnOnce(&Role) -> E,
) -> Result<WireRole> {
    let giver = Giver::find(authz, cx).await?;
    let mut tx = authz.database.begin(cx).await?;
    let mut policy = storage::lock_policy(&mut tx).await?;
    let stored = storage::find_role(&mut tx, name).await?.ok_or_else(|| not_found(name))?;
    cx.check_if_match(Some(stored.revision))?;
    let before = stored.role;
    let mut role = before.clone();
    change(&mut role);
    if let Some(lacking) = giver.first_lacking(&policy, Some(&before), &role) {
        drop(tx);
        return Err(granting::refuse(authz, cx, endpoint, name, &lacking).await?.into());
    }
    if role != before {
        policy.update(role.clone()).map_err(AuthzError::from)?;
        storage::update_role(&mut tx, &role, cx.now()).await?;
        tx.publish(&event(&role)).await?;
    }
    let stored = storage::find_role(&mut tx, name).await?.ok_or_else(|| not_found(name))?;
    let committed = tx.commit().await?;
    Ok(WireRole { consistency_token: committed.consistency_token, ..stored.into() })
}

/// Refuses what the contract does not declare, and wildcards that cover nothing declared.
fn known<'a>(
    authz: &Authz,
    permissions: impl IntoIterator<Item = &'a Pattern>,
    pointer: &'static str,
) -> Result<(), AuthzError> {
    if permissions.into_iter().all(|pattern| authz.catalogue.knows(pattern)) {
        return Ok(());
    }
    let detail = "Name permissions that ListPermissions shows, or patterns that cover one.";
    Err(Fault { pointer, code: "unknown_permission", detail }.into())
}

async fn is_held(authz: &Authz, cx: &Context, name: &RoleName) -> Result<bool> {
    Ok(authz.identity.is_role_held(cx, IsRoleHeldRequest { role: name.to_string() }).await?.held)
}

fn parse_name(given: &str) -> Result<RoleName, AuthzError> {
    Ok(RoleName::parse("/role", given)?)
}

fn not_found(name: &RoleName) -> Error {
    AuthzError::from(PolicyError::NotFound(name.clone())).into()
}

fn permissions_to_wire(role: &Role) -> Vec<String> {
    role.permissions.iter().map(|pattern| pattern.as_str().to_owned()).collect()
}

fn inherits_to_wire(role: &Role) -> Vec<String> {
    role.inherits.iter().map(ToString::to_string).collect()
}

impl From<StoredRole> for WireRole {
    fn from(stored: StoredRole) -> Self {
        let StoredRole { role, created_at, updated_at, revision } = stored;
        Self {
            name: role.name.to_string(),
            description: role.description.as_str().to_owned(),
            permissions: permissions_to_wire(&role),
            inherits: inherits_to_wire(&role),
            built_in: role.built_in,
            created_at: Some(created_at.into()),
            updated_at: Some(updated_at.into()),
            consistency_token: String::new(),
            revision: revision.to_string(),
        }
    }
}
