//! What can go wrong in identity's own words, and what the caller hears of it.

use kernel::{Error, FieldError};

use crate::domain::{Fault, UserId};

/// A refusal by the rules of this service.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    /// Values that are not what they should be; at least one.
    #[error("the request holds values that are not valid")]
    Invalid(Vec<Fault>),
    /// Nobody has this id.
    #[error("there is no user {0}")]
    NotFound(UserId),
    /// Somebody has this address. Told to administrators only.
    #[error("the e-mail address is taken")]
    EmailTaken,
    /// Accounts are made by administrators only.
    #[error("registration is closed")]
    RegistrationClosed,
    /// The token is good, its user is gone.
    #[error("the caller's user does not exist any more")]
    CallerGone,
}

impl From<Fault> for IdentityError {
    fn from(fault: Fault) -> Self {
        Self::Invalid(vec![fault])
    }
}

impl From<IdentityError> for Error {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Invalid(faults) => Self::invalid(
                faults.iter().map(|fault| FieldError::new(fault.pointer, fault.code, fault.detail)).collect(),
            ),
            IdentityError::NotFound(_) => Self::not_found("There is no user with this id."),
            IdentityError::EmailTaken => Self::conflict("email_taken", "A user with this e-mail address exists."),
            IdentityError::RegistrationClosed => {
                Self::new(403, "registration_closed", "Registration is closed. Ask an administrator for an account.")
            }
            IdentityError::CallerGone => {
                Self::unauthenticated("invalid_token", "The token's user does not exist any more.")
            }
        }
    }
}
