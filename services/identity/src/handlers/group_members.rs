//! Who is in a group. Adding somebody gives them its roles.

use kernel::page::Page;
use kernel::{Context, Result};
use subjects::identity::v1::send_mail::Purpose;
use subjects::identity::v1::{
    ADD_GROUP_MEMBER, AddGroupMemberReply, AddGroupMemberRequest, GroupMemberAdded, GroupMemberRemoved,
    ListGroupMembersReply, ListGroupMembersRequest, REMOVE_GROUP_MEMBER, RemoveGroupMemberReply,
    RemoveGroupMemberRequest,
};
use uuid::Uuid;

use super::administrators;
use crate::Identity;
use crate::domain::{GROUPS_OF_USER_MAX, GroupId, UserId};
use crate::error::IdentityError;
use crate::granting::{self, Target};
use crate::notices;
use crate::storage;

pub(crate) async fn list_group_members(
    identity: &Identity,
    _cx: &Context,
    request: ListGroupMembersRequest,
) -> Result<ListGroupMembersReply> {
    let id = GroupId::parse(&request.group_id).map_err(IdentityError::from)?;
    let page = Page::<Uuid>::parse(format!("members of {id}"), request.page_size, &request.page_token)?;
    let mut connection = identity.database.pool().acquire().await?;
    storage::find_group(&mut connection, id).await?.ok_or(IdentityError::GroupNotFound(id))?;
    let before = page.after().copied().map(UserId);
    let members = storage::list_members(&mut connection, id, before, page.limit()).await?;
    let (members, next_page_token) = page.cut(members, |user| user.id.0);
    Ok(ListGroupMembersReply { items: members.into_iter().map(Into::into).collect(), next_page_token })
}

/// Adding a member again changes nothing.
pub(crate) async fn add_group_member(
    identity: &Identity,
    cx: &Context,
    request: AddGroupMemberRequest,
) -> Result<AddGroupMemberReply> {
    let id = GroupId::parse(&request.group_id).map_err(IdentityError::from)?;
    let user_id = UserId::parse(&request.user_id).map_err(IdentityError::from)?;
    let group = storage::find_group(&mut *identity.database.pool().acquire().await?, id).await?;
    let group = group.ok_or(IdentityError::GroupNotFound(id))?;
    let target = Target { kind: "group", id: &id.to_string() };
    granting::review(identity, cx, &ADD_GROUP_MEMBER, target, &group.roles).await?;

    let mut tx = identity.database.begin(cx).await?;
    let group = storage::lock_group(&mut tx, id).await?.ok_or(IdentityError::GroupNotFound(id))?;
    storage::lock_user(&mut tx, user_id).await?.ok_or(IdentityError::NotFound(user_id))?;
    if storage::insert_member(&mut tx, id, user_id, cx.now()).await? {
        if storage::count_groups_of(&mut tx, user_id).await? > GROUPS_OF_USER_MAX {
            return Err(IdentityError::TooMany("groups of this user").into());
        }
        tx.publish(&GroupMemberAdded { group_id: id.to_string(), user_id: user_id.to_string() }).await?;
        if !group.roles.is_empty() {
            notices::enqueue(&mut tx, cx, user_id, Purpose::RolesChanged).await?;
        }
    }
    let committed = tx.commit().await?;
    Ok(AddGroupMemberReply { consistency_token: committed.consistency_token })
}

/// Taking out who is no member changes nothing.
pub(crate) async fn remove_group_member(
    identity: &Identity,
    cx: &Context,
    request: RemoveGroupMemberRequest,
) -> Result<RemoveGroupMemberReply> {
    let id = GroupId::parse(&request.group_id).map_err(IdentityError::from)?;
    let user_id = UserId::parse(&request.user_id).map_err(IdentityError::from)?;

    let mut tx = identity.database.begin(cx).await?;
    let before = administrators::lock(&mut tx).await?;
    let group = storage::lock_group(&mut tx, id).await?.ok_or(IdentityError::GroupNotFound(id))?;
    if storage::delete_member(&mut tx, id, user_id).await? {
        let target = Target { kind: "group", id: &id.to_string() };
        tx = before.keep_one(identity, cx, &REMOVE_GROUP_MEMBER, target, tx).await?;
        tx.publish(&GroupMemberRemoved { group_id: id.to_string(), user_id: user_id.to_string() }).await?;
        if !group.roles.is_empty() {
            notices::enqueue(&mut tx, cx, user_id, Purpose::RolesChanged).await?;
        }
    }
    let committed = tx.commit().await?;
    Ok(RemoveGroupMemberReply { consistency_token: committed.consistency_token })
}
