//! What can go wrong in identity's own words, and what the caller hears of it.

use std::time::Duration;

use kernel::{Error, FieldError};

use crate::domain::{Fault, GroupId, UserId};

/// A refusal by the rules of this service.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    /// Values that are not what they should be; at least one.
    #[error("the request holds values that are not valid")]
    Invalid(Vec<Fault>),
    /// Nobody has this id.
    #[error("there is no user {0}")]
    NotFound(UserId),
    /// No group has this id.
    #[error("there is no group {0}")]
    GroupNotFound(GroupId),
    /// No role has this name.
    #[error("there is no role {0}")]
    RoleNotFound(String),
    /// Another group has this name.
    #[error("the group's name is taken")]
    GroupNameTaken,
    /// There would be more roles, or groups, of one thing than there may be.
    #[error("there are too many {0}")]
    TooMany(&'static str),
    /// Nobody would be left who may do everything.
    #[error("the last administrator would be gone")]
    LastAdministrator,
    /// The caller would give what they do not have.
    #[error("{role} permits {permission}, which the giver may not do")]
    Escalation {
        /// The role to be given.
        role: String,
        /// What it permits.
        permission: String,
    },
    /// What was given as the caller's password is not theirs.
    #[error("the current password is wrong")]
    WrongPassword,
    /// The caller's password was given wrongly too often; the next time is so far away.
    #[error("the current password was tried too often")]
    TooManyGuesses(Duration),
    /// The caller would set their own password as an administrator sets another's.
    #[error("one's own password is changed by the present one")]
    OwnPassword,
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
            IdentityError::GroupNotFound(_) => Self::not_found("There is no group with this id."),
            IdentityError::RoleNotFound(_) => Self::not_found("There is no role with this name."),
            IdentityError::GroupNameTaken => Self::conflict("group_name_taken", "A group with this name exists."),
            IdentityError::TooMany(what) => {
                Self::conflict("too_many", format!("There are as many {what} as there may be. Take one away first."))
            }
            IdentityError::LastAdministrator => Self::conflict(
                "last_administrator",
                "Nobody would be left with the role admin who may sign in. Make another administrator first.",
            ),
            IdentityError::Escalation { role, permission } => Self::new(
                403,
                "privilege_escalation",
                format!(
                    "The role {role} permits {permission}, which you may not do. Nobody gives what they lack, or takes over \
                     who has it."
                ),
            ),
            IdentityError::WrongPassword => {
                Self::invalid(vec![FieldError::new("/currentPassword", "wrong_password", "This is not your password.")])
            }
            IdentityError::TooManyGuesses(wait) => {
                Self::new(429, "too_many_attempts", "The current password was wrong too often. Try again later.")
                    .retry_after(wait.max(Duration::from_secs(1)))
            }
            IdentityError::OwnPassword => Self::new(
                403,
                "own_password",
                "Your own password is changed by the present one: POST /api/v1/users/me/password.",
            ),
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
