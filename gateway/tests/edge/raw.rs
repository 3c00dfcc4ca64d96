//! Bytes to a gateway and back, as no client library would send them.

use std::time::Duration;

use platform_tests::http::Http;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longer than any answer of these tests takes; a missing one fails the test.
const ANSWER_MAX: Duration = Duration::from_mins(1);

/// A good request that needs no service.
pub const PROBE: &str = "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n";

/// One connection.
pub struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

/// One answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Connection {
    pub async fn open(gateway: &Http) -> Self {
        let address = gateway.base().strip_prefix("http://").expect("a base is a URL");
        Self { stream: TcpStream::connect(address).await.expect("the gateway listens"), received: Vec::new() }
    }

    /// Sends bytes. Says whether all were taken: a gateway may answer, and hang up, before it has read all.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok()
    }

    pub async fn half_close(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// The next answer to a request that was not HEAD; `None` when the gateway closes instead.
    pub async fn answer(&mut self) -> Option<Answer> {
        loop {
            if let Some(answer) = self.take_answer() {
                return Some(answer);
            }
            if !self.receive().await {
                return None;
            }
        }
    }

    /// The next answer, which has no body whatever its head says of one.
    pub async fn head(&mut self) -> Answer {
        while !self.received.ends_with(b"\r\n\r\n") {
            assert!(self.receive().await, "the gateway answers");
        }
        let head = String::from_utf8(std::mem::take(&mut self.received)).expect("a head alone is text");
        Answer { status: status_of(&head), head, body: String::new() }
    }

    /// Whether the gateway closes without another byte.
    pub async fn closes(&mut self) -> bool {
        self.received.is_empty() && !self.receive().await
    }

    /// Whether the connection can still be used.
    pub async fn serves(&mut self) -> bool {
        self.send(PROBE).await;
        self.answer().await.is_some_and(|answer| answer.status == 200)
    }

    async fn receive(&mut self) -> bool {
        let read = tokio::time::timeout(ANSWER_MAX, self.stream.read_buf(&mut self.received)).await;
        // A reset after bytes that nobody read is a close as well.
        read.expect("the gateway answers or closes").is_ok_and(|count| count > 0)
    }

    fn take_answer(&mut self) -> Option<Answer> {
        let end = self.received.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = String::from_utf8(self.received[..end].to_vec()).expect("a head is text");
        let status = status_of(&head);
        let length = header_of(&head, "content-length").map_or(0, |length| length.parse().expect("a length"));
        let body = self.received.get(end..end + length)?.to_vec();
        self.received.drain(..end + length);
        Some(Answer { status, head, body: String::from_utf8(body).expect("a body is text") })
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        header_of(&self.head, name)
    }

    /// The stable word of a problem; fails the test where the answer is none.
    #[track_caller]
    pub fn code(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{self:?}"));
        assert_eq!(problem["status"], self.status, "{self:?}");
        assert_eq!(problem["requestId"].as_str(), self.header("x-request-id"), "{self:?}");
        problem["code"].as_str().unwrap_or_else(|| panic!("{self:?}")).to_owned()
    }
}

fn status_of(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a head has a status")
}

fn header_of<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(": ")?;
        key.eq_ignore_ascii_case(name).then_some(value)
    })
}

/// Sends one request on a connection of its own and gives the answer.
pub async fn ask(gateway: &Http, bytes: impl AsRef<[u8]>) -> Answer {
    let mut connection = Connection::open(gateway).await;
    connection.send(bytes).await;
    connection.answer().await.expect("the gateway answers")
}
