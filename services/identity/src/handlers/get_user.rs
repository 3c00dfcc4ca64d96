//! One user, by id.

use kernel::{Context, Result};
use subjects::identity::v1::{GetUserRequest, User};

use crate::Identity;
use crate::domain::{self, UserId};
use crate::error::IdentityError;

pub(crate) async fn get_user(identity: &Identity, _cx: &Context, request: GetUserRequest) -> Result<User> {
    let id = UserId::parse(&request.user_id).map_err(IdentityError::from)?;
    let user = identity.users.find(id).await?.ok_or(IdentityError::NotFound(id))?;
    Ok(domain::User::clone(&user).into())
}
