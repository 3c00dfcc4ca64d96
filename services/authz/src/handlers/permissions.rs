//! Permissions: all that are declared, and those that a user has.

use std::collections::{BTreeMap, BTreeSet};

use kernel::authorization::Consistency;
use kernel::page::Page;
use kernel::{Context, Result};
use subjects::authz::v1::list_user_permissions_reply::UserPermission;
use subjects::authz::v1::{
    ListPermissionsReply, ListPermissionsRequest, ListUserPermissionsReply, ListUserPermissionsRequest, Permission,
};

use crate::Authz;
use crate::domain::Pattern;
use crate::error::AuthzError;
use crate::knowledge::parse_user_id;

pub(crate) fn list_permissions(authz: &Authz, request: &ListPermissionsRequest) -> Result<ListPermissionsReply> {
    let page = Page::<String>::parse("permissions", request.page_size, &request.page_token)?;
    let after = page.after().cloned().unwrap_or_default();
    let behind = authz.declared.iter().filter(|permission| permission.name > after);
    let rows: Vec<Permission> = behind.take(page.size() + 1).cloned().collect();
    let (items, next_page_token) = page.cut(rows, |permission| permission.name.clone());
    Ok(ListPermissionsReply { items, next_page_token })
}

pub(crate) async fn list_user_permissions(
    authz: &Authz,
    cx: &Context,
    request: ListUserPermissionsRequest,
) -> Result<ListUserPermissionsReply> {
    let user_id = parse_user_id(&request.user_id).map_err(AuthzError::from)?;
    let list = format!("permissions of {user_id}");
    let page = Page::<String>::parse(list, request.page_size, &request.page_token)?;
    let known = authz.knowledge.of_holder(cx, user_id, Consistency::Any).await?;
    if !known.holdings.counts {
        return Err(AuthzError::UserNotFound.into());
    }

    let mut permissions: BTreeMap<&Pattern, BTreeSet<&str>> = BTreeMap::new();
    for role in known.holdings.roles() {
        for pattern in known.engine.policy().permissions_of([role]) {
            permissions.entry(pattern).or_default().insert(role);
        }
    }
    let after = page.after().cloned().unwrap_or_default();
    let behind = permissions.into_iter().filter(|(pattern, _)| pattern.as_str() > after.as_str());
    let rows: Vec<UserPermission> = behind
        .take(page.size() + 1)
        .map(|(pattern, roles)| UserPermission {
            name: pattern.as_str().to_owned(),
            roles: roles.into_iter().map(str::to_owned).collect(),
        })
        .collect();
    let (items, next_page_token) = page.cut(rows, |permission| permission.name.clone());
    Ok(ListUserPermissionsReply { items, next_page_token })
}
