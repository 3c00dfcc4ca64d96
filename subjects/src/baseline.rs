//! What readers of the contract rely on, and how to see that a change breaks one of them.

use serde_json::Value;

/// Fields by number, type and JSON name, enum words, operations with their access, events; as JSON text.
pub const CURRENT: &str = include_str!(concat!(env!("OUT_DIR"), "/baseline.json"));

/// Where the new document breaks a reader of the old one: something changed or gone, or an access loosened. Additions and
/// a stricter access break nobody.
pub fn breaks(old: &Value, new: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", old, new, &mut found);
    found
}

fn compare(at: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (name, value) in old {
                compare(&format!("{at}/{name}"), value, new.get(name).unwrap_or(&Value::Null), found);
            }
        }
        (old, new) if old == new => {}
        (Value::String(old), Value::String(new)) if at.ends_with("/access") && strictness(new) > strictness(old) => {}
        (old, new) => found.push(format!("{at}: {old} became {new}")),
    }
}

fn strictness(access: &str) -> u8 {
    match access.split(' ').next() {
        Some("public") => 0,
        Some("token") => 1,
        Some("permission") => 2,
        _ => 3,
    }
}
