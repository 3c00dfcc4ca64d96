//! The caller.

use kernel::{Context, Result};
use subjects::identity::v1::User;

use crate::Identity;
use crate::domain::UserId;
use crate::error::IdentityError;
use crate::storage;

pub(crate) async fn get_me(identity: &Identity, cx: &Context) -> Result<User> {
    let id = UserId::parse(cx.user_id()?).map_err(|_| IdentityError::CallerGone)?;
    let mut connection = identity.database.pool().acquire().await?;
    let user = storage::find_user(&mut connection, id).await?.ok_or(IdentityError::CallerGone)?;
    Ok(user.into())
}
