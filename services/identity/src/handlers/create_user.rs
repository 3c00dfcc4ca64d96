//! An administrator makes a user.

use kernel::{Context, Error, Result};
use subjects::identity::v1::send_mail::Purpose;
use subjects::identity::v1::{ASSIGN_ROLE, CREATE_USER, CreateUserRequest, User, UserCreated};
use subjects::{Access, Endpoint};

use crate::Identity;
use crate::domain::{Fault, State, UserId};
use crate::error::IdentityError;
use crate::granting::{self, Target};
use crate::hashing::Form;
use crate::notices;
use crate::storage::{self, Insertion};

pub(crate) async fn create_user(identity: &Identity, cx: &Context, request: CreateUserRequest) -> Result<User> {
    let CreateUserRequest { email, password, display_name, roles } = request;
    let form = Form { email, password: password.into(), display_name, roles };
    let (new_user, hash) = identity.hashing.admit(cx, form).await?.map_err(IdentityError::Invalid)?;
    let roles: Vec<String> = new_user.roles.iter().map(|role| role.as_str().to_owned()).collect();
    if !roles.is_empty() {
        // Who may make users must not be able to assign roles by making them.
        require_permission_of(identity, cx, &ASSIGN_ROLE).await?;
        let unknown = granting::review(identity, cx, &CREATE_USER, Target { kind: "user", id: "" }, &roles).await?;
        if !unknown.is_empty() {
            let fault = Fault { pointer: "/roles", code: "unknown_role", detail: "Name roles that exist." };
            return Err(IdentityError::from(fault).into());
        }
    }

    let mut tx = identity.database.begin(cx).await?;
    let id = UserId(cx.new_id());
    let Insertion::Made(user) = storage::insert_user(&mut tx, id, &new_user, State::Active, &hash, cx.now()).await?
    else {
        return Err(IdentityError::EmailTaken.into());
    };
    tx.name_target(&user.email);
    tx.publish(&UserCreated { user_id: id.to_string(), roles }).await?;
    notices::enqueue(&mut tx, cx, id, Purpose::AccountCreated).await?;
    let committed = tx.commit().await?;
    Ok(User { consistency_token: committed.consistency_token, ..user.into() })
}

/// Refuses who could not call `other`, and records it.
async fn require_permission_of(identity: &Identity, cx: &Context, other: &'static Endpoint) -> Result<()> {
    let Access::Permission(permission) = other.access else { return Ok(()) };
    if identity.decide.decide(cx, permission).await? {
        return Ok(());
    }
    identity.database.record_denied(cx, &CREATE_USER).await?;
    Err(Error::forbidden(format!("The permission {permission} is needed to give roles.")))
}
