//! What happens at each endpoint, in each job and with each event that is consumed, one file each.

mod end_sessions;
mod get_jwks;
mod login;
mod logout;
mod prune;
mod refresh;
mod rotate_keys;
mod rotate_signing_keys;

pub(crate) use end_sessions::end_sessions;
pub(crate) use get_jwks::get_jwks;
pub(crate) use login::login;
pub(crate) use logout::logout;
pub(crate) use prune::prune;
pub(crate) use refresh::refresh;
pub(crate) use rotate_keys::rotate_keys;
pub(crate) use rotate_signing_keys::rotate_signing_keys;

use subjects::auth::v1::session_revoked::Reason;

use crate::domain::RevokedReason;

impl From<RevokedReason> for Reason {
    fn from(reason: RevokedReason) -> Self {
        match reason {
            RevokedReason::Logout => Self::Logout,
            RevokedReason::RefreshTokenReused => Self::RefreshTokenReused,
            RevokedReason::UserGone => Self::UserGone,
            RevokedReason::PasswordChanged => Self::PasswordChanged,
        }
    }
}
