//! Dead letters: messages that a consumer gave up, kept with what they were and why, and brought back to that consumer
//! alone.
//!
//! A letter's subject is [`subject`]; only the service that has the consumer may publish there. A replay names a letter by
//! its sequence and carries nothing of it, so that whoever may ask for one cannot forge a message.

use serde::{Deserialize, Serialize};

/// The stream that keeps them.
pub const STREAM: &str = "EVENTS_DLQ";

/// Headers of a letter, beside those of the original message that do not begin with `Nats-`.
pub mod header {
    /// The durable that gave the message up.
    pub const CONSUMER: &str = "Dead-Letter-Consumer";
    /// The original subject.
    pub const SUBJECT: &str = "Dead-Letter-Subject";
    /// The original stream.
    pub const STREAM: &str = "Dead-Letter-Stream";
    /// The original place in it.
    pub const SEQUENCE: &str = "Dead-Letter-Sequence";
    /// The original `Nats-Msg-Id`; where there was none, the name that the consumer made of the message's place.
    pub const MESSAGE_ID: &str = "Dead-Letter-Message-Id";
    /// Deliveries.
    pub const ATTEMPTS: &str = "Dead-Letter-Attempts";
    /// What the last attempt said, in one line.
    pub const REASON: &str = "Dead-Letter-Reason";
    /// When it was given up, RFC 3339.
    pub const TIME: &str = "Dead-Letter-Time";
    /// Bytes of a body that was too large to be kept beside these headers; the original stream still has it for a while.
    pub const BODY_OMITTED: &str = "Dead-Letter-Body-Omitted";
    /// What all of these begin with.
    pub const PREFIX: &str = "Dead-Letter-";
}

/// Where a consumer's dead letter goes: `dlq.evt.<consumer>.` and the original subject without its first token.
pub fn subject(consumer: &str, original: &str) -> String {
    let rest = original.split_once('.').map_or(original, |(_, rest)| rest);
    format!("dlq.evt.{consumer}.{rest}")
}

/// Every letter of a consumer; of every consumer where it is `*`.
pub fn subjects(consumer: &str) -> String {
    format!("dlq.evt.{consumer}.>")
}

/// Where a replay is asked for: a request with a [`Replay`].
pub fn replay(consumer: &str) -> String {
    format!("replay.evt.{consumer}")
}

/// What a consumer stores when a letter has been handled after all. Both may be `*`.
pub fn replayed(consumer: &str, sequence: &str) -> String {
    format!("replayed.evt.{consumer}.{sequence}")
}

/// Asks a consumer to take one of its dead letters again.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Replay {
    /// The letter's place in [`STREAM`].
    pub sequence: String,
}

/// The answer to a [`Replay`] that succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replayed {
    /// How it ended.
    pub outcome: ReplayOutcome,
}

/// How a replay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ReplayOutcome {
    /// The message has had its effect now.
    Handled,
    /// It had had it before.
    Known,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_goes_under_its_consumer() {
        assert_eq!(subject("audit", "audit.identity.user.created"), "dlq.evt.audit.identity.user.created");
        assert_eq!(subject("mail", "evt.identity.user.registered"), "dlq.evt.mail.identity.user.registered");
    }
}
