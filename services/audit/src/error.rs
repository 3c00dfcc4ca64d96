//! What can go wrong in audit's own words, and what the caller hears of it.

use kernel::{Error, FieldError};

use crate::domain::Fault;

/// A refusal by the rules of this service.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuditError {
    /// Values that are not what they should be; at least one.
    #[error("the request holds values that are not valid")]
    Invalid(Vec<Fault>),
}

impl From<AuditError> for Error {
    fn from(error: AuditError) -> Self {
        let AuditError::Invalid(faults) = error;
        Self::invalid(faults.iter().map(|fault| FieldError::new(fault.pointer, fault.code, fault.detail)).collect())
    }
}
