//! Somebody opens an account.

use kernel::{AuditAction, Context, Result};
use subjects::audit::v1::Outcome;
use subjects::identity::v1::{REGISTER, RegisterReply, RegisterRequest, UserRegistered};

use crate::Identity;
use crate::domain::{State, UserId};
use crate::error::IdentityError;
use crate::granting::{self, Target};
use crate::hashing::Form;
use crate::storage::{self, Insertion};

/// The same answer after the same work, whether or not the address was free: nobody learns who has an account.
pub(crate) async fn register(identity: &Identity, cx: &Context, request: RegisterRequest) -> Result<RegisterReply> {
    if !identity.settings.registration_open {
        let nobody = Target { kind: "user", id: "" };
        granting::record_denied(identity, cx, &REGISTER, nobody, String::new()).await?;
        return Err(IdentityError::RegistrationClosed.into());
    }
    let RegisterRequest { email, password, display_name } = request;
    let form = Form { email, password: password.into(), display_name, roles: Vec::new() };
    let (user, hash) = identity.hashing.admit(cx, form).await?.map_err(IdentityError::Invalid)?;

    let mut tx = identity.database.begin(cx).await?;
    match storage::insert_user(&mut tx, UserId(cx.new_id()), &user, State::Unverified, &hash, cx.now()).await? {
        Insertion::Made(user) => {
            tx.name_target(&user.email);
            tx.publish(&UserRegistered { user_id: user.id.to_string() }).await?;
        }
        Insertion::EmailTaken(holder) => {
            let holder = holder.map(|id| id.to_string()).unwrap_or_default();
            tx.record(AuditAction {
                action: "identity.register.denied",
                target_type: "user",
                target_id: &holder,
                outcome: Outcome::Denied,
                details: String::new(),
            })
            .await?;
        }
    }
    tx.commit().await?;
    Ok(RegisterReply {})
}
