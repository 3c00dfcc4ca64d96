//! Answers: the reply message in the request's own form, or problem details with the two headers of ADR-32.

use async_nats::{Client, HeaderMap, Message, Subject};
use bytes::Bytes;

use super::request::Codec;
use crate::nats::headers;
use crate::{Error, Result};

/// Bytes of a reply subject; longer ones are nobody's.
const REPLY_SUBJECT_MAX: usize = 256;

/// Where answers may go.
const INBOX: &str = "_INBOX.";

/// Why a message gets no answer at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoReply {
    /// It names no reply subject: its effect could be learnt by nobody.
    Absent,
    /// It names one that is no inbox, and would make us publish there on its sender's behalf.
    Foreign,
}

/// The subject to answer to.
pub(crate) fn reply_subject(message: &Message) -> Result<Subject, NoReply> {
    let reply = message.reply.as_ref().ok_or(NoReply::Absent)?;
    let is_inbox = reply.starts_with(INBOX) && reply.len() <= REPLY_SUBJECT_MAX && !reply.contains(['*', '>']);
    if is_inbox { Ok(reply.clone()) } else { Err(NoReply::Foreign) }
}

/// Sends answers.
#[derive(Clone, Debug)]
pub(crate) struct Replier(Client);

impl Replier {
    pub(crate) fn new(client: Client) -> Self {
        Self(client)
    }

    /// Whether a body is small enough to be sent.
    pub(super) fn fits(&self, body: &Bytes) -> bool {
        // What the headers of a reply take at most.
        body.len() + 256 <= self.0.max_payload()
    }

    /// The answer of a handler. `codec` where the caller named one.
    pub(crate) async fn succeed(&self, to: Subject, body: Bytes, codec: Option<Codec>) {
        let outcome = match codec {
            None => self.0.publish(to, body).await,
            Some(codec) => {
                let mut map = HeaderMap::new();
                let kind = match codec {
                    Codec::Json => "application/json",
                    Codec::Protobuf => "application/protobuf",
                };
                headers::set(&mut map, &headers::CONTENT_TYPE, kind);
                self.0.publish_with_headers(to, map, body).await
            }
        };
        note(outcome);
    }

    /// A refusal or failure.
    pub(crate) async fn fail(&self, to: Subject, error: &Error, request_id: &str) {
        let mut map = HeaderMap::new();
        headers::set(&mut map, &headers::ERROR_CODE, &error.status().to_string());
        headers::set(&mut map, &headers::ERROR, &format!("{}: {}", error.code(), error.detail()));
        headers::set(&mut map, &headers::CONTENT_TYPE, "application/problem+json");
        if let Some(delay) = error.retry_delay() {
            let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
            headers::set(&mut map, &headers::RETRY_AFTER, &seconds.to_string());
        }
        note(self.0.publish_with_headers(to, map, error.to_problem(request_id).to_json().into()).await);
    }
}

/// A reply that cannot be sent is a lost connection: its caller waits in vain or asks again.
fn note<E: std::fmt::Display>(outcome: Result<(), E>) {
    if let Err(error) = outcome {
        tracing::warn!(%error, "A reply could not be sent.");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(reply: Option<&str>) -> Result<Subject, NoReply> {
        reply_subject(&Message {
            subject: "svc.a".into(),
            reply: reply.map(Into::into),
            payload: Bytes::new(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        })
    }

    #[test]
    fn only_inboxes_are_answered() {
        assert!(to(Some("_INBOX.gateway.abc.1")).is_ok());
        assert_eq!(to(None), Err(NoReply::Absent));
        let long = format!("_INBOX.{}", "a".repeat(300));
        for foreign in
            ["$JS.API.STREAM.PURGE.AUDIT", "audit.x", "_INBOX", "_INBOX_x.a", "_INBOX.>", "_INBOX.a.*", "_R_.x", &long]
        {
            assert_eq!(to(Some(foreign)), Err(NoReply::Foreign), "{foreign}");
        }
    }
}
