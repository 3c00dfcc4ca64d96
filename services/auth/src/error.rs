//! What can go wrong in auth's own words, and what the caller hears of it.

use chrono::{DateTime, SecondsFormat, Utc};
use kernel::Error;

/// A refusal by the rules of this service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AuthError {
    /// Nobody has the address, the password is wrong, or the user may not sign in: the caller does not learn which.
    #[error("the credentials are not valid")]
    InvalidCredentials,
    /// The token is unknown, expired, used, or its session has ended: the caller does not learn which.
    #[error("the token is not valid")]
    InvalidToken,
    /// A key waits to sign, from this time on.
    #[error("a key waits to sign at {0}")]
    RotationPending(DateTime<Utc>),
    /// Verifiers would not read them all.
    #[error("too many keys are published")]
    TooManyKeys,
}

impl From<AuthError> for Error {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::InvalidCredentials => {
                Self::unauthenticated("invalid_credentials", "The e-mail address or the password is not right.")
            }
            AuthError::InvalidToken => {
                Self::unauthenticated("invalid_token", "The token does not count. Sign in again.")
            }
            AuthError::RotationPending(activates_at) => {
                let at = activates_at.to_rfc3339_opts(SecondsFormat::Secs, true);
                Self::conflict("rotation_pending", format!("A new key is published already and signs from {at} on."))
            }
            AuthError::TooManyKeys => Self::conflict(
                "too_many_keys",
                "As many keys are published as verifiers read. Wait until tokens of the oldest have expired.",
            ),
        }
    }
}
