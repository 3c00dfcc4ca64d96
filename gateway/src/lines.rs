//! Answers that are a stream of lines: the contract says so of an operation, the service gives them page by page, and each
//! page is asked for when the client has taken the one before. So nothing is kept for a slow client but a page, and nothing
//! is left behind by one that goes away.
//!
//! What goes wrong behind the first page can only be shown by cutting the answer off.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures::stream;
use http::{HeaderValue, StatusCode};
use kernel::Caller;
use serde::Deserialize;
use serde_json::value::RawValue;
use subjects::Endpoint;
use subjects::wire::v1::{Binding, CallContext};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::refusal::Refusal;
use crate::reply;

/// Streams of one endpoint at once; each may hold a page of up to 1 MiB.
pub(crate) const STREAMS_MAX: usize = 32;

const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// The field by which a page is asked for.
const PAGE_TOKEN: &str = "page_token";

/// How the pages of one answer are got.
pub(crate) struct Pages {
    caller: Caller,
    endpoint: &'static Endpoint,
    context: CallContext,
    timeout: Duration,
    /// The next page; none behind the last one.
    next: Option<String>,
    _place: OwnedSemaphorePermit,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page<'a> {
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
    #[serde(borrow)]
    next_page_token: Cow<'a, str>,
}

impl Pages {
    /// The pages behind the one that `context` asks for.
    pub(crate) fn new(
        caller: &Caller,
        endpoint: &'static Endpoint,
        context: CallContext,
        timeout: Duration,
        places: &Arc<Semaphore>,
    ) -> Result<Self, Refusal> {
        let place = Arc::clone(places).try_acquire_owned().map_err(|_| Refusal::overloaded())?;
        Ok(Self { caller: caller.clone(), endpoint, context, timeout, next: None, _place: place })
    }

    /// The answer that begins with this page.
    pub(crate) fn answer(mut self, first: &Bytes) -> Result<Response, Refusal> {
        let lines = self.read(first).ok_or_else(Refusal::bad_reply)?;
        let rest = stream::try_unfold((Some(lines), self), |(lines, mut pages)| async move {
            match lines {
                Some(lines) => Ok(Some((lines, (None, pages)))),
                None => Ok::<_, std::io::Error>(pages.next_lines().await?.map(|lines| (lines, (None, pages)))),
            }
        });
        let body = Body::from_stream(rest);
        Ok(reply::with_body(StatusCode::OK, NDJSON, body))
    }

    async fn next_lines(&mut self) -> std::io::Result<Option<Bytes>> {
        let Some(page_token) = self.next.take() else { return Ok(None) };
        self.context.bindings.retain(|binding| binding.field != PAGE_TOKEN);
        self.context.bindings.push(Binding { field: PAGE_TOKEN.to_owned(), value: page_token });
        let reply = self.caller.forward(self.endpoint, self.context.clone(), Bytes::new(), self.timeout).await;
        let lines = match reply {
            Ok(reply) if reply.status == 200 => self.read(&reply.body),
            Ok(reply) => {
                tracing::warn!(endpoint = self.endpoint.subject, status = reply.status, "An answer is cut off.");
                None
            }
            Err(error) => {
                tracing::warn!(endpoint = self.endpoint.subject, ?error, "An answer is cut off.");
                None
            }
        };
        lines.map(Some).ok_or_else(|| std::io::Error::other("the service gave no further page"))
    }

    /// The lines of a page, which also says where the next one is.
    fn read(&mut self, page: &Bytes) -> Option<Bytes> {
        let page: Page<'_> = serde_json::from_slice(page).ok()?;
        self.next = (!page.next_page_token.is_empty()).then(|| page.next_page_token.into_owned());
        let mut lines = BytesMut::with_capacity(page.items.iter().map(|item| item.get().len() + 1).sum());
        for item in page.items {
            lines.extend_from_slice(item.get().as_bytes());
            lines.extend_from_slice(b"\n");
        }
        Some(lines.freeze())
    }
}
