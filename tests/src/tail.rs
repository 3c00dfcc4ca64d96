//! The live tail of events as a client of the gateway sees it: server-sent events, block by block.

use std::time::Duration;

use reqwest::{Method, Response};
use serde_json::Value;

use crate::http::{Http, Reply};

/// The longest that an expected block may take; a sign of life comes every 15 s.
const BLOCK_MAX: Duration = Duration::from_mins(1);

/// The longest that any stream of a test lasts.
const STREAM_MAX: Duration = Duration::from_mins(3);

/// An open stream.
pub struct Tail {
    response: Response,
    received: Vec<u8>,
    /// Up to here there is no end of a block.
    searched: usize,
}

/// What stands between two empty lines.
#[derive(Clone, Debug, Default)]
pub struct Block {
    /// The stream's sequence, where the block has one.
    pub id: Option<u64>,
    /// Empty where the block has none.
    pub event: String,
    /// Null where the block has none.
    pub data: Value,
    /// Comments.
    pub comment: String,
}

impl Tail {
    /// Opens a stream of what `subject` covers; fails the test where the gateway refuses.
    pub async fn open(http: &Http, subject: &str, last_event_id: Option<u64>) -> Tail {
        let response = Tail::request(http, subject, last_event_id).send().await.expect("the gateway answers");
        assert_eq!(response.status(), 200, "{}", response.text().await.unwrap_or_default());
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut tail = Tail { response, received: Vec::new(), searched: 0 };
        let opening = tail.block().await.expect("a stream begins with where it stands");
        assert!(opening.id.is_some() && opening.event.is_empty(), "{opening:?}");
        tail
    }

    /// Opens a stream, where the gateway lets it.
    pub async fn try_open(http: &Http, subject: &str) -> Option<Tail> {
        let response = Tail::request(http, subject, None).send().await.expect("the gateway answers");
        (response.status() == 200).then_some(Tail { response, received: Vec::new(), searched: 0 })
    }

    /// The sequence of the last event that is stored, as a new stream is told.
    pub async fn position(http: &Http, subject: &str) -> u64 {
        let mut tail = Tail::try_open(http, subject).await.expect("the gateway opens a stream");
        tail.block().await.expect("a stream begins").id.expect("with where it stands")
    }

    /// What the gateway says instead of a stream.
    pub async fn refused(http: &Http, subject: &str, last_event_id: Option<u64>) -> Reply {
        Reply::of(Tail::request(http, subject, last_event_id)).await
    }

    fn request(http: &Http, subject: &str, last_event_id: Option<u64>) -> reqwest::RequestBuilder {
        let path = format!("/api/v1/events?subject={subject}");
        let request = http.request(Method::GET, &path).timeout(STREAM_MAX);
        match last_event_id {
            Some(id) => request.header("last-event-id", id.to_string()),
            None => request,
        }
    }

    /// The next block, a heartbeat too; `None` at the end of the stream.
    pub async fn block(&mut self) -> Option<Block> {
        loop {
            let end = self.received[self.searched..].windows(2).position(|two| two == b"\n\n");
            if let Some(end) = end {
                let block: Vec<u8> = self.received.drain(..self.searched + end + 2).collect();
                self.searched = 0;
                return Some(Block::parse(std::str::from_utf8(&block).expect("a stream is text")));
            }
            self.searched = self.received.len().saturating_sub(1);
            let chunk = tokio::time::timeout(BLOCK_MAX, self.response.chunk()).await.expect("a block comes in time");
            self.received.extend_from_slice(&chunk.expect("the stream is not cut")?);
        }
    }

    /// The next event or notice; fails the test at the end of the stream.
    pub async fn event(&mut self) -> Block {
        loop {
            let block = self.block().await.expect("the stream goes on");
            if !block.event.is_empty() {
                return block;
            }
        }
    }

    /// The reason of the last notice, behind which nothing may come; and the last id before it.
    pub async fn end(mut self) -> (String, Option<u64>) {
        let mut last = None;
        loop {
            let block = self.event().await;
            if block.event == "end" {
                assert!(self.block().await.is_none(), "nothing comes behind the end");
                return (block.data["reason"].as_str().expect("a reason").to_owned(), last);
            }
            last = block.id;
        }
    }
}

impl Block {
    fn parse(text: &str) -> Block {
        let mut block = Block::default();
        for line in text.lines() {
            match line.split_once(": ").or_else(|| line.split_once(':')) {
                Some(("id", id)) => block.id = Some(id.parse().expect("an id is a sequence")),
                Some(("event", event)) => event.clone_into(&mut block.event),
                Some(("data", data)) => block.data = serde_json::from_str(data).expect("data is JSON"),
                Some(("", comment)) => block.comment.push_str(comment),
                Some(("retry", _)) | None => {}
                Some((field, _)) => panic!("no field of ours: {field}"),
            }
        }
        block
    }
}
