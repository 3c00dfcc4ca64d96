//! What one connection is doing, seen from three sides: its bytes, its requests, and the guard that ends it when it
//! takes too long. Holds no bytes and ends nothing itself.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::framing::HeadWatch;

/// How long a peer may go on sending after its last answer.
const LINGER_MAX: Duration = Duration::from_secs(2);

/// How long each phase of a connection may last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) head: Duration,
    pub(crate) idle: Duration,
    pub(crate) write: Duration,
    /// What [`Patience::idle`] shrinks to while the process stops.
    pub(crate) drain_idle: Duration,
}

/// What the guard should do with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Keep,
    /// Answer what has been asked, then close.
    Finish,
    /// Close at once: the peer has used up its time.
    Cut,
}

/// The state of one connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: IpAddr,
    opened: Instant,
    requests: AtomicU32,
    head_since: Moment,
    idle_since: Moment,
    blocked_since: Moment,
    linger_since: Moment,
    head: Mutex<HeadWatch>,
}

impl Link {
    pub(crate) fn new(peer: IpAddr) -> Self {
        let link = Self {
            peer,
            opened: Instant::now(),
            requests: AtomicU32::new(0),
            head_since: Moment::default(),
            idle_since: Moment::default(),
            blocked_since: Moment::default(),
            linger_since: Moment::default(),
            head: Mutex::default(),
        };
        // A connection is made in order to ask: silence counts as a slow head.
        link.head_since.begin(link.age());
        link
    }

    fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    fn head(&self) -> MutexGuard<'_, HeadWatch> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The peer speaks HTTP/2, where framing has one reading only.
    pub(crate) fn speaks_http2(&self) {
        self.head_since.end();
        self.idle_since.begin(self.age());
    }

    /// HTTP/1 bytes came in.
    pub(crate) fn received(&self, bytes: &[u8]) {
        let mut head = self.head();
        head.see(bytes);
        if head.is_inside() {
            self.head_since.begin(self.age());
        } else {
            self.head_since.end();
        }
    }

    /// Bytes wait for the peer to take them (`true`), or do not.
    pub(crate) fn blocked(&self, blocked: bool) {
        if blocked {
            self.blocked_since.begin(self.age());
        } else {
            self.blocked_since.end();
        }
    }

    /// Everything is answered and our side is closed; the peer's is not yet.
    pub(crate) fn lingers(&self) {
        self.linger_since.begin(self.age());
    }

    /// A request begins; it lasts until the guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Request {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.idle_since.end();
        Request(Arc::clone(self))
    }

    /// Whether the head just read can be read in more than one way.
    pub(crate) fn head_is_ambiguous(&self) -> bool {
        self.head().is_ambiguous()
    }

    /// Judges the connection; `draining` is for how long the process has been stopping. `slack` is the time until the
    /// next judgement, so that no limit is passed in between.
    pub(crate) fn judge(&self, patience: &Patience, draining: Option<Duration>, slack: Duration) -> Verdict {
        let age = self.age() + slack;
        if self.head_since.lasts(age, patience.head)
            || self.blocked_since.lasts(age, patience.write)
            || self.linger_since.lasts(age, LINGER_MAX)
        {
            return Verdict::Cut;
        }
        // What has begun to arrive is read to its end.
        if self.head().is_inside() {
            return Verdict::Keep;
        }
        // A request that came while the process was stopping closed the connection with its answer, so what is still
        // open after that time has been idle for all of it.
        let drained = draining.is_some_and(|draining| draining >= patience.drain_idle);
        if drained || self.idle_since.lasts(age, patience.idle) { Verdict::Finish } else { Verdict::Keep }
    }
}

/// A request in progress.
#[derive(Debug)]
pub(crate) struct Request(Arc<Link>);

impl Drop for Request {
    fn drop(&mut self) {
        if self.0.requests.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.idle_since.begin(self.0.age());
            *self.0.head() = HeadWatch::default();
        }
    }
}

/// When something began, in milliseconds of the connection's age plus one; 0 while it is not so.
#[derive(Debug, Default)]
struct Moment(AtomicU64);

impl Moment {
    fn begin(&self, age: Duration) {
        if self.0.load(Ordering::Relaxed) == 0 {
            self.0.store(u64::try_from(age.as_millis()).unwrap_or(u64::MAX - 1) + 1, Ordering::Relaxed);
        }
    }

    fn end(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn lasts(&self, age: Duration, limit: Duration) -> bool {
        match self.0.load(Ordering::Relaxed) {
            0 => false,
            since => age >= Duration::from_millis(since - 1) + limit,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const PATIENCE: Patience = Patience {
        head: Duration::from_secs(10),
        idle: Duration::from_secs(75),
        write: Duration::from_secs(30),
        drain_idle: Duration::from_secs(1),
    };

    fn link() -> Arc<Link> {
        Arc::new(Link::new(IpAddr::V4(Ipv4Addr::LOCALHOST)))
    }

    fn judge(link: &Link) -> Verdict {
        link.judge(&PATIENCE, None, Duration::ZERO)
    }

    async fn pass(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn silent_and_slow_heads_are_cut() {
        let silent = link();
        let slow = link();
        slow.received(b"GET / HTTP/1.1\r\n");

        pass(9).await;
        slow.received(b"Host: a\r\n");
        assert_eq!((judge(&silent), judge(&slow)), (Verdict::Keep, Verdict::Keep));

        pass(1).await;
        assert_eq!((judge(&silent), judge(&slow)), (Verdict::Cut, Verdict::Cut));
    }

    #[tokio::test(start_paused = true)]
    async fn running_request_is_kept_and_idle_connection_is_finished() {
        let link = link();
        link.received(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let request = link.begin();
        pass(600).await;
        assert_eq!(judge(&link), Verdict::Keep);

        drop(request);
        pass(74).await;
        assert_eq!(judge(&link), Verdict::Keep);
        pass(1).await;
        assert_eq!(judge(&link), Verdict::Finish);
    }

    #[tokio::test(start_paused = true)]
    async fn peer_that_takes_nothing_is_cut() {
        let link = link();
        link.received(b"GET / HTTP/1.1\r\n\r\n");
        link.blocked(true);
        pass(29).await;
        link.blocked(true);
        assert_eq!(judge(&link), Verdict::Keep);
        pass(1).await;
        assert_eq!(judge(&link), Verdict::Cut);
    }

    #[tokio::test(start_paused = true)]
    async fn peer_that_goes_on_after_its_last_answer_is_cut() {
        let link = link();
        link.received(b"POST / HTTP/1.1\r\n\r\n");
        link.lingers();
        pass(1).await;
        assert_eq!(judge(&link), Verdict::Keep);
        pass(1).await;
        assert_eq!(judge(&link), Verdict::Cut);
    }

    #[tokio::test(start_paused = true)]
    async fn stopping_process_finishes_connections_after_their_grace() {
        let link = link();
        link.received(b"GET / HTTP/1.1\r\n\r\n");
        let verdict = |millis| link.judge(&PATIENCE, Some(Duration::from_millis(millis)), Duration::ZERO);
        assert_eq!((verdict(0), verdict(999), verdict(1_000)), (Verdict::Keep, Verdict::Keep, Verdict::Finish));
    }

    #[tokio::test(start_paused = true)]
    async fn each_head_is_judged_by_itself() {
        let link = link();
        link.received(b"POST / HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n");
        let request = link.begin();
        assert!(link.head_is_ambiguous());
        link.received(b"{}");
        drop(request);

        link.received(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}");
        assert!(!link.head_is_ambiguous());
    }
}
