//! What of an entry is hashed. Each entry's hash covers all of its fields and the hash of the entry before, so that whoever
//! alters, drops, inserts or moves one has to make every later hash anew; signed checkpoints show that, and a tail that is
//! cut off.
//!
//! Personal fields are covered through a salted digest: when they are erased together with their salt, the digest stays,
//! the chain holds, and nobody can tell from the digest what they were.
//!
//! # The encoding
//!
//! `hash = SHA-256(field(1) ‖ field(2) ‖ … ‖ field(16))`, where `field(f)` is the length of `f` in bytes as eight bytes,
//! most significant first, followed by `f`. All fields are UTF-8, as the API shows them, in this order:
//!
//!  1. `trunkline.audit.entry.v2`
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
//! 12. `requestId`
//! 13. `traceId`
//! 14. `details`: the JSON text, byte by byte as in the answer
//! 15. `personalDigest`: 64 lower-case hexadecimal digits
//! 16. the number of fields before this one: `15`
//!
//! `personalDigest` is made in the same way of these fields:
//!
//!  1. `trunkline.audit.personal.v1`
//!  2. `personalSalt`: 32 lower-case hexadecimal digits, random for each entry
//!  3. `ipAddress`
//!  4. `userAgent`
//!  5. `actorName`
//!  6. `targetName`
//!  7. the number of fields before this one: `6`
//!
//! An entry whose personal fields are erased has all five of them empty; its `personalDigest` cannot be checked then, and
//! need not be, since `hash` covers it.

use std::borrow::Cow;

use crate::encoding::{Hash, length, put};

/// First field of every entry's encoding: names the encoding, so that another cannot be taken for it.
const ENCODING: &str = "trunkline.audit.entry.v2";

/// The same for personal fields.
const PERSONAL_ENCODING: &str = "trunkline.audit.personal.v1";

/// What concerns a person, and can be erased.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Personal<'a> {
    /// 32 lower-case hexadecimal digits.
    pub salt: &'a str,
    /// As claimed by the client.
    pub ip_address: &'a str,
    /// As claimed by the client.
    pub user_agent: &'a str,
    /// What the actor was called.
    pub actor_name: &'a str,
    /// What the target was called.
    pub target_name: &'a str,
}

impl Personal<'_> {
    /// The digest that the entry's hash covers.
    pub fn digest(&self) -> Hash {
        let mut fields = Vec::with_capacity(256);
        for field in
            [PERSONAL_ENCODING, self.salt, self.ip_address, self.user_agent, self.actor_name, self.target_name, "6"]
        {
            put(&mut fields, field);
        }
        Hash::of(&[&fields])
    }

    /// Whether nothing is left of them.
    pub fn is_erased(&self) -> bool {
        *self == Self::default()
    }
}

/// An entry as the API shows it, in the words that are hashed.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the fields are described at the head of this module")]
pub struct Entry<'a> {
    pub sequence: i64,
    pub id: Cow<'a, str>,
    pub time: Cow<'a, str>,
    pub actor_type: Cow<'a, str>,
    pub actor_id: Cow<'a, str>,
    pub action: Cow<'a, str>,
    pub target_type: Cow<'a, str>,
    pub target_id: Cow<'a, str>,
    pub outcome: Cow<'a, str>,
    pub request_id: Cow<'a, str>,
    pub trace_id: Cow<'a, str>,
    pub details: Cow<'a, str>,
    pub personal_digest: Hash,
    pub previous_hash: Hash,
    pub hash: Hash,
}

impl Entry<'_> {
    /// Encodes it into `buffer`, whose content is dropped.
    pub fn link<'b>(&self, buffer: &'b mut Vec<u8>) -> Link<'b> {
        buffer.clear();
        for field in [
            &*self.id,
            &*self.time,
            &*self.actor_type,
            &*self.actor_id,
            &*self.action,
            &*self.target_type,
            &*self.target_id,
            &*self.outcome,
            &*self.request_id,
            &*self.trace_id,
            &*self.details,
        ] {
            put(buffer, field);
        }
        put(buffer, self.personal_digest.hex());
        put(buffer, "15");
        Link {
            sequence: self.sequence,
            previous_hash: self.previous_hash,
            hash: self.hash,
            rest: Cow::Borrowed(buffer),
        }
    }
}

/// An entry reduced to what the chain is made of.
#[derive(Clone, Debug)]
pub struct Link<'a> {
    /// The sequence under which it stands.
    pub sequence: i64,
    /// The hash that it names as that of the entry before.
    pub previous_hash: Hash,
    /// The hash that it bears.
    pub hash: Hash,
    /// The encoded fields from the fourth on.
    rest: Cow<'a, [u8]>,
}

impl Link<'_> {
    /// The hash that it should bear in a place behind an entry with this hash.
    pub fn hash_at(&self, sequence: i64, previous_hash: Hash) -> Hash {
        let mut fields = Vec::with_capacity(160);
        put(&mut fields, ENCODING);
        put(&mut fields, previous_hash.hex());
        let mut digits = [0_u8; 20];
        let digits = decimal(sequence, &mut digits);
        fields.extend_from_slice(&length(digits));
        fields.extend_from_slice(digits);
        Hash::of(&[&fields, &self.rest])
    }

    /// Whether the hash that it bears is right for this place.
    pub(crate) fn is_sound_at(&self, sequence: i64) -> bool {
        self.hash_at(sequence, self.previous_hash) == self.hash
    }

    pub(crate) fn into_owned(self) -> Link<'static> {
        Link { rest: Cow::Owned(self.rest.into_owned()), ..self }
    }
}

fn decimal(number: i64, digits: &mut [u8; 20]) -> &[u8] {
    use std::io::Write as _;
    let free = {
        let mut free = &mut digits[..];
        write!(free, "{number}").expect("a sequence has at most 20 characters");
        free.len()
    };
    &digits[..20 - free]
}

/// The time as it is hashed, from any RFC 3339 text in UTC with at most six digits of a second.
pub fn hashed_time(text: &str) -> Option<Cow<'_, str>> {
    const SECONDS: usize = "2026-01-31T23:59:59".len();
    let rest = text.get(SECONDS..)?.strip_suffix('Z')?;
    let fraction = if rest.is_empty() { "" } else { rest.strip_prefix('.')? };
    if fraction.len() > 6 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    if fraction.len() == 6 { Some(text.into()) } else { Some(format!("{}.{fraction:0<6}Z", &text[..SECONDS]).into()) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const PERSONAL: Personal<'static> = Personal {
        salt: "00112233445566778899aabbccddeeff",
        ip_address: "192.0.2.1",
        user_agent: "curl/8",
        actor_name: "",
        target_name: "Bob",
    };

    pub(crate) fn entry(sequence: i64) -> Entry<'static> {
        Entry {
            sequence,
            id: "01932c07-20c3-7c31-a3f5-000000000001".into(),
            time: "2023-11-14T22:13:20.123456Z".into(),
            actor_type: "USER".into(),
            actor_id: "ann".into(),
            action: "identity.user.created".into(),
            target_type: "user".into(),
            target_id: "bob".into(),
            outcome: "SUCCESS".into(),
            request_id: "r-1".into(),
            trace_id: "0af7651916cd43dd8448eb211c80319c".into(),
            details: r#"{"roles":["auditor"]}"#.into(),
            personal_digest: PERSONAL.digest(),
            previous_hash: Hash::ZERO,
            hash: Hash::ZERO,
        }
    }

    fn hash(entry: &Entry<'_>) -> Hash {
        entry.link(&mut Vec::new()).hash_at(entry.sequence, entry.previous_hash)
    }

    /// Computed with Python's hashlib from the description at the head of this module.
    #[test]
    fn hashes_are_the_documented_ones() {
        assert_eq!(PERSONAL.digest().to_string(), "4875b0382a2f17176c6b991ea3aa1f32530cb7cc6f30052bec28e55f4bc644ec");
        assert_eq!(hash(&entry(1)).to_string(), "d14a81b6ce0310959329224fa95483f5bba5aedc23349faa5a459a25cfad2b7e");
    }

    #[test]
    fn every_field_is_covered_and_none_can_flow_into_its_neighbour() {
        let altered = |alter: fn(&mut Entry<'_>)| {
            let mut entry = entry(1);
            alter(&mut entry);
            hash(&entry)
        };
        let hashes = [
            hash(&entry(1)),
            hash(&entry(2)),
            altered(|entry| entry.previous_hash = Hash([1; 32])),
            altered(|entry| entry.id = "".into()),
            altered(|entry| entry.time = "2023-11-14T22:13:20.123457Z".into()),
            altered(|entry| entry.actor_type = "API_KEY".into()),
            altered(|entry| entry.actor_id = "anna".into()),
            altered(|entry| entry.action = "identity.user.deleted".into()),
            altered(|entry| entry.target_type = "users".into()),
            altered(|entry| entry.target_id = "rob".into()),
            altered(|entry| entry.outcome = "DENIED".into()),
            altered(|entry| entry.request_id = "r-2".into()),
            altered(|entry| entry.trace_id = "".into()),
            altered(|entry| entry.details = r#"{"roles":["auditor"] }"#.into()),
            altered(|entry| entry.personal_digest = Hash::ZERO),
            altered(|entry| {
                entry.target_type = "use".into();
                entry.target_id = "rbob".into();
            }),
        ];
        let digests = [
            PERSONAL,
            Personal { salt: "x", ..PERSONAL },
            Personal { ip_address: "x", ..PERSONAL },
            Personal { user_agent: "x", ..PERSONAL },
            Personal { actor_name: "x", ..PERSONAL },
            Personal { target_name: "x", ..PERSONAL },
        ]
        .map(|personal| personal.digest());

        for all in [&hashes[..], &digests[..]] {
            for (at, hash) in all.iter().enumerate() {
                assert!(!all[..at].contains(hash), "{at}");
            }
        }
    }

    #[test]
    fn time_is_hashed_with_six_digits_however_many_are_shown() {
        assert_eq!(hashed_time("2026-01-31T23:59:59Z").unwrap(), "2026-01-31T23:59:59.000000Z");
        assert_eq!(hashed_time("2026-01-31T23:59:59.120Z").unwrap(), "2026-01-31T23:59:59.120000Z");
        assert_eq!(hashed_time("2026-01-31T23:59:59.123456Z").unwrap(), "2026-01-31T23:59:59.123456Z");
        for wrong in ["2026-01-31T23:59:59+00:00", "2026-01-31T23:59:59.1234567Z", "2026", "", "2026-01-31T23:59:59,1Z"]
        {
            assert_eq!(hashed_time(wrong), None, "{wrong}");
        }
    }
}
