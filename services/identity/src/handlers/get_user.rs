//! One user, by id.

use kernel::{Context, Result};
use subjects::identity::v1::{GetUserRequest, User};

use crate::Identity;
use crate::domain::UserId;
use crate::error::IdentityError;
use crate::storage;

pub(crate) async fn get_user(identity: &Identity, _cx: &Context, request: GetUserRequest) -> Result<User> {
    let id = UserId::parse(&request.user_id).map_err(IdentityError::from)?;
    let mut connection = identity.database.pool().acquire().await?;
    let user = storage::find_user(&mut connection, id).await?.ok_or(IdentityError::NotFound(id))?;
    Ok(user.into())
}
