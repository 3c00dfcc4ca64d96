//! Pulling batches from a durable consumer, with the end of each batch known, so that whoever stops leaves nothing behind
//! that the broker takes for delivered.

use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::{self, Context};
use async_nats::{Client, StatusCode, Subscriber};
use futures::StreamExt as _;
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::message::Message;

/// How long one request waits for a message. Also how long stopping takes at most when there is none.
const REQUEST_WAIT: Duration = Duration::from_secs(1);

/// How much later than that the broker's word may come.
const GRACE: Duration = Duration::from_secs(2);

/// An answer without a message that comes sooner than this means that the broker has some it cannot give now.
const TOO_SOON: Duration = Duration::from_millis(20);

/// The pause after that.
const PAUSE: Duration = Duration::from_millis(50);

/// Reads one consumer over a subscription of its own.
#[derive(Debug)]
pub(super) struct Pull {
    client: Client,
    context: Context,
    stream: &'static str,
    durable: &'static str,
    inbox: String,
    answers: Subscriber,
    next: u64,
}

/// Why nothing came. The messages, if there are any, come again.
#[derive(Debug, thiserror::Error)]
pub(super) enum PullError {
    #[error("the broker is not connected")]
    NotConnected,
    #[error("the broker cannot be asked: {0}")]
    NotAsked(String),
    #[error("the consumer does not exist, or JetStream is not up")]
    NoConsumer,
    #[error("the broker did not answer")]
    Silence,
    #[error("the broker refuses: {0}")]
    Refused(String),
}

impl Pull {
    pub(super) async fn open(client: &Client, stream: &'static str, durable: &'static str) -> Result<Self, PullError> {
        if client.connection_state() != State::Connected {
            return Err(PullError::NotConnected);
        }
        let inbox = client.new_inbox();
        let answers =
            client.subscribe(format!("{inbox}.*")).await.map_err(|error| PullError::NotAsked(error.to_string()))?;
        let context = jetstream::new(client.clone());
        Ok(Self { client: client.clone(), context, stream, durable, inbox, answers, next: 0 })
    }

    /// What is there, at most `messages_max` and about `bytes_max`; what comes first, where there is nothing; empty after a
    /// while in which nothing came.
    pub(super) async fn batch(&mut self, messages_max: usize, bytes_max: usize) -> Result<Vec<Message>, PullError> {
        let began = Instant::now();
        let reply = format!("{}.{}", self.inbox, self.next);
        self.next += 1;
        // With both, the request ends as soon as it got something and there is no more (nats-server, consumer.go).
        let expires = u64::try_from(REQUEST_WAIT.as_nanos()).unwrap_or(u64::MAX);
        let request = json!({ "batch": messages_max, "max_bytes": bytes_max, "no_wait": true, "expires": expires });
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", self.stream, self.durable);
        let deadline = began + REQUEST_WAIT + GRACE;
        let asked = self.client.publish_with_reply(subject, reply.clone(), request.to_string().into());
        match timeout_at(deadline, asked).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(PullError::NotAsked(error.to_string())),
            Err(_) => return Err(PullError::Silence),
        }
        let mut messages = Vec::new();
        while messages.len() < messages_max {
            let Ok(Some(answer)) = timeout_at(deadline, self.answers.next()).await else {
                // What came before the silence is good.
                return if messages.is_empty() { Err(PullError::Silence) } else { Ok(messages) };
            };
            let Some(status) = answer.status else {
                let answer = jetstream::Message { message: answer, context: self.context.clone() };
                messages.extend(Message::read(answer, self.stream, self.durable));
                continue;
            };
            if answer.subject.as_str() != reply {
                continue;
            }
            let ended = match status {
                StatusCode::NOT_FOUND | StatusCode::TIMEOUT => None,
                StatusCode::NO_RESPONDERS => Some(PullError::NoConsumer),
                StatusCode::REQUEST_TERMINATED if !messages.is_empty() => None,
                _ => Some(PullError::Refused(answer.description.unwrap_or_else(|| status.to_string()))),
            };
            match ended {
                Some(error) if messages.is_empty() => return Err(error),
                Some(_) | None => break,
            }
        }
        if messages.is_empty() && began.elapsed() < TOO_SOON {
            tokio::time::sleep(PAUSE).await;
        }
        Ok(messages)
    }
}
