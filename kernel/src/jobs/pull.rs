//! Taking jobs from one lane of a queue, no more than there is room for: what was taken and not begun would have to be given
//! back when the process stops.

use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::{self, Context};
use async_nats::{Client, StatusCode, Subscriber};
use futures::StreamExt as _;
use serde_json::json;
use subjects::job;
use tokio::time::{Instant, sleep, timeout_at};

use super::job::Delivery;

/// How long one request waits for a job. Also how long stopping takes at most when there is none.
const REQUEST_WAIT: Duration = Duration::from_secs(1);

/// How much later than that the broker's word may come.
const GRACE: Duration = Duration::from_secs(2);

/// An answer without a job that comes sooner than this means that the broker has some it does not give now.
const TOO_SOON: Duration = Duration::from_millis(20);

/// The pause after that, and after a refusal.
const PAUSE: Duration = Duration::from_millis(50);

/// Reads one consumer over a subscription of its own.
pub(super) struct Pull {
    client: Client,
    context: Context,
    consumer: String,
    inbox: String,
    answers: Subscriber,
    next: u64,
}

impl Pull {
    /// `None` where the broker is not there.
    pub(super) async fn open(client: &Client, consumer: String) -> Option<Self> {
        if client.connection_state() != State::Connected {
            return None;
        }
        let inbox = client.new_inbox();
        let answers = client.subscribe(format!("{inbox}.*")).await.ok()?;
        let context = jetstream::new(client.clone());
        Some(Self { client: client.clone(), context, consumer, inbox, answers, next: 0 })
    }

    /// Hands over what is there, at most `room`; what comes first, where there is nothing; nothing after a while in which nothing
    /// came. Gives how many; `None` where this subscription is of no use any more.
    pub(super) async fn batch(&mut self, room: usize, mut take: impl FnMut(Delivery)) -> Option<usize> {
        let began = Instant::now();
        let reply = format!("{}.{}", self.inbox, self.next);
        self.next += 1;
        // With both, the request ends as soon as it got something and there is no more (nats-server, consumer.go).
        let expires = u64::try_from(REQUEST_WAIT.as_nanos()).unwrap_or(u64::MAX);
        let request = json!({ "batch": room, "no_wait": true, "expires": expires }).to_string();
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", job::STREAM, self.consumer);
        let deadline = began + REQUEST_WAIT + GRACE;
        let asked = self.client.publish_with_reply(subject, reply.clone(), request.into());
        timeout_at(deadline, asked).await.ok()?.ok()?;
        let mut taken = 0;
        while taken < room {
            let Ok(Some(answer)) = timeout_at(deadline, self.answers.next()).await else {
                return (taken > 0).then_some(taken);
            };
            let Some(status) = answer.status else {
                let answer = jetstream::Message { message: answer, context: self.context.clone() };
                if let Some(delivery) = Delivery::read(answer, &self.consumer) {
                    take(delivery);
                    taken += 1;
                }
                continue;
            };
            if answer.subject.as_str() != reply {
                continue;
            }
            if ![StatusCode::NOT_FOUND, StatusCode::TIMEOUT].contains(&status) && taken == 0 {
                tracing::debug!(consumer = self.consumer, %status, "The broker gives no jobs.");
                sleep(PAUSE).await;
                return None;
            }
            break;
        }
        if taken == 0 && began.elapsed() < TOO_SOON {
            sleep(PAUSE).await;
        }
        Some(taken)
    }
}
