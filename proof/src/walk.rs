//! The way along the chain, entry by entry: what is as it was recorded passes quickly; where something is wrong, its
//! neighbours tell what.
//!
//! An entry that is in order needs no memory. One that is not is held until its successor has been seen, which tells an
//! altered entry from one that was put in. Entries that were swapped over a distance are recognised at the end.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::encoding::Hash;
use crate::entry::{Link, Personal};
use crate::finding::{Finding, Findings, Kind};

/// Entries that are compared with each other at the end, whether they stand in each other's places.
const SUSPECTS_MAX: usize = 200;

/// Where a walk has come to, so that another can go on from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// How many entries the chain has up to here; the next has the sequence behind it.
    position: i64,
    /// The hash of the last one; none where it is not known.
    hash: Option<Hash>,
    /// The hash of the one before that.
    hash_before: Option<Hash>,
    /// How much greater the stored sequence is, behind an entry that was put in.
    offset: i64,
    /// Whether something has been found wrong with the last one.
    flagged: bool,
}

impl Place {
    /// Before the first entry.
    pub const START: Self = Self { position: 0, hash: Some(Hash::ZERO), hash_before: None, offset: 0, flagged: false };

    /// Behind an entry that is vouched for otherwise.
    pub fn behind(sequence: i64, hash: Hash) -> Self {
        Self { position: sequence, hash: Some(hash), ..Self::START }
    }

    /// Before the first entry of a part that does not begin at the beginning.
    pub fn before(sequence: i64) -> Self {
        Self { position: sequence - 1, hash: None, ..Self::START }
    }

    /// The hash of the last entry; none where it is not known.
    pub fn hash(&self) -> Option<Hash> {
        self.hash
    }

    /// The stored sequence of the last entry.
    pub fn stored(&self) -> i64 {
        self.position + self.offset
    }
}

/// A walk. Entries are given in the order in which they stand.
#[derive(Debug)]
pub struct Walk {
    place: Place,
    held: Option<Link<'static>>,
    /// Sequences that were passed over.
    vacant: Vec<RangeInclusive<i64>>,
    suspects: Vec<Suspect>,
    findings: Findings,
    /// How many findings there were when a checkpoint last agreed.
    agreed: u64,
    entries: u64,
}

#[derive(Debug)]
struct Suspect {
    link: Link<'static>,
    position: i64,
    finding: usize,
}

impl Walk {
    /// Begins at a place.
    pub fn new(place: Place) -> Self {
        Self {
            place,
            held: None,
            vacant: Vec::new(),
            suspects: Vec::new(),
            findings: Findings::default(),
            agreed: 0,
            entries: 0,
        }
    }

    /// The next entry, with its personal fields where they are there.
    pub fn entry(&mut self, link: Link<'_>, personal: Option<&Personal<'_>>, personal_digest: Hash) {
        self.entries += 1;
        let forged = personal.is_some_and(|personal| personal.digest() != personal_digest);
        let (sequence, findings) = (link.sequence, self.findings.count());
        self.advance(link);
        if forged && self.held.is_none() && self.findings.count() == findings {
            self.find(sequence, Kind::Altered, "Its personal fields are not those that were recorded.");
        }
    }

    /// Something stands in the place of the next entry that is none.
    pub fn unreadable(&mut self, detail: impl Into<String>) {
        self.entries += 1;
        self.release(None);
        self.find(self.place.stored() + 1, Kind::Altered, detail);
        self.place =
            Place { position: self.place.position + 1, hash: None, hash_before: None, flagged: true, ..self.place };
    }

    /// What is signed about the entry that was given last.
    ///
    /// Finds nothing where a finding before explains the difference, or where that entry is still held.
    pub fn checkpoint(&mut self, sequence: i64, hash: Hash) {
        if self.held.is_some() || self.place.position != sequence {
            return;
        }
        if self.place.hash == Some(hash) {
            self.agreed = self.findings.count();
        } else if self.findings.count() == self.agreed {
            self.find(sequence, Kind::Altered, "The log up to here is not the one that was signed: it was made anew.");
            self.agreed = self.findings.count();
        }
    }

    /// How many entries of the chain have been passed; one that is held does not count yet.
    pub fn position(&self) -> i64 {
        self.place.position
    }

    /// Whether the last entry waits for its successor.
    pub fn is_holding(&self) -> bool {
        self.held.is_some()
    }

    /// Ends the walk: what was found, how many entries were given, and where another can go on.
    pub fn finish(mut self) -> (Findings, u64, Place) {
        self.release(None);
        self.recognise_moved();
        for range in std::mem::take(&mut self.vacant) {
            let (first, last) = range.into_inner();
            let detail =
                if first == last { "It is not there.".to_owned() } else { format!("{first} to {last} are not there.") };
            self.findings.add(first, Kind::Missing, detail);
        }
        (self.findings, self.entries, self.place)
    }

    fn advance(&mut self, link: Link<'_>) {
        if let Some(held) = self.held.take()
            && self.resolve(held, Some(&link))
        {
            return;
        }
        self.take(link);
    }

    fn release(&mut self, next: Option<&Link<'_>>) {
        if let Some(held) = self.held.take() {
            self.resolve(held, next);
        }
    }

    fn take(&mut self, link: Link<'_>) {
        let expected = self.place.stored() + 1;
        if link.sequence < expected {
            return self.take_late(&link);
        }
        if link.sequence > expected {
            self.vacant.push(expected..=link.sequence - 1);
            self.place =
                Place { position: link.sequence - 1 - self.place.offset, hash: None, hash_before: None, ..self.place };
        }
        let position = self.place.position + 1;
        let follows = self.place.hash.is_none_or(|hash| hash == link.previous_hash);
        if link.is_sound_at(position) {
            if !follows && !self.place.flagged {
                let detail = "It is not the one that the next entry was chained to.";
                self.find(self.place.stored(), Kind::Altered, detail);
            }
            self.accept(position, &link, false);
        } else if self.place.offset != 0 && follows && link.is_sound_at(link.sequence) {
            // Recorded behind the entry that was put in, with the number that it has.
            self.place.offset = 0;
            self.accept(link.sequence, &link, false);
        } else if self.last_was_inserted(&link) {
            // It was made to fit what is before it, and everything behind it was given the next number.
            self.find(self.place.stored(), Kind::Inserted, "The entries around it were chained to each other.");
            self.place.offset += 1;
            self.place.hash = self.place.hash_before;
            self.accept(position - 1, &link, false);
        } else {
            self.held = Some(link.into_owned());
        }
    }

    /// Whether `link` belongs in the place of the last entry.
    fn last_was_inserted(&self, link: &Link<'_>) -> bool {
        !self.place.flagged
            && self.place.hash_before == Some(link.previous_hash)
            && link.is_sound_at(self.place.position)
    }

    /// One whose number has been passed already.
    fn take_late(&mut self, link: &Link<'_>) {
        let sequence = link.sequence;
        let Some(index) = self.vacant.iter().position(|range| range.contains(&sequence)) else {
            self.find(sequence, Kind::Inserted, "There are two with this sequence.");
            return;
        };
        let (first, last) = self.vacant.swap_remove(index).into_inner();
        self.vacant.extend([first..=sequence - 1, sequence + 1..=last].into_iter().filter(|range| !range.is_empty()));
        if link.is_sound_at(sequence - self.place.offset) {
            self.find(sequence, Kind::Reordered, "It stands behind entries that follow it.");
        } else {
            self.find(sequence, Kind::Altered, "It is out of its place, and not what was recorded.");
        }
    }

    /// Tells what is wrong with an entry, by its successor. True when that has been taken with it.
    fn resolve(&mut self, held: Link<'static>, next: Option<&Link<'_>>) -> bool {
        let position = self.place.position + 1;
        let follows = self.place.hash.is_some_and(|hash| hash == held.previous_hash);
        if let Some(next) = next.filter(|next| next.sequence == held.sequence + 1) {
            if held.is_sound_at(position + 1) && next.is_sound_at(position) {
                self.find(
                    held.sequence,
                    Kind::Reordered,
                    format!("It and {} stand in each other's places.", next.sequence),
                );
                self.accept(position, next, false);
                self.accept(position + 1, &held, false);
                return true;
            }
            if self.place.hash == Some(next.previous_hash) && next.is_sound_at(position) {
                self.find(held.sequence, Kind::Inserted, "The entries around it were chained to each other.");
                self.place.offset += 1;
                return false;
            }
            let renumbered = next.previous_hash == held.hash && next.is_sound_at(position + 2);
            if renumbered && held.is_sound_at(position + 1) {
                self.find(
                    held.sequence,
                    Kind::Missing,
                    "It is not there, and those behind it were given lower numbers.",
                );
                self.place.offset -= 1;
                self.accept(position + 1, &held, false);
                return false;
            }
        }
        // Only its link to the entry before was altered, when everything else gives its hash.
        let relinked = self.place.hash.is_some_and(|hash| held.hash_at(position, hash) == held.hash);
        let goes_on = next.is_none_or(|next| next.previous_hash == held.hash);
        let foreign = self.place.hash.is_some() && !follows && !relinked && goes_on;
        let (kind, detail) = if foreign {
            (Kind::Inserted, "It was not chained to the entry before it.")
        } else {
            (Kind::Altered, "It is not what was recorded: its hash is another.")
        };
        self.find(held.sequence, kind, detail);
        self.accept(position, &held, true);
        if self.suspects.len() < SUSPECTS_MAX {
            let finding = self.findings.as_slice().len() - 1;
            self.suspects.push(Suspect { link: held, position, finding });
        }
        false
    }

    fn accept(&mut self, position: i64, link: &Link<'_>, flagged: bool) {
        let hash_before = self.place.hash;
        self.place = Place { position, hash: Some(link.hash), hash_before, flagged, ..self.place };
    }

    /// Suspects that are in order in another's place were moved there.
    fn recognise_moved(&mut self) {
        for suspect in &self.suspects {
            let home = self
                .suspects
                .iter()
                .find(|other| other.position != suspect.position && suspect.link.is_sound_at(other.position));
            if let (Some(home), Some(finding)) = (home, self.findings.get_mut(suspect.finding)) {
                let detail = format!("It is the one that belongs at {}.", home.link.sequence);
                *finding = Finding { sequence: suspect.link.sequence, kind: Kind::Reordered, detail };
            }
        }
    }

    fn find(&mut self, sequence: i64, kind: Kind, detail: impl Into<String>) {
        self.findings.add(sequence, kind, detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Entry;
    use crate::entry::tests::{PERSONAL, entry};

    /// A sound log of ten.
    fn log() -> Vec<Entry<'static>> {
        let mut previous = Hash::ZERO;
        (1..=10)
            .map(|sequence| {
                let mut entry = Entry { target_id: format!("t-{sequence}").into(), ..entry(sequence) };
                entry.previous_hash = previous;
                rehash(&mut entry);
                previous = entry.hash;
                entry
            })
            .collect()
    }

    fn rehash(entry: &mut Entry<'_>) {
        entry.hash = entry.link(&mut Vec::new()).hash_at(entry.sequence, entry.previous_hash);
    }

    fn walk(log: &[Entry<'_>]) -> Vec<(i64, Kind)> {
        walk_from(Place::START, log).0
    }

    fn walk_from(place: Place, log: &[Entry<'_>]) -> (Vec<(i64, Kind)>, Place) {
        let mut walk = Walk::new(place);
        for entry in log {
            walk.entry(entry.link(&mut Vec::new()), Some(&PERSONAL), entry.personal_digest);
        }
        let (findings, _, place) = walk.finish();
        (findings.sorted().into_iter().map(|finding| (finding.sequence, finding.kind)).collect(), place)
    }

    fn swapped(log: &mut [Entry<'_>], a: usize, b: usize) {
        log.swap(a, b);
        (log[a].sequence, log[b].sequence) = (log[b].sequence, log[a].sequence);
    }

    fn renumbered(log: &mut [Entry<'_>]) {
        for (entry, sequence) in log.iter_mut().zip(1..) {
            entry.sequence = sequence;
        }
    }

    #[test]
    fn sound_log_is_sound_from_any_place() {
        let log = log();

        assert_eq!(walk(&log), []);
        assert_eq!(walk_from(Place::before(4), &log[3..]).0, []);
        let (findings, place) = walk_from(Place::START, &log[..6]);
        assert_eq!((findings, place.stored()), (vec![], 6));
        assert_eq!(walk_from(place, &log[6..]).0, []);
    }

    #[test]
    fn altered_field_is_found_where_it_is_even_with_its_hash_made_anew() {
        for at in [0, 4, 9] {
            let mut altered = log();
            altered[at].outcome = "DENIED".into();
            assert_eq!(walk(&altered), [(altered[at].sequence, Kind::Altered)]);
        }
        for at in [0, 4, 8] {
            let mut altered = log();
            altered[at].outcome = "DENIED".into();
            rehash(&mut altered[at]);
            assert_eq!(walk(&altered), [(altered[at].sequence, Kind::Altered)], "{at}");
        }
        let mut hash = log();
        hash[4].hash = Hash::ZERO;
        assert_eq!(walk(&hash), [(5, Kind::Altered)]);
        let mut link = log();
        link[4].previous_hash = Hash([9; 32]);
        assert_eq!(walk(&link), [(5, Kind::Altered)]);
        let mut digest = log();
        digest[4].personal_digest = Hash::ZERO;
        assert_eq!(walk(&digest), [(5, Kind::Altered)]);
    }

    #[test]
    fn erased_personal_fields_are_no_finding_and_altered_ones_are() {
        let log = log();
        let (mut erased, mut altered) = (Walk::new(Place::START), Walk::new(Place::START));
        for entry in &log {
            erased.entry(entry.link(&mut Vec::new()), None, entry.personal_digest);
            let personal = if entry.sequence == 3 { Personal { ip_address: "::1", ..PERSONAL } } else { PERSONAL };
            altered.entry(entry.link(&mut Vec::new()), Some(&personal), entry.personal_digest);
        }

        assert!(erased.finish().0.is_empty());
        let found = altered.finish().0.sorted();
        assert_eq!((found.len(), found[0].sequence, found[0].kind), (1, 3, Kind::Altered));
    }

    #[test]
    fn missing_entries_are_one_finding_also_when_the_rest_is_renumbered() {
        let mut missing = log();
        missing.drain(3..6);
        assert_eq!(walk(&missing), [(4, Kind::Missing)]);

        let mut first = log();
        first.remove(0);
        assert_eq!(walk(&first), [(1, Kind::Missing)]);

        let mut closed = log();
        closed.remove(4);
        renumbered(&mut closed);
        assert_eq!(walk(&closed), [(5, Kind::Missing)]);
    }

    #[test]
    fn inserted_entry_is_found_whether_it_fits_or_not() {
        let foreign = || Entry { target_id: "foreign".into(), ..entry(5) };
        let mut duplicate = log();
        duplicate.insert(5, foreign());
        assert_eq!(walk(&duplicate), [(5, Kind::Inserted)], "beside one of the same sequence");

        let mut renumbered_behind = log();
        renumbered_behind.insert(4, foreign());
        renumbered(&mut renumbered_behind);
        assert_eq!(walk(&renumbered_behind), [(5, Kind::Inserted)], "with a hash that is wrong");

        let mut fitted = log();
        let mut made_to_fit = Entry { previous_hash: fitted[3].hash, ..foreign() };
        rehash(&mut made_to_fit);
        fitted.insert(4, made_to_fit);
        renumbered(&mut fitted);
        assert_eq!(walk(&fitted), [(5, Kind::Inserted)], "with a hash that fits what is before it");

        let mut grown = renumbered_behind.clone();
        let mut next = Entry { previous_hash: grown[10].hash, sequence: 12, ..foreign() };
        rehash(&mut next);
        grown.push(next);
        assert_eq!(walk(&grown), [(5, Kind::Inserted)], "and the log has grown since");

        let mut behind = log();
        behind.push(Entry { sequence: 11, ..foreign() });
        assert_eq!(walk(&behind), [(11, Kind::Inserted)], "at the end");
    }

    #[test]
    fn swapped_entries_are_found_near_and_far() {
        let mut near = log();
        swapped(&mut near, 4, 5);
        assert_eq!(walk(&near), [(5, Kind::Reordered)]);

        let mut far = log();
        swapped(&mut far, 2, 7);
        assert_eq!(walk(&far), [(3, Kind::Reordered), (8, Kind::Reordered)]);

        let mut lines = log();
        lines.swap(4, 5);
        assert_eq!(walk(&lines), [(5, Kind::Reordered)]);
        let mut far_lines = log();
        far_lines.swap(2, 7);
        assert_eq!(walk(&far_lines).iter().filter(|(_, kind)| *kind != Kind::Reordered).count(), 0);
    }

    #[test]
    fn log_made_anew_is_found_by_what_was_signed() {
        let (sound, mut forged) = (log(), log());
        forged[4].outcome = "DENIED".into();
        for at in 4..10 {
            forged[at].previous_hash = forged[at - 1].hash;
            let (entry, mut buffer) = (&forged[at], Vec::new());
            forged[at].hash = entry.link(&mut buffer).hash_at(entry.sequence, entry.previous_hash);
        }
        let mut walk = Walk::new(Place::START);
        for (entry, signed) in forged.iter().zip(&sound) {
            walk.entry(entry.link(&mut Vec::new()), None, entry.personal_digest);
            if [3, 6, 9].contains(&entry.sequence) {
                walk.checkpoint(signed.sequence, signed.hash);
            }
        }

        let found = walk.finish().0.sorted();
        assert_eq!((found[0].sequence, found[0].kind), (6, Kind::Altered));
    }

    #[test]
    fn what_is_no_entry_is_one_finding() {
        let log = log();
        let mut walk = Walk::new(Place::START);
        for entry in &log {
            if entry.sequence == 4 {
                walk.unreadable("line 4 is no entry");
            } else {
                walk.entry(entry.link(&mut Vec::new()), None, entry.personal_digest);
            }
        }

        let found = walk.finish().0.sorted();
        assert_eq!((found.len(), found[0].sequence, found[0].kind), (1, 4, Kind::Altered));
    }
}
