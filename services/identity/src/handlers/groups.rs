//! Groups themselves: listed, made, shown, changed, deleted. None of this gives anybody a role; deleting may take some.

use kernel::page::Page;
use kernel::{Context, Result};
use subjects::identity::v1::{
    CreateGroupRequest, DELETE_GROUP, DeleteGroupReply, DeleteGroupRequest, GetGroupRequest, Group as WireGroup,
    GroupCreated, GroupDeleted, GroupUpdated, ListGroupsReply, ListGroupsRequest, UpdateGroupRequest,
};
use uuid::Uuid;

use super::administrators;
use crate::Identity;
use crate::domain::{Group, GroupDescription, GroupId, GroupName};
use crate::error::IdentityError;
use crate::granting::Target;
use crate::{notices, storage};

pub(crate) async fn list_groups(
    identity: &Identity,
    _cx: &Context,
    request: ListGroupsRequest,
) -> Result<ListGroupsReply> {
    let page = Page::<Uuid>::parse("groups", request.page_size, &request.page_token)?;
    let mut connection = identity.database.pool().acquire().await?;
    let groups = storage::list_groups(&mut connection, page.after().copied().map(GroupId), page.limit()).await?;
    let (groups, next_page_token) = page.cut(groups, |group| group.id.0);
    Ok(ListGroupsReply { items: groups.into_iter().map(Into::into).collect(), next_page_token })
}

pub(crate) async fn create_group(identity: &Identity, cx: &Context, request: CreateGroupRequest) -> Result<WireGroup> {
    let name = GroupName::parse(&request.name).map_err(IdentityError::from)?;
    let description = GroupDescription::parse(&request.description).map_err(IdentityError::from)?;

    let mut tx = identity.database.begin(cx).await?;
    let (id, now) = (GroupId(cx.new_id()), cx.now());
    let revision = storage::insert_group(&mut tx, id, &name, &description, now).await?;
    let revision = revision.ok_or(IdentityError::GroupNameTaken)?;
    tx.publish(&GroupCreated { group_id: id.to_string() }).await?;
    tx.commit().await?;
    let description = description.as_str().to_owned();
    let name = name.as_given().to_owned();
    Ok(Group { id, name, description, roles: Vec::new(), created_at: now, updated_at: now, revision }.into())
}

pub(crate) async fn get_group(identity: &Identity, _cx: &Context, request: GetGroupRequest) -> Result<WireGroup> {
    let id = GroupId::parse(&request.group_id).map_err(IdentityError::from)?;
    let mut connection = identity.database.pool().acquire().await?;
    let group = storage::find_group(&mut connection, id).await?.ok_or(IdentityError::GroupNotFound(id))?;
    Ok(group.into())
}

pub(crate) async fn update_group(identity: &Identity, cx: &Context, request: UpdateGroupRequest) -> Result<WireGroup> {
    let id = GroupId::parse(&request.group_id).map_err(IdentityError::from)?;
    let name = request.name.as_deref().map(GroupName::parse).transpose().map_err(IdentityError::from)?;
    let description =
        request.description.as_deref().map(GroupDescription::parse).transpose().map_err(IdentityError::from)?;

    let mut tx = identity.database.begin(cx).await?;
    let group = storage::lock_group(&mut tx, id).await?.ok_or(IdentityError::GroupNotFound(id))?;
    cx.check_if_match(Some(group.revision))?;
    if !storage::update_group(&mut tx, id, name.as_ref(), description.as_ref(), cx.now()).await? {
        return Err(IdentityError::GroupNameTaken.into());
    }
    let group = storage::find_group(&mut tx, id).await?.ok_or(IdentityError::GroupNotFound(id))?;
    tx.publish(&GroupUpdated { group_id: id.to_string() }).await?;
    tx.commit().await?;
    Ok(group.into())
}

pub(crate) async fn delete_group(
    identity: &Identity,
    cx: &Context,
    request: DeleteGroupRequest,
) -> Result<DeleteGroupReply> {
    let id = GroupId::parse(&request.group_id).map_err(IdentityError::from)?;

    let mut tx = identity.database.begin(cx).await?;
    let before = administrators::lock(&mut tx).await?;
    let group = storage::lock_group(&mut tx, id).await?.ok_or(IdentityError::GroupNotFound(id))?;
    cx.check_if_match(Some(group.revision))?;
    if !group.roles.is_empty() {
        notices::enqueue_to_members(&mut tx, cx, id).await?;
    }
    storage::delete_group(&mut tx, id).await?;
    let target = Target { kind: "group", id: &id.to_string() };
    tx = before.keep_one(identity, cx, &DELETE_GROUP, target, tx).await?;
    tx.publish(&GroupDeleted { group_id: id.to_string() }).await?;
    let committed = tx.commit().await?;
    Ok(DeleteGroupReply { consistency_token: committed.consistency_token })
}

impl From<Group> for WireGroup {
    fn from(group: Group) -> Self {
        Self {
            id: group.id.to_string(),
            name: group.name,
            description: group.description,
            roles: group.roles,
            created_at: Some(group.created_at.into()),
            updated_at: Some(group.updated_at.into()),
            revision: group.revision.to_string(),
        }
    }
}
