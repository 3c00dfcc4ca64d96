//! An administrator makes a user.

use kernel::{Context, Result};
use subjects::identity::v1::{CreateUserRequest, User, UserCreated};

use crate::Identity;
use crate::domain::{State, UserId};
use crate::error::IdentityError;
use crate::hashing::Form;
use crate::storage::{self, Insertion};

pub(crate) async fn create_user(identity: &Identity, cx: &Context, request: CreateUserRequest) -> Result<User> {
    let CreateUserRequest { email, password, display_name, roles } = request;
    let form = Form { email, password: password.into(), display_name, roles };
    let (new_user, hash) = identity.hashing.admit(cx, form).await?.map_err(IdentityError::Invalid)?;

    let mut tx = identity.database.begin(cx).await?;
    let id = UserId(cx.new_id());
    let Insertion::Made(user) = storage::insert_user(&mut tx, id, &new_user, State::Active, &hash, cx.now()).await?
    else {
        return Err(IdentityError::EmailTaken.into());
    };
    let roles = new_user.roles.iter().map(|role| role.as_str().to_owned()).collect();
    tx.name_target(&user.email);
    tx.publish(&UserCreated { user_id: id.to_string(), roles }).await?;
    tx.commit().await?;
    Ok(user.into())
}
