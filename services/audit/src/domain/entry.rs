//! A record as an acting service hands it over, made fit for keeping, and the entry that it becomes.

use chrono::{DateTime, SecondsFormat, SubsecRound as _, Utc};
use proof::{Hash, Personal};
use serde_json::value::RawValue;
use uuid::Uuid;

/// Longest text field that is kept, in characters; what goes beyond is cut, since a record is never refused for it.
const TEXT_CHARACTERS_MAX: usize = 1_024;

/// Who acted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActorType {
    /// A signed-in user.
    User,
    /// A service for itself.
    Service,
    /// A key.
    ApiKey,
    /// Nobody known.
    Anonymous,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Success,
    /// Not allowed.
    Denied,
    /// Tried, and failed.
    Failure,
}

impl ActorType {
    const ALL: [Self; 4] = [Self::User, Self::Service, Self::ApiKey, Self::Anonymous];

    /// The value with this word; `None` for any other word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|value| value.as_str() == word)
    }

    /// The word of the API, which is also what is kept and hashed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "USER",
            Self::Service => "SERVICE",
            Self::ApiKey => "API_KEY",
            Self::Anonymous => "ANONYMOUS",
        }
    }
}

impl Outcome {
    const ALL: [Self; 3] = [Self::Success, Self::Denied, Self::Failure];

    /// The value with this word; `None` for any other word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|value| value.as_str() == word)
    }

    /// The word of the API, which is also what is kept and hashed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "SUCCESS",
            Self::Denied => "DENIED",
            Self::Failure => "FAILURE",
        }
    }
}

/// Something that happened, as it will be kept: every text within its bound and free of control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// UUIDv7, given by the acting service.
    pub id: Uuid,
    /// By the acting service's clock, to the microsecond.
    pub time: DateTime<Utc>,
    /// Who acted.
    pub actor_type: ActorType,
    /// Empty for an anonymous one.
    pub actor_id: String,
    /// `<service>.<entity>.<action>`, taken from the subject.
    pub action: String,
    /// The kind of thing it was done to.
    pub target_type: String,
    /// Which one.
    pub target_id: String,
    /// What came of it.
    pub outcome: Outcome,
    /// As claimed by the client. Personal, like the three that follow: empty once erased.
    pub ip_address: String,
    /// As claimed by the client.
    pub user_agent: String,
    /// What the actor was called; empty where that is not known.
    pub actor_name: String,
    /// What the target was called; empty where that is not known.
    pub target_name: String,
    /// Finds it in the logs.
    pub request_id: String,
    /// 32 hexadecimal digits, or empty.
    pub trace_id: String,
    /// One JSON value on one line, otherwise exactly as it was handed over.
    pub details: String,
}

/// A record that cannot be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Faulty {
    /// Its id is no UUID.
    #[error("the id is not a UUID")]
    Id,
    /// It says not when it happened, or nothing that is a time.
    #[error("the time is missing or out of range")]
    Time,
    /// It says not what came of it.
    #[error("the outcome is missing or unknown")]
    Outcome,
    /// Its details are no JSON.
    #[error("the details are not one JSON value")]
    Details,
    /// Its subject is not `audit.<service>.…`.
    #[error("the subject names no action")]
    Subject,
}

impl Record {
    /// Makes the record fit for keeping. Refuses only what could not be told apart from another record afterwards.
    pub fn keepable(self) -> Result<Self, Faulty> {
        let details = if self.details.is_empty() { "{}".to_owned() } else { self.details };
        let details: &RawValue = serde_json::from_str(&details).map_err(|_| Faulty::Details)?;
        // Between values a line's end means nothing, within them it cannot be; an entry is one line of an export.
        let details = details.get().replace(['\r', '\n'], " ");
        Ok(Self {
            time: self.time.trunc_subsecs(6),
            actor_id: keepable_text(&self.actor_id),
            action: keepable_text(&self.action),
            target_type: keepable_text(&self.target_type),
            target_id: keepable_text(&self.target_id),
            ip_address: keepable_text(&self.ip_address),
            user_agent: keepable_text(&self.user_agent),
            actor_name: keepable_text(&self.actor_name),
            target_name: keepable_text(&self.target_name),
            request_id: keepable_text(&self.request_id),
            trace_id: keepable_text(&self.trace_id),
            details,
            ..self
        })
    }
}

/// A control character becomes its escape (`\u{0}`), so that no line of a log can be forged and PostgreSQL can keep it.
fn keepable_text(text: &str) -> String {
    let mut kept = String::with_capacity(text.len().min(4 * TEXT_CHARACTERS_MAX));
    for character in text.chars().take(TEXT_CHARACTERS_MAX) {
        if character.is_control() {
            kept.extend(character.escape_unicode());
        } else {
            kept.push(character);
        }
    }
    kept
}

/// A record in its place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// From 1, without gaps.
    pub sequence: i64,
    /// What happened.
    pub record: Record,
    /// What the digest of the personal fields was made with; none once they are erased.
    pub salt: Option<Salt>,
    /// Of the personal fields.
    pub personal_digest: Hash,
    /// Of the entry before.
    pub previous_hash: Hash,
    /// Of this one; see [`proof::entry`].
    pub hash: Hash,
}

/// What keeps a digest from telling what it was made of: random for each entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Salt(pub [u8; 16]);

impl std::fmt::Display for Salt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Salt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Salt")
    }
}

impl Record {
    /// The digest of its personal fields.
    pub fn personal_digest(&self, salt: Salt) -> Hash {
        self.personal(&salt.to_string()).digest()
    }

    /// Its personal fields; `salt` in hexadecimal digits.
    pub fn personal<'a>(&'a self, salt: &'a str) -> Personal<'a> {
        Personal {
            salt,
            ip_address: &self.ip_address,
            user_agent: &self.user_agent,
            actor_name: &self.actor_name,
            target_name: &self.target_name,
        }
    }
}

impl Entry {
    /// In the words that are hashed.
    pub fn to_proof(&self) -> proof::Entry<'_> {
        let record = &self.record;
        proof::Entry {
            sequence: self.sequence,
            id: record.id.as_hyphenated().to_string().into(),
            time: hashed_time(record.time).into(),
            actor_type: record.actor_type.as_str().into(),
            actor_id: (&record.actor_id).into(),
            action: (&record.action).into(),
            target_type: (&record.target_type).into(),
            target_id: (&record.target_id).into(),
            outcome: record.outcome.as_str().into(),
            request_id: (&record.request_id).into(),
            trace_id: (&record.trace_id).into(),
            details: (&record.details).into(),
            personal_digest: self.personal_digest,
            previous_hash: self.previous_hash,
            hash: self.hash,
        }
    }
}

/// A time as it is hashed and signed: with six digits of a second.
pub fn hashed_time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::domain) fn record() -> Record {
        Record {
            id: Uuid::from_u128(0x0193_2c07_20c3_7c31_a3f5_0000_0000_0001),
            time: DateTime::from_timestamp(1_700_000_000, 123_456_000).unwrap(),
            actor_type: ActorType::User,
            actor_id: "ann".to_owned(),
            action: "identity.user.created".to_owned(),
            target_type: "user".to_owned(),
            target_id: "bob".to_owned(),
            outcome: Outcome::Success,
            ip_address: "192.0.2.1".to_owned(),
            user_agent: "curl/8".to_owned(),
            actor_name: String::new(),
            target_name: "Bob".to_owned(),
            request_id: "r-1".to_owned(),
            trace_id: "0af7651916cd43dd8448eb211c80319c".to_owned(),
            details: r#"{"roles":["auditor"]}"#.to_owned(),
        }
    }

    #[test]
    fn control_characters_are_escaped_and_long_texts_cut() {
        let given = Record { user_agent: "a\0b\r\nc\u{1b}".to_owned(), request_id: "é".repeat(2_000), ..record() };

        let kept = given.keepable().unwrap();

        assert_eq!(kept.user_agent, r"a\u{0}b\u{d}\u{a}c\u{1b}");
        assert_eq!(kept.request_id.chars().count(), 1_024);
    }

    #[test]
    fn details_stay_as_they_were_handed_over() {
        let text = r#"{ "amount": 12345678901234567890.10, "b": "\u0000" }"#;

        let kept = Record { details: text.to_owned(), ..record() }.keepable().unwrap();

        assert_eq!(kept.details, text);
        let lines = Record { details: " {\r\n\"a\": 1 }\n".to_owned(), ..record() }.keepable().unwrap();
        assert_eq!(lines.details, r#"{  "a": 1 }"#, "but for the ends of lines");
        assert_eq!(Record { details: String::new(), ..record() }.keepable().unwrap().details, "{}");
        assert_eq!(Record { details: "{".to_owned(), ..record() }.keepable().unwrap_err(), Faulty::Details);
    }

    #[test]
    fn time_is_kept_to_the_microsecond() {
        let time = DateTime::from_timestamp(1_700_000_000, 123_456_789).unwrap();

        assert_eq!(Record { time, ..record() }.keepable().unwrap().time, record().time);
    }
}
