//! How a process lives with its broker: ready, calls, restarts, and leaving.

#![allow(clippy::unwrap_used, clippy::float_cmp, reason = "a test ends where it is surprised")]

mod probe;
mod servers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::{Client, RequestErrorKind};
use tokio::time::{Instant, timeout};

use crate::probe::{Keys, ask, metric, refusal, spawn};
use crate::servers::nats::{Nats, OBSERVER};

const REGISTER: &str = "svc.identity.v1.register";

/// The longest that anything which must happen may take, on a machine that is busy.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Callers that ask again and again.
struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    lost: Arc<AtomicUsize>,
    callers: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(client: &Client, callers: usize) -> Self {
        Self::paced(client, callers, Duration::ZERO)
    }

    /// With a pause after each answer.
    fn paced(client: &Client, callers: usize, pause: Duration) -> Self {
        let mut load = Self { stop: Arc::default(), asked: Arc::default(), lost: Arc::default(), callers: Vec::new() };
        for _ in 0..callers {
            let (client, stop) = (client.clone(), Arc::clone(&load.stop));
            let (asked, lost) = (Arc::clone(&load.asked), Arc::clone(&load.lost));
            load.callers.push(spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let request = async_nats::Request::new().payload("{}".into());
                    let reply = client.send_request(REGISTER, request.timeout(Some(Duration::from_secs(5)))).await;
                    asked.fetch_add(1, Ordering::Relaxed);
                    if !reply.is_ok_and(|reply| refusal(&reply).is_none()) {
                        lost.fetch_add(1, Ordering::Relaxed);
                    }
                    tokio::time::sleep(pause).await;
                }
            }));
        }
        load
    }

    /// Requests made, and those without a good answer.
    async fn end(self) -> (usize, usize) {
        self.stop.store(true, Ordering::Relaxed);
        for caller in self.callers {
            caller.await.unwrap();
        }
        (self.asked.load(Ordering::Relaxed), self.lost.load(Ordering::Relaxed))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_stops_under_load_lose_nothing() {
    let server = Nats::start().await;
    let client = server.client(OBSERVER).await;
    let mut serving = probe::start(&server).await;
    let load = Load::start(&client, 64);

    for _ in 0..20 {
        let next = probe::start(&server).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        serving.stop().await.unwrap();
        serving = next;
    }

    let (asked, lost) = load.end().await;
    assert_eq!(lost, 0, "of {asked}");
    assert!(asked > 1_000, "{asked} is no load");
    serving.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_trickle_loses_nothing_either() {
    let server = Nats::start().await;
    let client = server.client(OBSERVER).await;
    let mut serving = probe::start(&server).await;
    let load = Load::paced(&client, 16, Duration::from_millis(20));

    for _ in 0..20 {
        let next = probe::start(&server).await;
        serving.stop().await.unwrap();
        serving = next;
    }

    let (asked, lost) = load.end().await;
    assert_eq!(lost, 0, "of {asked}");
    serving.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ready_means_that_the_next_request_is_served() {
    let server = Nats::start().await;
    let client = server.client(OBSERVER).await;

    for _ in 0..10 {
        let running = probe::start(&server).await;
        for _ in 0..10 {
            assert_eq!(refusal(&ask(&client, REGISTER, &[], "{}").await), None);
        }
        running.stop().await.unwrap();
        let gone = client.request(REGISTER, "{}".into()).await.unwrap_err();
        assert_eq!(gone.kind(), RequestErrorKind::NoResponders);
    }
}

#[tokio::test]
async fn running_work_is_finished_before_leaving() {
    let server = Nats::start().await;
    let running = probe::start(&server).await;
    let client = server.client(OBSERVER).await;

    let asking = ask(&client, REGISTER, &[], r#"{"email":"sleep","password":"1500"}"#);
    let stopping = async {
        while metric(&running, "trunkline_requests_in_flight") < 1.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let began = Instant::now();
        running.stop().await.unwrap();
        began.elapsed()
    };
    let (reply, took) = tokio::join!(asking, stopping);

    assert_eq!(refusal(&reply), None);
    assert!(took < Duration::from_secs(8), "it does not wait for longer than the work takes: {took:?}");
}

#[tokio::test]
async fn idle_process_leaves_in_a_second() {
    let server = Nats::start().await;
    let running = probe::start(&server).await;

    // It would wait ten seconds for work that runs.
    timeout(Duration::from_secs(8), running.stop()).await.expect("nothing has to be waited for").unwrap();
}

#[tokio::test]
async fn refused_publish_fails_its_caller_at_once() {
    let server = Nats::start().await;
    let _keys = Keys::serve(&server).await;
    let running = probe::start(&server).await;
    let client = server.client(OBSERVER).await;

    for _ in 0..2 {
        let began = Instant::now();
        let reply = ask(&client, REGISTER, &[], r#"{"email":"deny"}"#).await;
        assert_eq!(refusal(&reply), Some((500, "internal".to_owned())));
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
    assert_eq!(metric(&running, r#"trunkline_nats_errors_total{kind="publish_denied"}"#), 1.0);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_time_out_leave_nothing_behind() {
    let server = Nats::start().await;
    let silent = server.client("auth").await;
    let _questions = silent.queue_subscribe("svc.auth.v1.get_jwks", "auth".to_owned()).await.unwrap();
    silent.flush().await.unwrap();
    let running = probe::start(&server).await;
    let client = server.client(OBSERVER).await;

    let asking = (0..200).map(|_| ask(&client, REGISTER, &[("Request-Timeout-Ms", "300")], r#"{"email":"time out"}"#));
    let replies = futures::future::join_all(asking).await;

    assert!(replies.iter().all(|reply| refusal(reply).is_some_and(|(status, _)| status == 504)));
    let began = Instant::now();
    while metric(&running, "trunkline_calls_pending") > 0.0 {
        assert!(began.elapsed() < WAIT_MAX, "something is left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.stop().await.unwrap();
}

#[tokio::test]
async fn call_that_nobody_serves_fails_at_once() {
    let server = Nats::start().await;
    let running = probe::start(&server).await;
    let client = server.client(OBSERVER).await;

    let began = Instant::now();
    let reply = ask(&client, REGISTER, &[], r#"{"email":"time out"}"#).await;

    assert_eq!(refusal(&reply), Some((503, "unavailable".to_owned())));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broker_that_restarts_is_found_again_and_stops_stay_lossless() {
    let mut server = Nats::start().await;
    let first = probe::start(&server).await;
    let second = probe::start(&server).await;
    let client = server.client(OBSERVER).await;
    for _ in 0..100 {
        assert_eq!(refusal(&ask(&client, REGISTER, &[], "{}").await), None);
    }

    server.kill();
    let noticed = Instant::now();
    while first.readiness().report().await.ready {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(noticed.elapsed() < WAIT_MAX);
    server.resume();
    let back = Instant::now();
    while !(first.readiness().report().await.ready && second.readiness().report().await.ready) {
        assert!(back.elapsed() < WAIT_MAX, "not ready again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    while client.request(REGISTER, "{}".into()).await.is_err() {
        assert!(back.elapsed() < WAIT_MAX, "not served again");
    }

    let load = Load::start(&client, 32);
    tokio::time::sleep(Duration::from_millis(300)).await;
    first.stop().await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (asked, lost) = load.end().await;
    assert_eq!(lost, 0, "of {asked}");
    second.stop().await.unwrap();
}

#[tokio::test]
async fn broker_that_says_nothing_is_noticed() {
    let server = Nats::start().await;
    let running = probe::start(&server).await;

    server.pause(true);
    let began = Instant::now();
    while running.readiness().report().await.ready {
        assert!(began.elapsed() < WAIT_MAX, "not noticed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.pause(false);

    while !running.readiness().report().await.ready {
        assert!(began.elapsed() < WAIT_MAX * 2, "not ready again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    running.stop().await.unwrap();
}

#[tokio::test]
async fn start_waits_for_a_broker_that_comes_later() {
    let mut server = Nats::start().await;
    server.kill();
    let process = probe::process(&server);
    let starting = spawn(async move { probe::start_with(process).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!starting.is_finished());

    server.resume();

    let running = timeout(WAIT_MAX, starting).await.expect("it starts").unwrap();
    assert_eq!(refusal(&ask(&server.client(OBSERVER).await, REGISTER, &[], "{}").await), None);
    running.stop().await.unwrap();
}

#[tokio::test]
async fn admin_port_tells_how_it_stands() {
    let server = Nats::start().await;
    let running = probe::start(&server).await;
    let url = running.status().admin_url();
    let address = url.strip_prefix("http://").unwrap().to_owned();
    let get = async |path: &str| {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };

    assert!(get("/livez").await.starts_with("HTTP/1.1 200"));
    assert!(get("/readyz").await.ends_with(r#"{"ready":true,"reasons":[]}"#));
    assert!(get("/metrics").await.contains("trunkline_nats_connected 1"));

    running.life().stop();
    let answer = get("/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("stopping"), "{answer}");
    running.stop().await.unwrap();
}
