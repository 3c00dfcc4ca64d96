//! What can go wrong in authz's own words, and what the caller hears of it.

use std::time::Duration;

use kernel::{Error, FieldError};

use crate::domain::{Fault, PolicyError, RoleName};

/// A refusal by the rules of this service.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthzError {
    /// The policy cannot be so.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Somebody holds the role.
    #[error("somebody holds the role {0}")]
    Held(RoleName),
    /// Somebody still holds a role of this name, which was deleted.
    #[error("somebody holds the deleted role {0}")]
    HeldFromBefore(RoleName),
    /// A role of this name was deleted a moment ago; for so much longer the name is not free.
    #[error("the role {0} was deleted a moment ago")]
    JustDeleted(RoleName, Duration),
    /// The caller would give what they do not have.
    #[error("the giver may not {0}")]
    Escalation(String),
    /// Nobody has this id.
    #[error("there is no such user")]
    UserNotFound,
}

impl From<Fault> for AuthzError {
    fn from(fault: Fault) -> Self {
        Self::Policy(fault.into())
    }
}

impl From<AuthzError> for Error {
    fn from(error: AuthzError) -> Self {
        match error {
            AuthzError::Policy(PolicyError::Invalid(fault)) => {
                Self::invalid(vec![FieldError::new(fault.pointer, fault.code, fault.detail)])
            }
            AuthzError::Policy(PolicyError::NotFound(_)) => Self::not_found("There is no role with this name."),
            AuthzError::Policy(PolicyError::Exists(_)) => {
                Self::conflict("role_exists", "There is a role with this name.")
            }
            AuthzError::Policy(PolicyError::BuiltIn(name)) => Self::conflict(
                "role_built_in",
                format!("The role {name} is built in: it is not deleted and not emptied."),
            ),
            AuthzError::Policy(PolicyError::Inherited { inherited, by }) => {
                Self::conflict("role_inherited", format!("The role {by} inherits {inherited}. Change that first."))
            }
            AuthzError::Held(name) => {
                Self::conflict("role_held", format!("Users or groups hold the role {name}. Take it from them first."))
            }
            AuthzError::HeldFromBefore(name) => Self::conflict(
                "role_held",
                format!("Users or groups hold {name} from a role that was deleted. Take it from them first."),
            ),
            AuthzError::JustDeleted(name, wait) => Self::conflict(
                "role_just_deleted",
                format!(
                    "The role {name} was deleted a moment ago, and somebody may be about to assign it. Try again later."
                ),
            )
            .retry_after(wait),
            AuthzError::Escalation(permission) => Self::new(
                403,
                "privilege_escalation",
                format!("You may not do {permission} yourself. Nobody gives what they lack."),
            ),
            AuthzError::UserNotFound => Self::not_found("There is no user with this id who may sign in."),
        }
    }
}
