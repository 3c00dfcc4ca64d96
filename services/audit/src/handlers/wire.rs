//! What the handlers show, in the words of the contract, and the record of a reading.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kernel::AuditAction;
use proof::Checkpoint;
use subjects::Timestamp;
use subjects::audit::v1 as wire;
use subjects::free::v1::RawJson;

use crate::domain::{ActorType, Entry, Outcome};

/// Somebody reads the log; `details` is JSON.
pub(super) fn read_action<'a>(
    action: &'a str,
    target_type: &'a str,
    target_id: &'a str,
    details: Vec<u8>,
) -> AuditAction<'a> {
    let details = String::from_utf8(details).expect("JSON is UTF-8");
    AuditAction { action, target_type, target_id, outcome: wire::Outcome::Success, details }
}

/// A checkpoint as the API shows it, and as it stands in the bucket.
pub(crate) fn checkpoint_to_wire(checkpoint: &Checkpoint) -> wire::Checkpoint {
    wire::Checkpoint {
        sequence: checkpoint.sequence.to_string(),
        hash: checkpoint.hash.to_string(),
        time: Timestamp::parse(&checkpoint.time),
        key_id: checkpoint.key_id.clone(),
        signature: URL_SAFE_NO_PAD.encode(&checkpoint.signature),
        public_key: checkpoint.public_key.to_string(),
    }
}

/// An entry as the API shows it.
pub(super) fn entry_to_wire(entry: Entry) -> wire::Entry {
    let record = entry.record;
    let actor_type = match record.actor_type {
        ActorType::User => wire::actor::Type::User,
        ActorType::Service => wire::actor::Type::Service,
        ActorType::ApiKey => wire::actor::Type::ApiKey,
        ActorType::Anonymous => wire::actor::Type::Anonymous,
    };
    let outcome = match record.outcome {
        Outcome::Success => wire::Outcome::Success,
        Outcome::Denied => wire::Outcome::Denied,
        Outcome::Failure => wire::Outcome::Failure,
    };
    wire::Entry {
        id: record.id.to_string(),
        sequence: entry.sequence.to_string(),
        time: Some(record.time.into()),
        actor: Some(wire::Actor { r#type: actor_type.into(), id: record.actor_id }),
        action: record.action,
        target: Some(wire::Target { r#type: record.target_type, id: record.target_id }),
        outcome: outcome.into(),
        ip_address: record.ip_address,
        user_agent: record.user_agent,
        request_id: record.request_id,
        trace_id: record.trace_id,
        details: Some(RawJson { text: record.details }),
        previous_hash: entry.previous_hash.to_string(),
        hash: entry.hash.to_string(),
        personal_salt: entry.salt.map(|salt| salt.to_string()).unwrap_or_default(),
        personal_digest: entry.personal_digest.to_string(),
        actor_name: record.actor_name,
        target_name: record.target_name,
    }
}
