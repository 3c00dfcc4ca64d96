//! Requests over one wildcard inbox. Ours rather than the client's, whose table keeps an entry for every request that
//! timed out, and which lets a refused publish wait for its time-out.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::client::PublishErrorKind;
use async_nats::{HeaderMap, Message, StatusCode, Subject, SubscribeError};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::time::{Instant, timeout_at};

use super::Connection;
use super::pending::{Failure, Pending, Token};
use crate::{Lifecycle, Random};

/// Why there is no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestError {
    /// Nobody serves the subject.
    #[error("nobody serves the subject")]
    NoResponders,
    /// The deadline passed; whether the request was handled is unknown.
    #[error("no reply before the deadline")]
    TimedOut,
    /// There is no connection; nothing was sent.
    #[error("the broker is not connected")]
    NotConnected,
    /// The connection was lost; whether the request was handled is unknown.
    #[error("the connection was lost before the reply")]
    ConnectionLost,
    /// This service may not publish there.
    #[error("the broker refuses the subject")]
    Denied,
    /// Larger than the broker takes.
    #[error("larger than the broker takes")]
    TooLarge,
    /// Too many calls wait already.
    #[error("too many calls wait")]
    Full,
}

/// Sends requests and matches replies. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Requester {
    connection: Connection,
    pending: Arc<Pending>,
    /// `_INBOX.<service>.<random>.`
    prefix: Arc<str>,
}

impl Requester {
    /// Subscribes to the replies and reads them for the life of the process.
    pub(crate) async fn start(
        connection: Connection,
        pending: Arc<Pending>,
        service: &str,
        random: &Random,
        life: &Lifecycle,
    ) -> Result<Self, SubscribeError> {
        let unguessable = URL_SAFE_NO_PAD.encode(random.bytes::<16>());
        let prefix: Arc<str> = format!("{}.{unguessable}.", subjects::subject::inbox_prefix(service)).into();
        let mut replies = connection.client().subscribe(format!("{prefix}*")).await?;
        let requester = Self { connection, pending: Arc::clone(&pending), prefix: Arc::clone(&prefix) };
        let stop = life.stop_token();
        // The stream ends when the client has died, which nothing can mend: the task's end ends the process.
        life.spawn("replies", async move {
            let mut stopping = pin!(stop.cancelled());
            loop {
                let message = tokio::select! {
                    biased;
                    message = replies.next() => message,
                    () = &mut stopping => return,
                };
                let Some(message) = message else { return };
                if let Some(token) = message.subject.strip_prefix(prefix.as_ref()).and_then(Token::parse) {
                    pending.complete(token, message);
                }
            }
        });
        Ok(requester)
    }

    /// Sends one request and waits for its reply until `deadline`.
    pub(crate) async fn request(
        &self,
        subject: Subject,
        headers: Option<HeaderMap>,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Message, RequestError> {
        if !self.connection.is_connected() {
            return Err(RequestError::NotConnected);
        }
        self.send(subject, headers, payload, deadline).await
    }

    /// Waits until a message of our own has gone to the broker and come back, which proves that every subscription
    /// made before it is in force there. Also how the first connection is waited for.
    pub(crate) async fn round_trip(&self, within: Duration) -> Result<(), RequestError> {
        let subject = Subject::from(format!("{}echo", self.prefix));
        let entry = self.pending.enter(&subject).map_err(RequestError::from)?;
        let mut own = String::from(&*self.prefix);
        entry.write_token(&mut own);
        let deadline = Instant::now() + within;
        let echo = async {
            let publish = self.connection.client().publish(own, Bytes::new());
            publish.await.map_err(|_| RequestError::ConnectionLost)?;
            entry.await.map_err(RequestError::from)
        };
        timeout_at(deadline, echo).await.map_err(|_| RequestError::TimedOut)?.map(|_| ())
    }

    async fn send(
        &self,
        subject: Subject,
        headers: Option<HeaderMap>,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Message, RequestError> {
        let entry = self.pending.enter(&subject)?;
        let mut reply = String::with_capacity(self.prefix.len() + 16);
        reply.push_str(&self.prefix);
        entry.write_token(&mut reply);
        let client = self.connection.client();
        let exchange = async {
            let sent = match headers {
                Some(headers) => client.publish_with_reply_and_headers(subject, reply, headers, payload).await,
                None => client.publish_with_reply(subject, reply, payload).await,
            };
            sent.map_err(|error| match error.kind() {
                PublishErrorKind::MaxPayloadExceeded => RequestError::TooLarge,
                PublishErrorKind::InvalidSubject | PublishErrorKind::Send => RequestError::NotConnected,
            })?;
            let message = entry.await?;
            if message.status == Some(StatusCode::NO_RESPONDERS) && message.payload.is_empty() {
                return Err(RequestError::NoResponders);
            }
            Ok(message)
        };
        timeout_at(deadline, exchange).await.map_err(|_| RequestError::TimedOut)?
    }
}

impl From<Failure> for RequestError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Denied => Self::Denied,
            Failure::ConnectionLost => Self::ConnectionLost,
            Failure::Full => Self::Full,
        }
    }
}
