//! The last administrator stays, by whichever way somebody would take them away.

use kernel::Result;
use sqlx::PgConnection;

use crate::error::IdentityError;
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
    /// Refuses, after the change and before its commit, to leave nobody who may sign in with the role `admin`. A platform
    /// that had nobody before is left as it is.
    pub(super) async fn keep_one(self, connection: &mut PgConnection) -> Result<()> {
        if self.existed && !storage::has_active_administrator(connection).await? {
            return Err(IdentityError::LastAdministrator.into());
        }
        Ok(())
    }
}
