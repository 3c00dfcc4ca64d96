//! A closed loop of HTTP requests over kept-alive connections: each sends its next request when it has its answer.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use hdrhistogram::Histogram;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Beyond this an answer counts as this; no request waits longer.
const LATENCY_MAX_US: u64 = 60_000_000;

/// What is sent, again and again.
#[derive(Clone)]
pub(super) struct Shot {
    /// `GET` or `POST`.
    pub(super) method: http::Method,
    /// From the root.
    pub(super) path: String,
    /// A bearer token, where the request needs one.
    pub(super) token: Option<String>,
    /// JSON, where there is a body.
    pub(super) body: Bytes,
}

/// What came of a run.
pub(super) struct Outcome {
    /// Answers with a status of 2xx.
    pub(super) answers: u64,
    /// From the first request to the last answer.
    pub(super) took: Duration,
    /// In microseconds.
    pub(super) latency: Histogram<u64>,
}

impl Outcome {
    /// Answers in a second.
    pub(super) fn rate(&self) -> f64 {
        self.answers as f64 / self.took.as_secs_f64()
    }
}

/// Runs `connections` loops for `duration`. Fails at the first answer that is not a success: a figure with errors in it
/// says nothing.
pub(super) async fn run(address: SocketAddr, shot: &Shot, connections: usize, duration: Duration) -> Result<Outcome> {
    let start = Instant::now();
    let mut loops = JoinSet::new();
    for _ in 0..connections {
        loops.spawn(one(address, shot.clone(), start + duration));
    }
    let mut latency = histogram();
    while let Some(done) = loops.join_next().await {
        latency.add(done??)?;
    }
    Ok(Outcome { answers: latency.len(), took: start.elapsed(), latency })
}

async fn one(address: SocketAddr, shot: Shot, until: Instant) -> Result<Histogram<u64>> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut latency = histogram();
    let requests = async {
        while Instant::now() < until {
            let mut request =
                Request::builder().method(shot.method.clone()).uri(&shot.path).header(http::header::HOST, "127.0.0.1");
            if let Some(token) = &shot.token {
                request = request.header(http::header::AUTHORIZATION, format!("Bearer {token}"));
            }
            if !shot.body.is_empty() {
                request = request.header(http::header::CONTENT_TYPE, "application/json");
            }
            let sent = Instant::now();
            let answer = sender.send_request(request.body(Full::new(shot.body.clone()))?).await?;
            let status = answer.status();
            let body = answer.into_body().collect().await?.to_bytes();
            if !status.is_success() {
                refuse(status, &body)?;
            }
            record(&mut latency, sent.elapsed())?;
        }
        drop(sender);
        Ok(latency)
    };
    let (latency, _closed) = tokio::join!(requests, connection);
    latency
}

fn refuse(status: StatusCode, body: &[u8]) -> Result<()> {
    bail!("an answer was {status}: {}", String::from_utf8_lossy(body))
}

/// Notes how long an answer took.
pub(super) fn record(latency: &mut Histogram<u64>, took: Duration) -> Result<()> {
    let microseconds = u64::try_from(took.as_micros()).unwrap_or(LATENCY_MAX_US);
    Ok(latency.record(microseconds.clamp(1, LATENCY_MAX_US))?)
}

/// In microseconds.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("these bounds are in order")
}
