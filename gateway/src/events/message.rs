//! Events and notices as server-sent events: `id` is the stream's sequence, `event` the type, `data` the CloudEvent in
//! its JSON form.

use std::fmt::Write as _;

use kernel::feed::StoredMessage;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::percent;

/// How long a client should wait before it comes back.
const RETRY_MS: u32 = 1_000;

/// A CloudEvent 1.0 in JSON (CloudEvents JSON format §2, §3), with its sequence.
#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'a str,
    id: &'a str,
    source: &'a str,
    r#type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    sequence: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    datacontenttype: Option<&'a str>,
    /// Absent where the body is not JSON; there is no such event of ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
}

/// The first block of a stream: where the client stands, so that it can come back even if nothing follows.
pub(super) fn opening(position: u64) -> String {
    format!("retry: {RETRY_MS}\nid: {position}\n\n")
}

/// A sign of life, with the position up to which there was nothing for this client.
pub(super) fn heartbeat(position: u64) -> String {
    format!(": still here\nid: {position}\n\n")
}

/// Adds an event.
pub(super) fn write_event(text: &mut String, message: &StoredMessage) {
    let header = |name| message.header(name);
    let kind = message.subject.strip_prefix("evt.").unwrap_or(&message.subject);
    let subject = header("ce-subject").and_then(|subject| percent::decode(subject, false));
    let data: Option<&RawValue> = serde_json::from_slice(&message.payload).ok();
    let event = CloudEvent {
        specversion: header("ce-specversion").unwrap_or("1.0"),
        id: header("ce-id").unwrap_or_default(),
        source: header("ce-source").unwrap_or_default(),
        r#type: header("ce-type").unwrap_or(kind),
        subject: subject.as_deref(),
        time: header("ce-time"),
        traceparent: header("traceparent"),
        sequence: message.sequence.to_string(),
        datacontenttype: data.map(|_| "application/json"),
        data,
    };
    write_block(text, Some(message.sequence), kind, &event);
}

/// Adds a notice that events are not to be had any more, behind which the stream goes on.
pub(super) fn write_gap(text: &mut String, position: u64, reason: &str, first_sequence: u64) {
    let notice = serde_json::json!({ "reason": reason, "firstSequence": first_sequence.to_string() });
    write_block(text, Some(position), "gap", &notice);
}

/// Adds the last notice of a stream that the gateway ends.
pub(super) fn write_end(text: &mut String, reason: &str, detail: &str) {
    let notice = serde_json::json!({ "reason": reason, "detail": detail });
    write_block(text, None, "end", &notice);
}

fn write_block(text: &mut String, id: Option<u64>, event: &str, data: &impl Serialize) {
    if let Some(id) = id {
        writeln!(text, "id: {id}").expect("a string can be written to");
    }
    let data = serde_json::to_string(data).expect("these shapes can be written");
    // In JSON a line break can only stand between tokens, where a blank does as well.
    let data = data.replace(['\r', '\n'], " ");
    let event: String = event.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    writeln!(text, "event: {event}\ndata: {data}\n").expect("a string can be written to");
}
