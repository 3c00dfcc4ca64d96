//! What happens at each endpoint, one file each, or one for what belongs to one thing.

mod authorize;
mod check;
mod permissions;
mod record_denial;
mod review_grant;
mod roles;

pub(crate) use authorize::authorize;
pub(crate) use check::{check, check_batch, explain};
pub(crate) use permissions::{list_permissions, list_user_permissions};
pub(crate) use record_denial::record_denial;
pub(crate) use review_grant::review_grant;
pub(crate) use roles::{
    create_role, delete_role, get_role, grant_permission, list_roles, revoke_permission, update_role,
};

use kernel::authorization::Consistency;
use kernel::{Error, Result};

/// Reads a field `consistencyToken`.
fn parse_consistency(given: &str) -> Result<Consistency> {
    Consistency::parse(given).ok_or_else(|| {
        Error::field("/consistencyToken", "invalid", "Give a consistencyToken as an answer told it, or `latest`.")
    })
}
