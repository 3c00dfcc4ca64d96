//! What can be wrong with a log.

use std::fmt;

/// Findings that are told one by one; a log with more of them is beyond telling where.
pub const FINDINGS_MAX: usize = 1_000;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An entry is not what was recorded.
    Altered,
    /// Entries between others are not there.
    Missing,
    /// An entry is there that was never recorded.
    Inserted,
    /// An entry stands in another's place.
    Reordered,
    /// The end is not there.
    Truncated,
    /// A checkpoint is not signed by a key that is trusted.
    BadSignature,
}

impl Kind {
    /// The word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Altered => "ALTERED",
            Self::Missing => "MISSING",
            Self::Inserted => "INSERTED",
            Self::Reordered => "REORDERED",
            Self::Truncated => "TRUNCATED",
            Self::BadSignature => "BAD_SIGNATURE",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where: the sequence under which it is found, or where it should stand.
    pub sequence: i64,
    /// What.
    pub kind: Kind,
    /// In a sentence.
    pub detail: String,
}

/// What was found, in order of sequence once sorted; at most [`FINDINGS_MAX`] are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    list: Vec<Finding>,
    more: u64,
}

impl Findings {
    /// Adds one.
    pub fn add(&mut self, sequence: i64, kind: Kind, detail: impl Into<String>) {
        if self.list.len() < FINDINGS_MAX {
            self.list.push(Finding { sequence, kind, detail: detail.into() });
        } else {
            self.more += 1;
        }
    }

    /// How many there are, those included that are not kept.
    pub fn count(&self) -> u64 {
        self.list.len() as u64 + self.more
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Those that are kept, in order of sequence.
    pub fn sorted(mut self) -> Vec<Finding> {
        self.list.sort_by_key(|finding| (finding.sequence, finding.kind));
        self.list
    }

    /// Those that are kept, as they were found.
    pub fn as_slice(&self) -> &[Finding] {
        &self.list
    }

    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut Finding> {
        self.list.get_mut(index)
    }
}
