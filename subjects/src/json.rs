//! The JSON of requests, replies and events: proto3 JSON, with faults that say where they are.

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_path_to_error::Segment;

use crate::{Bind, Body, FieldError};

/// Deeper nesting is refused before it is parsed (S37).
pub const DEPTH_MAX: usize = 32;

/// Why a body was not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Not JSON, or JSON that readers could take in two ways: HTTP 400 `malformed_body`.
    Malformed(String),
    /// JSON of another shape: HTTP 422 `validation_failed`.
    Invalid(FieldError),
    /// The body names a field that the path or query binds: HTTP 400 `bound_field_in_body`.
    Bound(FieldError),
}

/// Encodes a message.
pub fn encode<T: Body>(message: &T) -> Vec<u8> {
    serde_json::to_vec(message).expect("messages have string keys and no fallible fields")
}

/// Decodes a message; an empty body is the message with all defaults.
///
/// Requests refuse unknown fields; replies and events ignore them.
pub fn decode<T: Body>(body: &[u8]) -> Result<T, DecodeError> {
    if body.is_empty() {
        return Ok(T::default());
    }
    if too_deep(body) {
        return Err(DecodeError::Malformed(format!("is nested deeper than {DEPTH_MAX} levels")));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let message = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let pointer = pointer(error.path());
        classify(pointer, error.inner())
    })?;
    deserializer.end().map_err(|error| DecodeError::Malformed(error.to_string()))?;
    Ok(message)
}

/// Says what is wrong with a body that may be any JSON; an empty one is fine.
pub fn check_any(body: &[u8]) -> Result<(), DecodeError> {
    if body.is_empty() {
        return Ok(());
    }
    if too_deep(body) {
        return Err(DecodeError::Malformed(format!("is nested deeper than {DEPTH_MAX} levels")));
    }
    serde_json::from_slice::<IgnoredAny>(body).map(|_| ()).map_err(|error| classify(String::new(), &error))
}

/// Decodes a request and sets what its path and query bind; pairs of proto field name and value.
pub fn decode_bound<'a, T: Body + Bind>(
    body: &[u8],
    bindings: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<T, DecodeError> {
    let mut message: T = decode(body)?;
    let mut bindings = bindings.into_iter().peekable();
    if bindings.peek().is_none() {
        return Ok(message);
    }
    let named = if body.is_empty() { Vec::new() } else { top_level_keys(body) };
    for (field, value) in bindings {
        let json_name = T::json_name(field).unwrap_or(field);
        if named.iter().any(|key| key == json_name || key == field) {
            let detail = "is given by the path or query and must not stand in the body";
            return Err(DecodeError::Bound(FieldError::new(format!("/{json_name}"), "bound_field_in_body", detail)));
        }
        message.bind(field, value).map_err(|error| DecodeError::Invalid(error.0))?;
    }
    Ok(message)
}

/// A value never stands in the message: it may be a password.
fn classify(pointer: String, error: &serde_json::Error) -> DecodeError {
    let message = error.to_string();
    if !error.is_data() {
        return DecodeError::Malformed(format!("at line {}, column {}", error.line(), error.column()));
    }
    if message.starts_with("duplicate field") {
        return DecodeError::Malformed(format!("names `{pointer}` twice"));
    }
    if message.starts_with("unknown field") {
        return DecodeError::Invalid(FieldError::new(pointer, "unknown_field", "is not a field of this request"));
    }
    let expected = message
        .split_once("expected ")
        .map(|(_, rest)| rest.split(" at line ").next().unwrap_or(rest))
        .filter(|rest| !rest.is_empty());
    let detail = expected.map_or_else(|| "does not fit".to_owned(), |what| format!("must be {what}"));
    DecodeError::Invalid(FieldError::new(pointer, "invalid", detail))
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    path.iter()
        .map(|segment| match segment {
            Segment::Map { key } => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
            Segment::Seq { index } => format!("/{index}"),
            Segment::Enum { .. } | Segment::Unknown => String::new(),
        })
        .collect()
}

/// Whether brackets outside strings nest deeper than the limit; says nothing about validity.
fn too_deep(body: &[u8]) -> bool {
    if body.len() <= DEPTH_MAX {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return true;
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

fn top_level_keys(body: &[u8]) -> Vec<String> {
    struct Keys;
    impl<'de> Visitor<'de> for Keys {
        type Value = Vec<String>;

        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut keys = Vec::new();
            while let Some((key, IgnoredAny)) = map.next_entry()? {
                keys.push(key);
            }
            Ok(keys)
        }
    }
    impl<'de> DeserializeSeed<'de> for Keys {
        type Value = Vec<String>;

        fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
            deserializer.deserialize_map(self)
        }
    }
    Keys.deserialize(&mut serde_json::Deserializer::from_slice(body)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::v1::{GetUserRequest, ListUsersRequest, RegisterRequest, User, user};

    fn fault(error: DecodeError) -> (String, String) {
        match error {
            DecodeError::Invalid(field) | DecodeError::Bound(field) => (field.pointer, field.code),
            DecodeError::Malformed(detail) => ("malformed".to_owned(), detail),
        }
    }

    fn register(body: &str) -> Result<RegisterRequest, (String, String)> {
        decode(body.as_bytes()).map_err(fault)
    }

    #[test]
    fn a_request_is_read_by_its_json_names() {
        let request = register(r#"{"email":"a@b.example","displayName":"A"}"#).unwrap();
        assert_eq!((request.email.as_str(), request.display_name.as_str()), ("a@b.example", "A"));
        assert_eq!(register("").unwrap(), RegisterRequest::default());
    }

    #[test]
    fn an_unknown_field_of_a_request_is_pointed_at() {
        let error = register(r#"{"email":"a@b.example","role":"admin"}"#).unwrap_err();
        assert_eq!(error, ("/role".to_owned(), "unknown_field".to_owned()));
    }

    #[test]
    fn a_wrong_type_is_pointed_at_and_its_value_is_not_repeated() {
        match decode::<RegisterRequest>(br#"{"password":31415926}"#).unwrap_err() {
            DecodeError::Invalid(field) => {
                assert_eq!(field.pointer, "/password");
                assert!(!field.detail.contains("31415926"), "{}", field.detail);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_not_json_is_malformed() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        let nested_unknown = format!(r#"{{"x":{deep}}}"#);
        for body in [
            "{",
            "nonsense",
            "{}{}",
            "{} x",
            "\u{feff}{}",
            r#"{"email":NaN}"#,
            r#"{"email":"\ud800"}"#,
            &deep,
            &nested_unknown,
            r#"{"email":"a","email":"b"}"#,
        ] {
            assert_eq!(register(body).unwrap_err().0, "malformed", "{body:.40}");
        }
        assert_eq!(fault(decode::<RegisterRequest>(b"{\"email\":\"\xff\"}").unwrap_err()).0, "malformed");
    }

    #[test]
    fn a_reply_ignores_what_it_does_not_know() {
        let user: User = decode(br#"{"id":"1","state":"ACTIVE","new":{"a":[1]}}"#).unwrap();
        assert_eq!((user.id.as_str(), user.state()), ("1", user::State::Active));
    }

    #[test]
    fn defaults_are_written_and_enums_are_words() {
        let user = User { state: user::State::Unverified.into(), ..User::default() };
        let text = String::from_utf8(encode(&user)).unwrap();
        assert!(text.contains(r#""state":"UNVERIFIED""#) && text.contains(r#""emailVerified":false"#), "{text}");
    }

    #[test]
    fn path_and_query_are_bound_after_the_body() {
        let request: ListUsersRequest = decode_bound(b"", [("page_size", "10"), ("state", "ACTIVE")]).unwrap();
        assert_eq!((request.page_size, request.state()), (10, user::State::Active));
        let error = decode_bound::<ListUsersRequest>(b"", [("page_size", "ten")]).unwrap_err();
        assert_eq!(fault(error).0, "/pageSize");
        let error = decode_bound::<ListUsersRequest>(b"", [("state", "UNSPECIFIED")]).unwrap_err();
        assert_eq!(fault(error).0, "/state");
    }

    #[test]
    fn a_body_that_names_a_bound_field_is_refused_under_both_its_names() {
        for body in [r#"{"userId":"2"}"#, r#"{"user_id":"2"}"#] {
            let error = decode_bound::<GetUserRequest>(body.as_bytes(), [("user_id", "1")]).unwrap_err();
            assert_eq!(fault(error), ("/userId".to_owned(), "bound_field_in_body".to_owned()));
        }
    }
}
