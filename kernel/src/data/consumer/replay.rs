//! Takes dead letters again on request: `replay.evt.<consumer>`, which the broker lets only `ops` ask.
//!
//! The request names a letter; what is handled is read from the stream, where nobody but this service can have stored it.
//! The message's id goes into the inbox with its effect, to stay there: a letter has its effect once, however often it is
//! replayed. A replay that fails leaves the letter as it was.

use std::sync::Arc;

use async_nats::{HeaderMap, Subscriber};
use bytes::Bytes;
use futures::StreamExt as _;
use subjects::dead_letter::{self, Replay, ReplayOutcome, Replayed};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::super::publisher::{Outgoing, PublishError, append};
use super::letter;
use super::runner::{AWAY_DELAY_MAX, Fault, Runner};
use crate::endpoint::{Replier, reply_subject};
use crate::{Error, Ids, Result};

impl<S: Send + Sync + 'static> Runner<S> {
    /// Answers until `stopping`.
    pub(super) async fn serve_replays(self: Arc<Self>, stopping: CancellationToken) {
        let replier = Replier::new(self.parts.client.clone());
        let Some(mut requests) = stopping.run_until_cancelled(self.open_replays()).await else { return };
        while let Some(Some(request)) = stopping.run_until_cancelled(requests.next()).await {
            let Ok(reply) = reply_subject(&request) else {
                tracing::warn!(consumer = self.durable, "A replay that wants its answer elsewhere was dropped.");
                continue;
            };
            match self.replay(&request.payload).await {
                Ok(outcome) => {
                    let body = serde_json::to_vec(&Replayed { outcome }).expect("an outcome is one word");
                    replier.succeed(reply, body.into(), None).await;
                }
                Err(error) => {
                    tracing::warn!(consumer = self.durable, ?error, "A dead letter could not be replayed.");
                    let Self { parts, .. } = &*self;
                    let request_id = Ids::new(parts.clock.clone(), parts.random.clone()).new_id().to_string();
                    replier.fail(reply, &error, &request_id).await;
                }
            }
        }
    }

    /// The client makes the subscription again after a lost connection.
    async fn open_replays(&self) -> Subscriber {
        let (subject, queue) = (dead_letter::replay(self.durable), self.parts.database.service().to_owned());
        loop {
            match self.parts.client.queue_subscribe(subject.clone(), queue.clone()).await {
                Ok(requests) => return requests,
                Err(error) => tracing::warn!(consumer = self.durable, %error, "Replays cannot be served yet."),
            }
            sleep(AWAY_DELAY_MAX).await;
        }
    }

    async fn replay(&self, request: &[u8]) -> Result<ReplayOutcome> {
        let Replay { sequence } = serde_json::from_slice(request)
            .map_err(|error| Error::malformed("malformed_body", "The body is not a replay.").with_source(error))?;
        let sequence: u64 = sequence
            .parse()
            .ok()
            .filter(|sequence| *sequence > 0)
            .ok_or_else(|| Error::field("/sequence", "invalid", "must be the place of a dead letter"))?;

        let stored = self.with_publisher(async |publisher| publisher.message_at(dead_letter::STREAM, sequence).await);
        let stored = stored.await.map_err(unanswered)?.ok_or_else(|| letter::not_found(self.durable))?;
        let message = letter::open(self.durable, stored)?;
        let had_effect =
            self.attempt(std::slice::from_ref(&message), Some(sequence)).await.map_err(|fault| match fault {
                Fault::Away(error) => error,
                Fault::Handler(error) => {
                    let detail = format!("It failed again and stays a dead letter: {}", error.detail());
                    Error::new(error.status(), "replay_failed", detail).with_source(error)
                }
            })?;
        let outcome = if had_effect { ReplayOutcome::Handled } else { ReplayOutcome::Known };
        self.mark(sequence, outcome).await.map_err(unanswered)?;
        tracing::info!(consumer = self.durable, sequence, id = message.id(), ?outcome, "A dead letter was replayed.");
        Ok(outcome)
    }

    /// Stores that the letter is none any more.
    async fn mark(&self, sequence: u64, outcome: ReplayOutcome) -> Result<(), PublishError> {
        let subject = dead_letter::replayed(self.durable, &sequence.to_string());
        let mut headers = HeaderMap::new();
        append(&mut headers, "Nats-Msg-Id", &subject);
        append(&mut headers, "Content-Type", "application/json");
        let payload = Bytes::from(serde_json::to_vec(&Replayed { outcome }).expect("an outcome is one word"));
        let mark = Outgoing { subject: &subject, headers, payload };
        self.with_publisher(async |publisher| publisher.publish(dead_letter::STREAM, mark).await).await.map(|_| ())
    }
}

/// The effect may have been had; the next replay of the letter finds that out.
fn unanswered(error: PublishError) -> Error {
    Error::unavailable("The broker did not answer. Replay the letter again: it has its effect once.").with_source(error)
}
