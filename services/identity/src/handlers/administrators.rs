//! The last administrator stays, by whichever way somebody would take them away.

use kernel::{Context, Result, Transaction};
use sqlx::PgConnection;
use subjects::Endpoint;

use crate::Identity;
use crate::error::IdentityError;
use crate::granting::{self, Target};
use crate::storage;

/// What was found under the lock that all changes take which may leave nobody.
#[derive(Clone, Copy, Debug)]
pub(super) struct Administrators {
    existed: bool,
}

/// Takes the lock, held until the transaction ends: of two removals at once, the second sees what the first has left.
pub(super) async fn lock(connection: &mut PgConnection) -> Result<Administrators> {
    Ok(Administrators { existed: storage::lock_administrators(connection).await? })
}

impl Administrators {
    /// Refuses, after the change and before its commit, to leave nobody who may sign in with the role `admin`: then the change is
    /// undone, and that it was refused is recorded. A platform that had nobody before is left as it is.
    pub(super) async fn keep_one(
        self,
        identity: &Identity,
        cx: &Context,
        endpoint: &'static Endpoint,
        target: Target<'_>,
        mut change: Transaction,
    ) -> Result<Transaction> {
        if self.existed && !storage::has_active_administrator(&mut change).await? {
            drop(change);
            granting::record_denied(identity, cx, endpoint, target, String::new()).await?;
            return Err(IdentityError::LastAdministrator.into());
        }
        Ok(change)
    }
}
