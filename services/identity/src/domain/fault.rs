//! What can be wrong with a value that somebody gave.

/// One thing wrong with one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// JSON pointer of the field: `/email`.
    pub pointer: &'static str,
    /// Stable snake_case word.
    pub code: &'static str,
    /// What the caller can do about it. Never repeats the value.
    pub detail: &'static str,
}

impl Fault {
    pub(crate) const fn new(pointer: &'static str, code: &'static str, detail: &'static str) -> Self {
        Self { pointer, code, detail }
    }
}

/// Takes the value out of `result`, or keeps its fault so that all faults of a request are told at once.
pub(crate) fn collect<T>(faults: &mut Vec<Fault>, result: Result<T, Fault>) -> Option<T> {
    result.map_err(|fault| faults.push(fault)).ok()
}
