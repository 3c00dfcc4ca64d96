//! What can go wrong in authz's own words, and what the caller hears of it.

use kernel::{Error, FieldError};

use crate::domain::Fault;

/// A refusal by the rules of this service.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthzError {
    /// A value that is not what it should be.
    #[error("the request holds a value that is not valid")]
    Invalid(Fault),
}

impl From<Fault> for AuthzError {
    fn from(fault: Fault) -> Self {
        Self::Invalid(fault)
    }
}

impl From<AuthzError> for Error {
    fn from(error: AuthzError) -> Self {
        match error {
            AuthzError::Invalid(fault) => Self::invalid(vec![FieldError::new(fault.pointer, fault.code, fault.detail)]),
        }
    }
}
