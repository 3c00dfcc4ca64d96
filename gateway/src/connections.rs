//! Connections: taken from the listening sockets, served in the protocol they speak, ended when they take too long, and
//! let go without failing a request when the process stops.
//!
//! A stop goes like this. Sockets that another process also listens on are closed at once: what waits in their queue is
//! served there. From a socket of our own the queue is emptied first. Each answer then says `Connection: close`, a
//! connection without a request is closed after a grace, and what is left after the bound is cut.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt as _;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use kernel::Lifecycle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::link::{Link, Patience, Verdict};
use crate::server::Server;
use crate::settings::GatewaySettings;
use crate::wire::Wire;

/// How often a connection's guard looks at it.
const JUDGE_INTERVAL: Duration = Duration::from_millis(250);

/// Pause after a refused accept: out of file descriptors, most often, which only time heals.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Largest HTTP/1 head that is read at all. Wider than what is served (8 KiB of target, 16 KiB of fields), so that most
/// of what is too large still gets our own answer; narrow enough for all connections together.
const HEAD_BYTES_MAX: usize = 80 * 1024;

/// Requests at once on one HTTP/2 connection (RFC 9113 §6.5.2 advises no less than 100).
const STREAMS_MAX: u32 = 128;
/// Streams that a peer opened and reset before they were looked at; above it the connection ends (CVE-2023-44487).
const STREAMS_RESET_MAX: usize = 20;
/// Streams that we reset for a peer's faults; above it the connection ends.
const STREAMS_FAULTY_MAX: usize = 256;
/// Body bytes that a peer may send ahead, on one stream and on all of a connection.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Answer bytes kept for one stream until its peer takes them.
const STREAM_SEND_BYTES_MAX: usize = 256 * 1024;
const FIELDS_BYTES_MAX: u32 = 16 * 1024;
/// How often an HTTP/2 peer is asked for a sign of life, and how long it may take to give it.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// A listening socket.
pub(crate) struct Listener {
    pub(crate) socket: TcpListener,
    /// Whether another process listens on it too, or will.
    pub(crate) shared: bool,
}

/// The connections of a gateway.
pub(crate) struct Connections {
    server: Arc<Server>,
    slots: Arc<Semaphore>,
    patience: Patience,
    drain_timeout: Duration,
    running: JoinSet<()>,
}

impl Connections {
    /// None yet. When the process stops they have `drain_timeout` to end.
    pub(crate) fn new(server: Arc<Server>, settings: &GatewaySettings, drain_timeout: Duration) -> Self {
        Self {
            server,
            slots: Arc::new(Semaphore::new(settings.connections_max as usize)),
            patience: patience(settings),
            drain_timeout,
            running: JoinSet::new(),
        }
    }

    /// Serves `listeners` until the process stops and all connections have ended.
    pub(crate) async fn run(mut self, listeners: Vec<Listener>, life: &Lifecycle) {
        let mut stopping = pin!(life.stopping());
        loop {
            let slots = Arc::clone(&self.slots);
            let slot = tokio::select! {
                slot = slots.acquire_owned() => slot.expect("the semaphore is never closed"),
                () = &mut stopping => break,
            };
            tokio::select! {
                biased;
                () = &mut stopping => break,
                Some(_) = self.running.join_next() => {}
                accepted = accept(&listeners) => match accepted {
                    Ok((stream, peer)) => self.begin(stream, peer, slot),
                    Err(error) if is_the_peers(&error) => {}
                    Err(error) => {
                        tracing::warn!(%error, "A connection cannot be accepted.");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        self.drain(listeners).await;
    }

    fn begin(&mut self, stream: TcpStream, peer: SocketAddr, slot: OwnedSemaphorePermit) {
        let connection = serve_connection(Arc::clone(&self.server), self.patience, stream, peer);
        let open = self.server.open_connections().clone();
        open.inc();
        self.running.spawn(async move {
            connection.await;
            open.dec();
            drop(slot);
        });
    }

    async fn drain(mut self, listeners: Vec<Listener>) {
        self.server.begin_drain();
        for listener in listeners.iter().filter(|listener| !listener.shared) {
            while let Some(Ok((stream, peer))) = listener.socket.accept().now_or_never() {
                let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else { break };
                self.begin(stream, peer, slot);
            }
        }
        drop(listeners);
        let all_ended = async { while self.running.join_next().await.is_some() {} };
        if tokio::time::timeout(self.drain_timeout, all_ended).await.is_err() {
            tracing::warn!(connections = self.running.len(), "Connections are cut that did not end in time.");
        }
    }
}

fn patience(settings: &GatewaySettings) -> Patience {
    let millis = |millis: u32| Duration::from_millis(millis.into());
    Patience {
        head: millis(settings.header_timeout_ms),
        idle: millis(settings.idle_timeout_ms),
        write: millis(settings.write_timeout_ms),
        drain_idle: millis(settings.drain_idle_ms),
    }
}

/// The next connection of any of `listeners`. Dropping it loses none.
async fn accept(listeners: &[Listener]) -> io::Result<(TcpStream, SocketAddr)> {
    poll_fn(|cx| {
        let ready = listeners.iter().map(|listener| listener.socket.poll_accept(cx)).find(Poll::is_ready);
        ready.unwrap_or(Poll::Pending)
    })
    .await
}

/// Whether an accept failed because its peer had gone already.
fn is_the_peers(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

async fn serve_connection(server: Arc<Server>, patience: Patience, stream: TcpStream, peer: SocketAddr) {
    // Answers are written whole; waiting for more (Nagle) would only delay them. Failing that they are slower, not wrong.
    let _ = stream.set_nodelay(true);
    let link = Arc::new(Link::new(peer.ip()));
    let Some(wire) = open(&server, &patience, stream, &link).await else { return };
    let http2 = wire.is_http2();
    let io = TokioIo::new(wire);
    let service = {
        let (server, link) = (Arc::clone(&server), Arc::clone(&link));
        service_fn(move |request| {
            let (server, link) = (Arc::clone(&server), Arc::clone(&link));
            async move { Ok::<_, Infallible>(server.answer(request, &link).await) }
        })
    };
    let guard = Guard { server: &server, link: &link, patience: &patience, http2 };
    if http2 {
        guard.run(http2_builder().serve_connection(io, service)).await;
    } else {
        guard.run(http1_builder().serve_connection(io, service)).await;
    }
}

/// Waits until the peer has said in which protocol it speaks, as long as any connection may be silent.
async fn open(server: &Server, patience: &Patience, stream: TcpStream, link: &Arc<Link>) -> Option<Wire> {
    let mut opening = pin!(Wire::open(stream, Arc::clone(link), server.bare_refusals()));
    loop {
        match tokio::time::timeout(JUDGE_INTERVAL, opening.as_mut()).await {
            Ok(opened) => return opened.ok(),
            Err(_) if link.judge(patience, server.draining(), JUDGE_INTERVAL) == Verdict::Keep => {}
            Err(_) => return None,
        }
    }
}

fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    // The guard keeps the time, for all phases and without a timer a request.
    builder.timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(HEAD_BYTES_MAX);
    builder
}

fn http2_builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(STREAMS_RESET_MAX)
        .max_local_error_reset_streams(STREAMS_FAULTY_MAX)
        .max_header_list_size(FIELDS_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(STREAM_SEND_BYTES_MAX)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// Lets a connection run and ends it when it is time.
struct Guard<'a> {
    server: &'a Server,
    link: &'a Link,
    patience: &'a Patience,
    http2: bool,
}

impl Guard<'_> {
    async fn run<C: GracefulConnection>(self, connection: C) {
        let mut connection = pin!(connection);
        let mut judgements = tokio::time::interval_at(Instant::now() + JUDGE_INTERVAL, JUDGE_INTERVAL);
        judgements.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = connection.as_mut() => return, // What went wrong is the peer's; it has its answer where one was possible.
                _ = judgements.tick() => match self.judge() {
                    Verdict::Keep => {}
                    Verdict::Finish => connection.as_mut().graceful_shutdown(),
                    Verdict::Cut => return,
                },
            }
        }
    }

    fn judge(&self) -> Verdict {
        let draining = self.server.draining();
        match self.link.judge(self.patience, draining, JUDGE_INTERVAL) {
            // HTTP/2 can say which requests are still answered (GOAWAY), so it need not wait.
            Verdict::Keep if self.http2 && draining.is_some() => Verdict::Finish,
            verdict => verdict,
        }
    }
}
