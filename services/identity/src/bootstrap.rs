//! The first administrator. Made at start from a file when nobody holds the role `admin`, also not by a group; does nothing otherwise, so that
//! it is safe to run at every start of every instance.

use std::path::Path;
use std::time::Duration;

use kernel::{Context, StartError};
use secrecy::SecretString;
use serde::Deserialize;
use subjects::identity::v1::UserCreated;

use crate::Identity;
use crate::domain::{ADMIN, State, UserId};
use crate::hashing::Form;
use crate::storage::{self, Insertion};

/// How long the step may take: a hash and a few statements, and waiting for other instances that do the same.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// The name that the first administrator is shown by.
const DISPLAY_NAME: &str = "Administrator";

#[derive(Deserialize)]
struct AdminFile {
    email: String,
    password: SecretString,
}

/// Makes the administrator of `bootstrap_admin_file` if that is set and nobody holds the role `admin`.
pub(crate) async fn ensure_admin(identity: &Identity, cx: &Context) -> Result<(), StartError> {
    let Some(file) = &identity.settings.bootstrap_admin_file else { return Ok(()) };
    if storage::has_administrator(&mut *identity.database.pool().acquire().await?).await? {
        return Ok(());
    }
    let admin = read(file)?;
    let form = Form {
        email: admin.email,
        password: admin.password,
        display_name: DISPLAY_NAME.to_owned(),
        roles: vec![ADMIN.to_owned()],
    };
    let (user, hash) = identity.hashing.admit(cx, form).await?.map_err(|faults| {
        let told: Vec<_> = faults.iter().map(|fault| format!("{}: {}", fault.pointer, fault.code)).collect();
        StartError::new(format!("the bootstrap administrator is refused: {}", told.join(", ")))
    })?;

    let mut tx = identity.database.begin(cx).await?;
    // Of instances that start together, the first makes the administrator and the others find one.
    storage::lock_bootstrap(&mut tx).await?;
    if storage::has_administrator(&mut tx).await? {
        return Ok(());
    }
    let id = UserId(cx.new_id());
    match storage::insert_user(&mut tx, id, &user, State::Active, &hash, cx.now()).await? {
        Insertion::Made(_) => {}
        Insertion::EmailTaken(_) => {
            return Err(StartError::new(
                "the bootstrap administrator's address belongs to a user without the role admin",
            ));
        }
    }
    tx.publish(&UserCreated { user_id: id.to_string(), roles: vec![ADMIN.to_owned()] }).await?;
    tx.commit().await?;
    tracing::info!(user.id = %id, "Made the first administrator.");
    Ok(())
}

fn read(file: &Path) -> Result<AdminFile, StartError> {
    let text = std::fs::read_to_string(file)
        .map(SecretString::from)
        .map_err(|error| StartError::new("bootstrap_admin_file cannot be read").with_source(error))?;
    // The parser's own error could quote the password.
    serde_json::from_str(secrecy::ExposeSecret::expose_secret(&text))
        .map_err(|_| StartError::new("bootstrap_admin_file must hold a JSON object with `email` and `password`"))
}
