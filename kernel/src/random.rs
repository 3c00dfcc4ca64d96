//! Randomness and identifiers, handed in. A seeded source makes a test repeat itself; it is never used otherwise.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest;
use uuid::{Builder, Uuid};

use crate::Clock;

/// A source of random bytes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Random(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Seeded { seed: u64, drawn: Arc<AtomicU64> },
}

/// Bytes of an identifier: what is no longer than one comes out of a store, since drawing costs the same for few bytes as
/// for many. Keys and tokens are longer and are drawn by themselves.
const SMALL_MAX: usize = 16;

/// Bytes drawn ahead in each thread.
const STORE_LEN: usize = 1024;

thread_local! {
    static STORE: RefCell<Store> = const { RefCell::new(Store { bytes: [0; STORE_LEN], given: STORE_LEN }) };
}

/// What was drawn ahead. Nothing is given twice, nor kept once given.
struct Store {
    bytes: [u8; STORE_LEN],
    given: usize,
}

impl Store {
    fn take(&mut self, into: &mut [u8]) {
        if self.given + into.len() > STORE_LEN {
            draw(&mut self.bytes);
            self.given = 0;
        }
        let taken = &mut self.bytes[self.given..self.given + into.len()];
        into.copy_from_slice(taken);
        taken.fill(0);
        self.given += into.len();
    }
}

fn draw(bytes: &mut [u8]) {
    aws_lc_rs::rand::fill(bytes).expect("the operating system gives randomness");
}

impl Random {
    /// The cryptographic generator, seeded by the operating system.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A repeatable sequence, for tests. Worthless for secrets.
    pub fn seeded(seed: u64) -> Self {
        Self(Source::Seeded { seed, drawn: Arc::default() })
    }

    /// Fills `bytes`.
    pub fn fill(&self, bytes: &mut [u8]) {
        match &self.0 {
            Source::System if bytes.len() <= SMALL_MAX => STORE.with_borrow_mut(|store| store.take(bytes)),
            Source::System => draw(bytes),
            Source::Seeded { seed, drawn } => {
                for chunk in bytes.chunks_mut(digest::SHA256_OUTPUT_LEN) {
                    let mut block = digest::Context::new(&digest::SHA256);
                    block.update(&seed.to_le_bytes());
                    block.update(&drawn.fetch_add(1, Ordering::Relaxed).to_le_bytes());
                    let block = block.finish();
                    chunk.copy_from_slice(&block.as_ref()[..chunk.len()]);
                }
            }
        }
    }

    /// `N` random bytes.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }

    /// A number in `0..1`, for jitter.
    pub fn fraction(&self) -> f64 {
        f64::from(u32::from_le_bytes(self.bytes())) / (f64::from(u32::MAX) + 1.0)
    }
}

/// Makes identifiers.
#[derive(Clone, Debug)]
pub struct Ids {
    clock: Clock,
    random: Random,
}

impl Ids {
    /// Identifiers stamped by `clock` and filled up from `random`.
    pub fn new(clock: Clock, random: Random) -> Self {
        Self { clock, random }
    }

    /// A UUIDv7 (RFC 9562 §5.7): sorts by the millisecond in which it was made, in any order within one.
    pub fn new_id(&self) -> Uuid {
        let millis = u64::try_from(self.clock.unix_micros() / 1_000).unwrap_or(0);
        Builder::from_unix_timestamp_millis(millis, &self.random.bytes()).into_uuid()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use chrono::DateTime;

    use super::*;

    #[test]
    fn ids_are_version_7_and_sort_by_time() {
        let clock = Clock::manual(DateTime::from_timestamp(1_700_000_000, 0).unwrap());
        let ids = Ids::new(clock.clone(), Random::system());

        let first = ids.new_id();
        clock.advance(Duration::from_millis(1));
        let second = ids.new_id();

        assert_eq!(first.get_version_num(), 7);
        assert!(first < second);
    }

    #[test]
    fn small_draws_never_repeat_over_many_stores() {
        let random = Random::system();

        let drawn: HashSet<[u8; 16]> = (0..1_000).map(|_| random.bytes()).collect();

        assert_eq!(drawn.len(), 1_000);
        assert!(drawn.iter().all(|bytes| *bytes != [0; 16]));
    }

    #[test]
    fn seeded_source_repeats_and_never_repeats_itself() {
        let (one, two) = (Random::seeded(7), Random::seeded(7));

        let first: [u8; 40] = one.bytes();

        assert_eq!(first, two.bytes());
        assert_ne!(first, one.bytes());
        assert_ne!(first[..32], first[8..]);
    }
}
