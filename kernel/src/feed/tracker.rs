//! Whether a message is missing, told from the sequences of those that came.
//!
//! Where a feed takes the whole stream, sequences follow each other. Where it takes a part, each message names the one
//! before it on its own subject, which must have come too; a subject that is new to the feed may name one from before
//! the feed began.

use std::collections::HashMap;

/// Subjects remembered. Events have few subjects; beyond this new ones are not judged.
const SUBJECTS_MAX: usize = 4_096;

/// What a message says of those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing is missing.
    Sound,
    /// It came before, by another subscription of the same feed.
    Repeated,
    /// A message is missing before it.
    Gap,
    /// It stands before one that has come: the stream is another one.
    Anew,
}

/// Follows the sequences of one stream.
#[derive(Debug)]
pub(super) struct Tracker {
    /// Whether every message of the stream should come.
    whole: bool,
    /// The stream's last sequence when the subscription was in force; none while that is not known.
    base: Option<u64>,
    /// Of the last message that came; 0 where none did.
    last: u64,
    /// Of the last message of each subject.
    subjects: HashMap<String, u64>,
}

impl Tracker {
    pub(super) fn new(whole: bool) -> Self {
        Self { whole, base: None, last: 0, subjects: HashMap::new() }
    }

    /// Something was missed: what is known of the past says nothing any more.
    pub(super) fn forget(&mut self) {
        *self = Self::new(self.whole);
    }

    /// The subscription is in force, and `base` is the last sequence that the stream has.
    pub(super) fn begin(&mut self, base: u64) {
        self.base = Some(base);
    }

    /// The last sequence that is accounted for.
    pub(super) fn position(&self) -> u64 {
        self.last.max(self.base.unwrap_or(0))
    }

    /// Judges a message: its sequence, and the one before it on its subject, 0 where there is none any more.
    pub(super) fn note(&mut self, subject: &str, sequence: u64, previous: u64) -> Verdict {
        if sequence == self.last {
            return Verdict::Repeated;
        }
        let verdict = if sequence < self.last {
            self.subjects.clear();
            self.base = None;
            Verdict::Anew
        } else if self.misses_in_stream(sequence) || self.misses_on_subject(subject, previous) {
            Verdict::Gap
        } else {
            Verdict::Sound
        };
        self.last = sequence;
        if let Some(last) = self.subjects.get_mut(subject) {
            *last = sequence;
        } else if self.subjects.len() < SUBJECTS_MAX {
            self.subjects.insert(subject.to_owned(), sequence);
        }
        verdict
    }

    fn misses_in_stream(&self, sequence: u64) -> bool {
        // Until the base is known, the first message may be any; with it, the first may be one of those before.
        let before = match (self.last, self.base) {
            (0, Some(base)) => base,
            (0, None) => return false,
            (last, _) => last,
        };
        self.whole && sequence > before + 1
    }

    fn misses_on_subject(&self, subject: &str, previous: u64) -> bool {
        match (self.subjects.get(subject), self.base) {
            (Some(last), _) => previous > *last,
            (None, Some(base)) => self.subjects.len() < SUBJECTS_MAX && previous > base,
            (None, None) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_of_a_stream_is_judged_by_subject() {
        let mut tracker = Tracker::new(false);
        tracker.begin(10);
        assert_eq!(tracker.note("a", 11, 4), Verdict::Sound);
        assert_eq!(tracker.note("b", 15, 0), Verdict::Sound);
        assert_eq!(tracker.note("a", 17, 11), Verdict::Sound);
        assert_eq!(tracker.note("a", 19, 18), Verdict::Gap);
        assert_eq!(tracker.note("a", 20, 19), Verdict::Sound, "one gap is told once");
        assert_eq!(tracker.note("c", 30, 25), Verdict::Gap, "new to the feed, but stored since it began");
        assert_eq!(tracker.note("a", 40, 0), Verdict::Sound, "the one before has aged away");
        assert_eq!(tracker.position(), 40);
    }

    #[test]
    fn whole_stream_has_every_sequence() {
        let mut tracker = Tracker::new(true);
        assert_eq!(tracker.note("a", 5, 4), Verdict::Sound, "where it begins is not known yet");
        tracker.begin(5);
        assert_eq!(tracker.note("a", 6, 5), Verdict::Sound);
        assert_eq!(tracker.note("b", 8, 2), Verdict::Gap);
        assert_eq!(tracker.note("b", 8, 2), Verdict::Repeated);

        tracker.forget();
        tracker.begin(20);
        assert_eq!(tracker.note("a", 20, 6), Verdict::Sound, "on its way while the base was read");
        assert_eq!(tracker.note("a", 21, 20), Verdict::Sound);
        tracker.forget();
        tracker.begin(20);
        assert_eq!(tracker.note("b", 22, 8), Verdict::Gap);
    }

    #[test]
    fn lower_sequence_is_another_stream() {
        let mut tracker = Tracker::new(false);
        tracker.begin(10);
        assert_eq!(tracker.note("a", 11, 4), Verdict::Sound);
        assert_eq!(tracker.note("a", 1, 0), Verdict::Anew);
        assert_eq!(tracker.note("a", 2, 1), Verdict::Sound);
    }
}
