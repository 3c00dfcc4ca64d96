//! One client's stream: first what is stored behind its position, then what comes, without a gap and without doubles;
//! and again from its position whenever the tail may have missed something.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use http::HeaderValue;
use kernel::Error;
use kernel::feed::ReadError;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::Events;
use super::admission::Place;
use super::filter::Filter;
use super::message;
use super::tail::{Cursor, Next};

/// What is read of the broker's stream at once, for one client.
const READ_MESSAGES_MAX: usize = 64;
const READ_BYTES_MAX: usize = 256 * 1024;

/// Text that is handed to the connection at once, about.
const CHUNK_BYTES: usize = 16 * 1024;

/// How long the broker may be away before a stream is given up, and the pause between two tries.
const AWAY_MAX: Duration = Duration::from_secs(30);
const AWAY_PAUSE: Duration = Duration::from_millis(500);

/// How long a last look may take before the answer begins.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct EventStream {
    events: Arc<Events>,
    authorization: HeaderValue,
    filter: Filter,
    /// Everything up to this sequence has been sent, or is not for this client.
    position: u64,
    mode: Mode,
    changes: watch::Receiver<()>,
    /// How often the stream had been made anew when the position was one of it.
    anew: u64,
    expires: Instant,
    checked: Instant,
    heartbeat: Instant,
    /// What is to be sent.
    text: String,
    _place: Place,
}

enum Mode {
    /// Reads what is stored; since when the broker has been away, if it is.
    Stored(Option<Instant>),
    Live(Cursor),
    Ended,
}

/// How often a stream asks for its permission while none that is kept counts.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// Why the gateway ends a stream.
struct End {
    reason: &'static str,
    detail: &'static str,
}

const STOPPING: End = End { reason: "stopping", detail: "This gateway stops. Come back with Last-Event-ID." };
const EXPIRED: End = End {
    reason: "token_expired",
    detail: "The access token has expired. Come back with a new one and Last-Event-ID.",
};
const REFUSED: End = End { reason: "token_refused", detail: "The access token does not count any more." };
const FORBIDDEN: End = End { reason: "permission_denied", detail: "The permission was taken away." };
const SLOW: End =
    End { reason: "slow_reader", detail: "Events came faster than they were taken. Come back with Last-Event-ID." };
const AWAY: End =
    End { reason: "unavailable", detail: "Events cannot be read just now. Come back with Last-Event-ID." };

impl EventStream {
    /// Finds where the client stands, whose token lives for `life` yet. `last_event_id` is the last sequence it has;
    /// without one it wants what comes.
    pub(super) async fn begin(
        events: Arc<Events>,
        authorization: HeaderValue,
        life: Duration,
        filter: Filter,
        last_event_id: Option<u64>,
        place: Place,
    ) -> Result<Self, Error> {
        let (anew, changes) = (events.tail.anew(), events.tail.changes());
        let ends = async {
            let last = events.reader.last_sequence().await?.unwrap_or(0);
            let first = if last_event_id.is_some() { events.reader.first_sequence().await?.unwrap_or(1) } else { 1 };
            Ok::<_, ReadError>((first, last))
        };
        let away = || Error::unavailable("Events cannot be read just now.").retry_after(Duration::from_secs(1));
        let ends = timeout(OPEN_TIMEOUT, ends).await.map_err(|_| away())?;
        let (first, last) = ends.map_err(|error| away().with_source(error))?;
        let position = last_event_id.unwrap_or(last);
        let now = Instant::now();
        let mut stream = Self {
            position,
            mode: Mode::Stored(None),
            changes,
            anew,
            expires: now + life,
            checked: now,
            heartbeat: now + events.heartbeat,
            text: String::new(),
            events,
            authorization,
            filter,
            _place: place,
        };
        stream.events.metrics.streams.inc();
        if position > last {
            // Its sequences are another stream's.
            stream.text = message::opening(0);
            stream.start_over("stream_anew", first);
        } else {
            stream.text = message::opening(position);
            if position + 1 < first {
                message::write_gap(&mut stream.text, first - 1, "expired", first);
                stream.position = first - 1;
            }
        }
        Ok(stream)
    }

    /// The stream's text.
    pub(super) fn into_chunks(self) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
        futures::stream::unfold(self, async |mut stream| {
            let chunk = stream.chunk().await?;
            Some((Ok(Bytes::from(chunk)), stream))
        })
    }

    /// What is sent next; `None` at the end.
    async fn chunk(&mut self) -> Option<String> {
        loop {
            if !self.text.is_empty() {
                // Since an event was waited for, the permission may have been taken away.
                if !matches!(self.mode, Mode::Ended)
                    && let Some(end) = self.refusal().await
                {
                    self.text.clear();
                    self.end(&end);
                }
                self.heartbeat = Instant::now() + self.events.heartbeat;
                return Some(std::mem::take(&mut self.text));
            }
            if matches!(self.mode, Mode::Ended) {
                return None;
            }
            if let Some(end) = self.must_end().await {
                self.end(&end);
                continue;
            }
            if self.events.tail.anew() != self.anew {
                self.anew = self.events.tail.anew();
                self.start_over("stream_anew", 1);
                continue;
            }
            match self.mode {
                Mode::Stored(_) => self.read_stored().await,
                Mode::Live(_) => self.read_live().await,
                Mode::Ended => {}
            }
        }
    }

    /// Whether the stream may not go on.
    async fn must_end(&mut self) -> Option<End> {
        if self.events.stopping.is_cancelled() {
            return Some(STOPPING);
        }
        if Instant::now() >= self.expires {
            return Some(EXPIRED);
        }
        self.refusal().await
    }

    /// Whether the token or its permission does not count any more. They are looked at before anything is shown; where that
    /// means asking, now and again.
    async fn refusal(&mut self) -> Option<End> {
        if !self.events.changes.are_believed() && self.checked.elapsed() < ASK_INTERVAL.min(self.events.heartbeat) {
            return None;
        }
        self.checked = Instant::now();
        let error = self.events.permit(&self.authorization, &self.filter).await.err()?;
        Some(match error.status() {
            401 => REFUSED,
            403 => FORBIDDEN,
            _ => AWAY,
        })
    }

    async fn read_stored(&mut self) {
        let mark = self.events.tail.mark();
        let read = async {
            let _turn = self.events.reads.acquire().await.expect("the semaphore is never closed");
            let subject = self.filter.subject();
            self.events.reader.after(subject, self.position, READ_MESSAGES_MAX, READ_BYTES_MAX).await
        };
        let page = tokio::select! {
            biased;
            () = self.events.stopping.cancelled() => return,
            page = read => page,
        };
        match page {
            Ok(page) => {
                for message in &page.messages {
                    self.position = message.sequence;
                    message::write_event(&mut self.text, message);
                }
                self.events.metrics.sent.inc_by(page.messages.len() as u64);
                let attached = if page.pending == 0 { self.events.tail.attach(mark) } else { None };
                self.mode = attached.map_or(Mode::Stored(None), Mode::Live);
            }
            Err(error) => {
                let since = match self.mode {
                    Mode::Stored(Some(since)) => since,
                    _ => Instant::now(),
                };
                tracing::debug!(%error, "Stored events cannot be read.");
                self.mode = Mode::Stored(Some(since));
                if since.elapsed() > AWAY_MAX {
                    self.end(&AWAY);
                } else {
                    self.rest(Instant::now() + AWAY_PAUSE).await;
                }
            }
        }
    }

    async fn read_live(&mut self) {
        // Before the look, so that what changes behind it is noticed.
        self.changes.borrow_and_update();
        let Mode::Live(cursor) = &mut self.mode else { return };
        loop {
            match self.events.tail.next(cursor) {
                Next::Message(message) => {
                    if message.sequence <= self.position {
                        continue;
                    }
                    self.position = message.sequence;
                    if self.filter.covers(&message.subject) {
                        message::write_event(&mut self.text, &message);
                        self.events.metrics.sent.inc();
                        if self.text.len() >= CHUNK_BYTES {
                            return;
                        }
                    }
                }
                Next::Wait if self.text.is_empty() => break,
                Next::Wait => return,
                Next::Lost => {
                    self.mode = Mode::Stored(None);
                    return;
                }
                Next::Behind => {
                    self.end(&SLOW);
                    return;
                }
            }
        }
        self.rest(self.heartbeat).await;
    }

    /// Waits for a change, until `until` at most; a heartbeat that falls due is sent.
    async fn rest(&mut self, until: Instant) {
        let until = until.min(self.heartbeat).min(self.expires);
        let live = matches!(self.mode, Mode::Live(_));
        tokio::select! {
            biased;
            () = self.events.stopping.cancelled() => {}
            _ = self.changes.changed(), if live => {}
            () = sleep_until(until) => {}
        }
        if Instant::now() >= self.heartbeat {
            self.text = message::heartbeat(self.position);
        }
    }

    /// Goes on with the first event of another stream.
    fn start_over(&mut self, reason: &str, first: u64) {
        self.position = 0;
        self.mode = Mode::Stored(None);
        message::write_gap(&mut self.text, 0, reason, first);
    }

    fn end(&mut self, end: &End) {
        self.mode = Mode::Ended;
        self.events.metrics.ended(end.reason);
        message::write_end(&mut self.text, end.reason, end.detail);
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.events.metrics.streams.dec();
    }
}
