//! The subscriptions of a feed as one, in the order of the stream: each brings its own messages in order, and which of them
//! is read first says nothing.

use std::future::poll_fn;
use std::task::{Context, Poll};

use async_nats::Subscriber;
use futures::StreamExt as _;
use tokio::task::unconstrained;

use super::StoredMessage;

/// Messages that may be passed over before others of the process are let run.
const PASSED_OVER_AT_ONCE: u32 = 32;

#[derive(Debug)]
pub(super) struct Live(Vec<Source>);

#[derive(Debug)]
struct Source {
    subscriber: Subscriber,
    /// Its first message that has not been given out.
    head: Option<StoredMessage>,
}

impl Live {
    pub(super) fn new(subscribers: Vec<Subscriber>) -> Self {
        Self(subscribers.into_iter().map(|subscriber| Source { subscriber, head: None }).collect())
    }

    /// The next message; `None` when the client has died. Dropping the wait loses nothing.
    pub(super) async fn next(&mut self) -> Option<StoredMessage> {
        // A subscription that seems empty because its task has had its share would be overtaken by another one.
        unconstrained(poll_fn(|cx| self.poll(cx))).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<StoredMessage>> {
        // The client hands messages out in the order of the stream: when one subscription has brought a message and a look at
        // another one after that finds it empty, nothing can come there that stands before it.
        let mut passed_over = 0;
        loop {
            let mut found = false;
            for source in self.0.iter_mut().filter(|source| source.head.is_none()) {
                match source.subscriber.poll_next_unpin(cx) {
                    Poll::Ready(Some(message)) => {
                        source.head = StoredMessage::read(message);
                        found = true;
                        if source.head.is_none() {
                            tracing::debug!("A message of a feed bears no sequence.");
                            passed_over += 1;
                        }
                    }
                    Poll::Ready(None) => return Poll::Ready(None),
                    Poll::Pending => {}
                }
            }
            if !found {
                break;
            }
            if passed_over >= PASSED_OVER_AT_ONCE {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        let place = |source: &Source| source.head.as_ref().map(|message| message.sequence);
        let first = self.0.iter_mut().filter(|source| source.head.is_some()).min_by_key(|source| place(source));
        match first.and_then(|source| source.head.take()) {
            Some(message) => Poll::Ready(Some(message)),
            None => Poll::Pending,
        }
    }
}
