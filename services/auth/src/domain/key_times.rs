//! When a signing key is published, signs, and is withdrawn.

use chrono::{DateTime, TimeDelta, Utc};

/// The longest that an access token may count, whatever is set when the key is withdrawn: a token that an instance with other
/// settings issued must not outlive its key.
pub const ACCESS_TOKEN_TTL_MAX: TimeDelta = TimeDelta::minutes(15);

/// How long after its successor a key may still sign: what instances go on with for seconds, requests that were under way, and
/// clocks that disagree.
const OVERLAP: TimeDelta = TimeDelta::minutes(1);

/// The times of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyTimes {
    /// Published from here on.
    pub created_at: DateTime<Utc>,
    /// Signs from here on.
    pub activates_at: DateTime<Utc>,
}

impl KeyTimes {
    /// Of the first key, before which there is no token and so nobody who could lack it.
    pub fn first(now: DateTime<Utc>) -> Self {
        Self { created_at: now, activates_at: now }
    }

    /// Of a key that follows another: it signs when every verifier has had `propagation` to hear of it.
    pub fn next(now: DateTime<Utc>, propagation: TimeDelta) -> Self {
        Self { created_at: now, activates_at: now + propagation }
    }

    /// When the key before this one has signed its last token, and that has ended.
    pub fn predecessor_retires_at(&self) -> DateTime<Utc> {
        self.activates_at + OVERLAP + ACCESS_TOKEN_TTL_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_published_before_it_signs_and_after_its_last_token_has_ended() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let propagation = TimeDelta::minutes(2);

        let next = KeyTimes::next(now, propagation);

        assert_eq!(next.activates_at - next.created_at, propagation);
        // The last token of the key before it, signed in the last moment by whoever heard of it last.
        let last_token_ends = next.activates_at + TimeDelta::seconds(15) + ACCESS_TOKEN_TTL_MAX;
        assert!(next.predecessor_retires_at() > last_token_ends + TimeDelta::seconds(30));
        assert_eq!(KeyTimes::first(now).activates_at, now);
    }
}
