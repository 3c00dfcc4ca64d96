//! A point in time, on the wire as `google.protobuf.Timestamp`.

use std::fmt;

use chrono::{DateTime, Datelike as _, SecondsFormat, Utc};
use serde::de::{Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

/// UTC, in years 1 to 9999. Its JSON is RFC 3339 with `Z` and as many digits of the second as it has (0, 3, 6 or 9), as
/// proto3's JSON mapping says; any offset is understood.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Timestamp {
    /// Since 1970-01-01T00:00:00Z.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// 0 to 999,999,999, forward in time.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl Timestamp {
    /// Reads RFC 3339.
    pub fn parse(text: &str) -> Option<Self> {
        DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc().into())
    }
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(time: DateTime<Utc>) -> Self {
        Self { seconds: time.timestamp(), nanos: time.timestamp_subsec_nanos().cast_signed() }
    }
}

/// Seconds or nanoseconds that are no time, or one that RFC 3339 cannot write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange;

impl fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a time out of range")
    }
}

impl std::error::Error for OutOfRange {}

impl TryFrom<Timestamp> for DateTime<Utc> {
    type Error = OutOfRange;

    fn try_from(time: Timestamp) -> Result<Self, OutOfRange> {
        let nanos = u32::try_from(time.nanos).map_err(|_| OutOfRange)?;
        let time = Self::from_timestamp(time.seconds, nanos).ok_or(OutOfRange)?;
        if (1..=9_999).contains(&time.year()) { Ok(time) } else { Err(OutOfRange) }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let time = DateTime::<Utc>::try_from(*self).map_err(ser::Error::custom)?;
        serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text)
    }
}

struct Text;

impl Visitor<'_> for Text {
    type Value = Timestamp;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a time as in RFC 3339")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
        Timestamp::parse(text).ok_or_else(|| E::invalid_value(Unexpected::Str("a text"), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_utc_with_the_digits_it_has() {
        for (given, written) in [
            ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
            ("2026-01-02T03:04:05.678901Z", "2026-01-02T03:04:05.678901Z"),
            ("2026-01-02T05:04:05.5+02:00", "2026-01-02T03:04:05.500Z"),
        ] {
            let time: Timestamp = serde_json::from_value(given.into()).expect("it is a time");
            assert_eq!(serde_json::to_value(time).expect("it is a time"), written);
        }
    }

    #[test]
    fn what_is_no_time_is_refused_without_repeating_it() {
        let error = serde_json::from_value::<Timestamp>("hunter2".into()).expect_err("it is no time").to_string();
        assert!(error.contains("expected a time") && !error.contains("hunter2"), "{error}");
        for (seconds, nanos) in [(i64::MAX, 0), (253_402_300_800, 0), (-62_135_596_801, 0), (0, -1), (0, i32::MAX)] {
            let time = Timestamp { seconds, nanos };
            assert_eq!(DateTime::try_from(time), Err(OutOfRange), "{time:?}");
            assert!(serde_json::to_value(time).is_err(), "{time:?}");
        }
    }
}
