//! Free JSON keeps its text: no number becomes a double on the way.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::free::v1::RawJson;

impl Serialize for RawJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = if self.text.is_empty() { "null" } else { &self.text };
        let raw: &RawValue = serde_json::from_str(text).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RawJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Ok(Self { text: raw.get().to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use crate::audit::v1::Record;

    #[test]
    fn free_json_passes_through_digit_for_digit() {
        let body = br#"{"id":"1","details":{"n":12345678901234567890.50,"deep":[{"a":null}]}}"#;
        let record: Record = crate::json::decode(body).unwrap();
        assert_eq!(record.details.as_ref().unwrap().text, r#"{"n":12345678901234567890.50,"deep":[{"a":null}]}"#);
        let text = String::from_utf8(crate::json::encode(&record)).unwrap();
        assert!(text.contains(r#""details":{"n":12345678901234567890.50,"deep":[{"a":null}]}"#), "{text}");
    }
}
