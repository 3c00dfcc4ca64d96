//! `trunkline events tail`: the gateway's live tail on a terminal, or one JSON object a line for programs.

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use reqwest::{Client, Response, Url};
use serde_json::Value;

use super::super::api::{self, Session};
use super::super::options::Data;
use super::super::output::{ReaderGone, cell, note, print};
use super::sse::{Block, Blocks};

/// How long a connection may take to be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How long the gateway may be silent: three of its heartbeats.
const SILENCE_MAX: Duration = Duration::from_secs(45);

/// The first and the longest pause before coming back.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);

#[derive(Args, Debug)]
pub(in crate::command) struct Tail {
    #[command(flatten)]
    data: Data,
    /// Only these: * stands for one word, > for all the rest
    #[arg(long, value_name = "FILTER", default_value = "evt.>")]
    subject: String,
    /// First what is stored behind this sequence; 0 for everything that is kept
    #[arg(long, value_name = "SEQUENCE")]
    since: Option<u64>,
    /// End after so many events
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// One JSON object a line, with every attribute (CloudEvents)
    #[arg(long)]
    json: bool,
}

/// How one stream ended.
enum Ended {
    /// Everything that was asked for is shown.
    Done,
    /// Come back: the gateway said why, or the connection broke.
    Broken(String),
}

/// What has been shown.
struct Progress<'a> {
    tail: &'a Tail,
    /// The sequence behind which to go on.
    position: Option<u64>,
    shown: u64,
}

pub(super) async fn run(tail: &Tail) -> Result<()> {
    let client = Client::builder().connect_timeout(CONNECT_WITHIN).read_timeout(SILENCE_MAX).build()?;
    let mut progress = Progress { tail, position: tail.since, shown: 0 };
    // What fails at first is told; what fails later is tried again.
    let mut response = connect(&client, &progress).await?;
    loop {
        let reason = match progress.show(response).await? {
            Ended::Done => return Ok(()),
            Ended::Broken(reason) => reason,
        };
        note(&format!("{reason}; coming back"));
        let mut pause = PAUSE_MIN;
        response = loop {
            tokio::time::sleep(pause).await;
            match connect(&client, &progress).await {
                Ok(response) => break response,
                Err(error) if api::is_refusal(&error) => return Err(error),
                Err(_) => pause = (pause * 2).min(PAUSE_MAX),
            }
        };
    }
}

/// Signs in anew, since a token does not last as long as a tail, and opens a stream behind what has been shown.
async fn connect(client: &Client, progress: &Progress<'_>) -> Result<Response> {
    let session = Session::open(&progress.tail.data).await?;
    let url = format!("{}/api/v1/events", session.url());
    let url = Url::parse_with_params(&url, [("subject", &progress.tail.subject)]).context("the gateway's address")?;
    let mut request = client.get(url).bearer_auth(session.token());
    if let Some(position) = progress.position {
        request = request.header("Last-Event-ID", position.to_string());
    }
    api::accepted(request).await
}

impl Progress<'_> {
    /// Shows a stream to its end. Fails where nobody reads what is printed, or what comes is no stream.
    async fn show(&mut self, mut response: Response) -> Result<Ended> {
        let mut blocks = Blocks::default();
        loop {
            while let Some(block) = blocks.next() {
                if block.event == "end" {
                    let notice: Value = serde_json::from_str(&block.data).unwrap_or_default();
                    let reason = notice["reason"].as_str().unwrap_or("no reason");
                    return Ok(Ended::Broken(format!("the gateway ended the stream ({})", cell(reason))));
                }
                if !self.show_block(&block)? || self.tail.count.is_some_and(|count| self.shown >= count) {
                    return Ok(Ended::Done);
                }
            }
            match response.chunk().await {
                Ok(Some(bytes)) => blocks.push(&bytes)?,
                Ok(None) => return Ok(Ended::Broken("the gateway closed the connection".to_owned())),
                Err(_) => return Ok(Ended::Broken("the connection to the gateway broke".to_owned())),
            }
        }
    }

    /// False where nobody reads any more.
    fn show_block(&mut self, block: &Block) -> Result<bool> {
        let printed = match block.event.as_str() {
            "" => Ok(()),
            "gap" => {
                note(&gap(&block.data));
                Ok(())
            }
            _ => {
                self.shown += 1;
                if self.tail.json { print(&block.data) } else { print(&line(block)?) }
            }
        };
        self.position = block.id.or(self.position);
        match printed {
            Err(error) if error.is::<ReaderGone>() => Ok(false),
            printed => printed.map(|()| true),
        }
    }
}

/// `17  2026-01-02T03:04:05.678901Z  identity.user.registered  0198…  {…}`
fn line(block: &Block) -> Result<String> {
    let event: Value = serde_json::from_str(&block.data).context("an event of the gateway's is not JSON")?;
    let text = |name: &str| event[name].as_str().map_or_else(|| "-".to_owned(), cell);
    let body = match &event["data"] {
        Value::Null => "-".to_owned(),
        body => cell(&body.to_string()),
    };
    Ok(format!("{:>6}  {}  {}  {}  {body}", text("sequence"), text("time"), text("type"), text("subject")))
}

fn gap(data: &str) -> String {
    let notice: Value = serde_json::from_str(data).unwrap_or_default();
    let first = cell(notice["firstSequence"].as_str().unwrap_or("?"));
    match notice["reason"].as_str() {
        Some("stream_anew") => "the stream was made anew; showing it from its start".to_owned(),
        _ => format!("older events are not kept any more; going on with {first}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_shows_what_happened_and_drives_no_terminal() {
        let data = r#"{"sequence":"17","time":"T","type":"a.b.c","subject":"s\u001b[2J","data":{"x":1}}"#;
        let block = Block { id: Some(17), event: "a.b.c".to_owned(), data: data.to_owned() };
        assert_eq!(line(&block).unwrap(), "    17  T  a.b.c  s\u{fffd}[2J  {\"x\":1}");
        assert!(gap(r#"{"reason":"expired","firstSequence":"9"}"#).ends_with("going on with 9"));
    }
}
