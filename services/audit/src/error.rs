//! What can go wrong in audit's own words, and what the caller hears of it.

use kernel::{Error, FieldError};

use uuid::Uuid;

use crate::domain::Fault;

/// A refusal by the rules of this service.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuditError {
    /// Values that are not what they should be; at least one.
    #[error("the request holds values that are not valid")]
    Invalid(Vec<Fault>),
    /// No entry has this id.
    #[error("there is no entry {0}")]
    NotFound(Uuid),
    /// Nothing was recorded in the time asked for.
    #[error("there is no entry of that time")]
    NoEntries,
}

impl From<AuditError> for Error {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::Invalid(faults) => Self::invalid(
                faults.iter().map(|fault| FieldError::new(fault.pointer, fault.code, fault.detail)).collect(),
            ),
            AuditError::NotFound(_) => Self::new(404, "entry_not_found", "There is no such entry."),
            AuditError::NoEntries => Self::new(404, "no_entries", "Nothing was recorded in that time."),
        }
    }
}
