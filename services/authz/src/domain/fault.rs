//! What can be wrong with a value that somebody gave.

/// One thing wrong with one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// JSON pointer of the field: `/permissions`.
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

    /// The same of another field.
    pub(crate) const fn at(self, pointer: &'static str) -> Self {
        Self { pointer, ..self }
    }
}
