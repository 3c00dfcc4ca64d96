//! The hash chain as it grows. What is hashed is told in [`proof::entry`].

use proof::Hash;

use super::{Entry, Record, Salt};

/// The head of the log, to which entries are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Of the last entry; 0 in an empty log.
    pub sequence: i64,
    /// Of the last entry.
    pub hash: Hash,
}

impl Chain {
    /// An empty log.
    pub const EMPTY: Self = Self { sequence: 0, hash: Hash::ZERO };

    /// Gives the record its place behind the head, and becomes the new head.
    pub fn append(&mut self, record: Record, salt: Salt) -> Entry {
        let personal_digest = record.personal_digest(salt);
        let mut entry = Entry {
            sequence: self.sequence + 1,
            record,
            salt: Some(salt),
            personal_digest,
            previous_hash: self.hash,
            hash: Hash::ZERO,
        };
        entry.hash = entry.to_proof().link(&mut Vec::new()).hash_at(entry.sequence, entry.previous_hash);
        *self = Self { sequence: entry.sequence, hash: entry.hash };
        entry
    }
}

#[cfg(test)]
mod tests {
    use proof::{Place, Walk};

    use super::super::entry::tests::record;
    use super::*;

    #[test]
    fn sequence_is_dense_and_what_was_appended_proves_itself() {
        let (mut chain, mut walk) = (Chain::EMPTY, Walk::new(Place::START));

        let entries = [1, 2, 3].map(|salt| chain.append(record(), Salt([salt; 16])));

        assert_eq!(entries.each_ref().map(|entry| entry.sequence), [1, 2, 3]);
        assert_eq!(chain, Chain { sequence: 3, hash: entries[2].hash });
        for entry in &entries {
            let salt = entry.salt.unwrap().to_string();
            let personal = entry.record.personal(&salt);
            walk.entry(entry.to_proof().link(&mut Vec::new()), Some(&personal), entry.personal_digest);
        }
        assert!(walk.finish().0.is_empty());
    }

    #[test]
    fn same_personal_fields_have_another_digest_in_each_entry() {
        let mut chain = Chain::EMPTY;

        let (first, second) = (chain.append(record(), Salt([1; 16])), chain.append(record(), Salt([2; 16])));

        assert_ne!(first.personal_digest, second.personal_digest);
    }
}
