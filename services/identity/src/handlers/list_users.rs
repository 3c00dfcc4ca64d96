//! Users, newest first.

use kernel::page::Page;
use kernel::{Context, Result};
use subjects::identity::v1::{ListUsersReply, ListUsersRequest, user};
use uuid::Uuid;

use crate::Identity;
use crate::domain::{Fault, State, UserId};
use crate::error::IdentityError;
use crate::storage;

/// Longest text to look for, in bytes: no address and no name is longer.
const QUERY_BYTES_MAX: usize = 1_024;

pub(crate) async fn list_users(
    identity: &Identity,
    _cx: &Context,
    request: ListUsersRequest,
) -> Result<ListUsersReply> {
    let state = parse_state(request.state).map_err(IdentityError::from)?;
    let query = parse_query(&request.query).map_err(IdentityError::from)?;
    let list = format!("users state={} query={}", request.state, request.query);
    let page = Page::<Uuid>::parse(list, request.page_size, &request.page_token)?;

    let mut connection = identity.database.pool().acquire().await?;
    let users =
        storage::list_users(&mut connection, query, state, page.after().copied().map(UserId), page.limit()).await?;
    let (users, next_page_token) = page.cut(users, |user| user.id.0);
    Ok(ListUsersReply { items: users.into_iter().map(Into::into).collect(), next_page_token })
}

fn parse_state(number: i32) -> Result<Option<State>, Fault> {
    match user::State::try_from(number) {
        Ok(user::State::Unspecified) => Ok(None),
        Ok(user::State::Active) => Ok(Some(State::Active)),
        Ok(user::State::Unverified) => Ok(Some(State::Unverified)),
        Ok(user::State::Disabled) => Ok(Some(State::Disabled)),
        Err(_) => Err(Fault::new("/state", "invalid", "Give ACTIVE, UNVERIFIED or DISABLED, or leave it out.")),
    }
}

fn parse_query(query: &str) -> Result<Option<&str>, Fault> {
    if query.len() > QUERY_BYTES_MAX || query.contains(char::is_control) {
        return Err(Fault::new("/query", "invalid", "Give part of an address or a name, without control characters."));
    }
    Ok((!query.is_empty()).then_some(query))
}
