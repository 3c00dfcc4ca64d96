//! What a caller shows to be answered from knowledge that is at least as new as what it has seen.

use std::fmt;

use chrono::DateTime;

use crate::feed::Place;

/// A place in the stream of events: `<when the stream was made, in microseconds>-<sequence>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsistencyToken(Place);

impl ConsistencyToken {
    /// The token of a place.
    pub fn new(place: Place) -> Self {
        Self(place)
    }

    /// `None` for anything that [`Display`](fmt::Display) does not write.
    pub fn parse(text: &str) -> Option<Self> {
        let (created, sequence) = text.split_once('-')?;
        let digits = |text: &str| (1..=20).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(created) || !digits(sequence) {
            return None;
        }
        let created = DateTime::from_timestamp_micros(created.parse().ok()?)?;
        Some(Self(Place { created, sequence: sequence.parse().ok()? }))
    }

    /// Whether somebody who has heard everything up to `heard` has heard what this token stands for.
    pub fn is_reached_by(&self, heard: Place) -> bool {
        heard.created == self.0.created && heard.sequence >= self.0.sequence
    }

    /// Whether it is of a stream that was made before the one of `heard`, so that it cannot be reached any more.
    pub fn is_of_stream_before(&self, heard: Place) -> bool {
        self.0.created < heard.created
    }
}

impl fmt::Display for ConsistencyToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0.created.timestamp_micros(), self.0.sequence)
    }
}

/// How new an answer must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// As it is at hand.
    Any,
    /// At least as new as this.
    AtLeast(ConsistencyToken),
    /// From the truth, whatever is at hand.
    Latest,
}

impl Consistency {
    /// How [`Consistency::Latest`] is written.
    pub const LATEST: &str = "latest";

    /// Reads a field `consistencyToken`: empty, `latest` or a token. `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" => Some(Self::Any),
            Self::LATEST => Some(Self::Latest),
            token => ConsistencyToken::parse(token).map(Self::AtLeast),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(micros: i64, sequence: u64) -> ConsistencyToken {
        ConsistencyToken(Place { created: DateTime::from_timestamp_micros(micros).unwrap(), sequence })
    }

    #[test]
    fn token_is_read_as_it_was_written_and_nothing_else_is() {
        for token in [token(0, 0), token(1_790_000_000_123_456, u64::MAX)] {
            assert_eq!(Consistency::parse(&token.to_string()), Some(Consistency::AtLeast(token)));
        }
        assert_eq!(Consistency::parse(""), Some(Consistency::Any));
        assert_eq!(Consistency::parse("latest"), Some(Consistency::Latest));
        let long = format!("{}-1", "9".repeat(20));
        for wrong in
            ["-", "1", "1-", "-1", "1-+1", "1-1-1", " 1-1", "1-1 ", "Latest", "a-b", "1-18446744073709551616", &long]
        {
            assert_eq!(Consistency::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn token_is_reached_in_its_own_stream_only() {
        let ConsistencyToken(heard) = token(5, 10);
        assert!(token(5, 10).is_reached_by(heard) && token(5, 9).is_reached_by(heard));
        assert!(
            !token(5, 11).is_reached_by(heard)
                && !token(4, 9).is_reached_by(heard)
                && !token(6, 9).is_reached_by(heard)
        );
        assert!(token(4, 9).is_of_stream_before(heard) && !token(6, 9).is_of_stream_before(heard));
    }
}
