//! The caller.

use kernel::{Context, Result};
use subjects::identity::v1::User;

use crate::Identity;
use crate::domain::{self, UserId};
use crate::error::IdentityError;

pub(crate) async fn get_me(identity: &Identity, cx: &Context) -> Result<User> {
    let id = UserId::parse(cx.user_id()?).map_err(|_| IdentityError::CallerGone)?;
    let user = identity.users.find(id).await?.ok_or(IdentityError::CallerGone)?;
    Ok(domain::User::clone(&user).into())
}
