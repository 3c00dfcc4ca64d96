//! What a start tells the person who waits for it. Progress goes to standard error, so that standard output stays for results.

use std::io::Write as _;

/// Where progress is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terminal {
    /// On standard error.
    Stderr,
    /// Nowhere.
    Silent,
}

impl Terminal {
    /// Tells one line.
    pub fn say(self, line: &str) {
        if self == Self::Stderr {
            // A closed terminal is no reason to stop.
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }
}
