//! The hash chain: each entry's hash covers all of its fields and the hash of the entry before, so that whoever alters,
//! drops, inserts or moves one has to make every later hash anew. It does not show a tail that is cut off; signed
//! checkpoints do.
//!
//! # The encoding
//!
//! `hash = SHA-256(field(1) ‖ field(2) ‖ … ‖ field(17))`, where `field(f)` is the length of `f` in bytes as eight bytes,
//! most significant first, followed by `f`. All fields are UTF-8, as the API shows them, in this order:
//!
//!  1. `trunkline.audit.entry.v1`
//!  2. `previousHash`: 64 lower-case hexadecimal digits, all zeros for the first entry
//!  3. `sequence`: decimal, without leading zeros
//!  4. `id`: lower-case, hyphenated
//!  5. `time`: UTC with six digits of a second: `2026-01-31T23:59:59.000000Z`
//!  6. `actor.type`
//!  7. `actor.id`
//!  8. `action`
//!  9. `target.type`
//! 10. `target.id`
//! 11. `outcome`
//! 12. `ipAddress`
//! 13. `userAgent`
//! 14. `requestId`
//! 15. `traceId`
//! 16. `details`: the JSON text, byte by byte as in the answer
//! 17. the number of fields before this one: `16`

use aws_lc_rs::digest;
use chrono::SecondsFormat;

use super::{Entry, Record};

/// First field of every entry's encoding: names the encoding, so that a later one cannot be taken for it.
const ENCODING: &str = "trunkline.audit.entry.v1";

/// The SHA-256 of an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct EntryHash(pub [u8; digest::SHA256_OUTPUT_LEN]);

impl EntryHash {
    /// What the first entry has before it.
    pub const ZERO: Self = Self([0; digest::SHA256_OUTPUT_LEN]);
}

impl std::fmt::Display for EntryHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for EntryHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// The head of the log, to which entries are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    sequence: i64,
    hash: EntryHash,
}

impl Chain {
    /// An empty log.
    pub const EMPTY: Self = Self { sequence: 0, hash: EntryHash::ZERO };

    /// A log whose last entry has this sequence and hash.
    pub fn from_head(sequence: i64, hash: EntryHash) -> Self {
        Self { sequence, hash }
    }

    /// Gives the record its place behind the head, and becomes the new head.
    pub fn append(&mut self, record: Record) -> Entry {
        let (sequence, previous_hash) = (self.sequence + 1, self.hash);
        let hash = hash(sequence, previous_hash, &record);
        *self = Self { sequence, hash };
        Entry { sequence, record, previous_hash, hash }
    }
}

fn hash(sequence: i64, previous_hash: EntryHash, record: &Record) -> EntryHash {
    let fields = [
        ENCODING,
        &previous_hash.to_string(),
        &sequence.to_string(),
        &record.id.as_hyphenated().to_string(),
        &record.time.to_rfc3339_opts(SecondsFormat::Micros, true),
        record.actor_type.as_str(),
        &record.actor_id,
        &record.action,
        &record.target_type,
        &record.target_id,
        record.outcome.as_str(),
        &record.ip_address,
        &record.user_agent,
        &record.request_id,
        &record.trace_id,
        &record.details,
    ];
    let mut context = digest::Context::new(&digest::SHA256);
    for field in fields.iter().chain(&["16"]) {
        context.update(&u64::try_from(field.len()).expect("a length fits 64 bits").to_be_bytes());
        context.update(field.as_bytes());
    }
    EntryHash(context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::record;
    use super::super::{ActorType, Outcome};
    use super::*;

    /// Computed with Python's hashlib from the description at the head of this module.
    #[test]
    fn hash_is_the_documented_one() {
        let entry = Chain::from_head(0, EntryHash::ZERO).append(record());

        assert_eq!(entry.hash.to_string(), "20864b17e1db3fa706d663a01f4a93deaa0c6044717b07440de23bbfe04bc5e3");
    }

    #[test]
    fn sequence_is_dense_and_each_entry_names_the_one_before() {
        let mut chain = Chain::EMPTY;

        let first = chain.append(record());
        let second = chain.append(record());

        assert_eq!((first.sequence, second.sequence), (1, 2));
        assert_eq!(first.previous_hash, EntryHash::ZERO);
        assert_eq!(second.previous_hash, first.hash);
        assert_eq!(chain, Chain::from_head(2, second.hash));
    }

    #[test]
    fn every_field_is_covered_and_none_can_flow_into_its_neighbour() {
        let original = hash(1, EntryHash::ZERO, &record());
        let altered = |alter: fn(&mut Record)| {
            let mut record = record();
            alter(&mut record);
            hash(1, EntryHash::ZERO, &record)
        };

        let hashes = [
            hash(2, EntryHash::ZERO, &record()),
            hash(1, EntryHash([1; 32]), &record()),
            altered(|record| record.id = uuid::Uuid::nil()),
            altered(|record| record.time += chrono::TimeDelta::microseconds(1)),
            altered(|record| record.actor_type = ActorType::ApiKey),
            altered(|record| record.actor_id.push('x')),
            altered(|record| record.action.push('x')),
            altered(|record| record.target_type.push('x')),
            altered(|record| record.target_id.push('x')),
            altered(|record| record.outcome = Outcome::Denied),
            altered(|record| record.ip_address.push('x')),
            altered(|record| record.user_agent.push('x')),
            altered(|record| record.request_id.push('x')),
            altered(|record| record.trace_id.push('x')),
            altered(|record| record.details.push(' ')),
            altered(|record| {
                record.target_type = "use".to_owned();
                record.target_id = "rbob".to_owned();
            }),
        ];

        for (at, hash) in hashes.iter().enumerate() {
            assert_ne!(*hash, original, "{at}");
            assert!(!hashes[..at].contains(hash), "{at}");
        }
    }
}
