//! The one form of an error on the wire (RFC 9457).

use serde::{Deserialize, Serialize};

/// Problem details. Over HTTP the body of every error, over NATS that of every reply with `Nats-Service-Error-Code`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// `urn:trunkline:problem:<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code in words.
    pub title: String,
    /// HTTP status, 400 to 599.
    pub status: u16,
    /// A stable word in snake_case.
    pub code: String,
    /// What the caller can do about it.
    #[serde(default)]
    pub detail: String,
    /// The request it belongs to.
    #[serde(default)]
    pub request_id: String,
    /// For bad input: every field at fault.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

impl Problem {
    /// A problem with its type and title made from the code.
    pub fn new(status: u16, code: &str, detail: impl Into<String>) -> Self {
        let mut title = code.replace('_', " ");
        if let Some(first) = title.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        Self {
            kind: format!("urn:trunkline:problem:{code}"),
            title,
            status,
            code: code.to_owned(),
            detail: detail.into(),
            request_id: String::new(),
            errors: Vec::new(),
        }
    }

    /// As JSON.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers are always JSON")
    }
}

/// One field at fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    /// JSON Pointer (RFC 6901) into the request: `/email`.
    pub pointer: String,
    /// A stable word in snake_case.
    pub code: String,
    /// What is wrong, completing the field's name to a sentence.
    pub detail: String,
}

impl FieldError {
    /// From its three parts.
    pub fn new(pointer: impl Into<String>, code: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), code: code.into(), detail: detail.into() }
    }
}
