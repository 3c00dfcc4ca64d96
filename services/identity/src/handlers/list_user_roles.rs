//! The roles that a user holds, with where each comes from.

use std::collections::BTreeMap;

use kernel::page::Page;
use kernel::{Context, Result};
use subjects::identity::v1::{GroupReference, ListUserRolesReply, ListUserRolesRequest, UserRole};

use crate::Identity;
use crate::domain::{HeldRoles, UserId};
use crate::error::IdentityError;
use crate::storage;

pub(crate) async fn list_user_roles(
    identity: &Identity,
    _cx: &Context,
    request: ListUserRolesRequest,
) -> Result<ListUserRolesReply> {
    let id = UserId::parse(&request.user_id).map_err(IdentityError::from)?;
    let page = Page::<String>::parse(format!("roles of {id}"), request.page_size, &request.page_token)?;
    let held = storage::find_holder(&mut *identity.database.pool().acquire().await?, id).await?;
    let held = held.ok_or(IdentityError::NotFound(id))?.roles;

    let after = page.after().cloned();
    let is_behind = |role: &UserRole| after.as_ref().is_none_or(|after| role.name > *after);
    let rows = by_name(&held).into_values().filter(is_behind).take(page.size() + 1).collect();
    let (items, next_page_token) = page.cut(rows, |role| role.name.clone());
    Ok(ListUserRolesReply { items, next_page_token })
}

fn by_name(held: &HeldRoles) -> BTreeMap<String, UserRole> {
    let mut roles: BTreeMap<String, UserRole> = BTreeMap::new();
    let named = |name: &String| UserRole { name: name.clone(), ..UserRole::default() };
    for role in &held.own {
        roles.entry(role.clone()).or_insert_with(|| named(role)).direct = true;
    }
    for group in &held.groups {
        for role in &group.roles {
            let reference = GroupReference { id: group.id.to_string(), name: group.name.clone() };
            roles.entry(role.clone()).or_insert_with(|| named(role)).groups.push(reference);
        }
    }
    roles
}
