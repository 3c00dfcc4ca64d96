//! Dead letters of consumers, read and replayed as the user `ops`.
//!
//! Deliberately nothing that changes or removes one: a letter that was replayed is known by the mark that its consumer stores.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use async_nats::{Client, HeaderMap, HeaderValue, Message, StatusCode};
use futures::StreamExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use subjects::Problem;
use subjects::dead_letter::{self, Replay, ReplayOutcome, Replayed, header};

/// How long an answer may take. A consumer's handler may take 15 s.
const WITHIN: Duration = Duration::from_secs(20);
/// Letters and their bytes in one answer of the broker.
const BATCH_MAX: usize = 100;
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The dead letters of a platform.
#[derive(Debug)]
pub struct DeadLetters {
    client: Client,
}

/// One letter. Its fields are empty where the stored message lacks them.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Its place among the dead letters.
    pub sequence: u64,
    /// Who gave the message up.
    pub consumer: String,
    /// Where the message was published.
    pub subject: String,
    /// Every header, in order of name.
    pub headers: Vec<(String, String)>,
    /// The message's body.
    pub body: bytes::Bytes,
}

/// Which letters are asked for.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this consumer's.
    pub consumer: Option<String>,
    /// Only messages of subjects like this; wildcards as the broker knows them.
    pub subject: Option<String>,
    /// Only letters behind this place.
    pub after: u64,
}

/// Letters that were replayed with success: consumer and sequence.
#[derive(Clone, Debug, Default)]
pub struct Marks(BTreeSet<(String, u64)>);

impl Marks {
    /// Whether this one was.
    pub fn has(&self, letter: &Letter) -> bool {
        self.0.contains(&(letter.consumer.clone(), letter.sequence))
    }
}

impl Letter {
    /// The first value of a header; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    fn read(message: Message) -> Result<Self> {
        let headers = message.headers.unwrap_or_default();
        let mut pairs: Vec<(String, String)> = headers
            .iter()
            .flat_map(|(name, values)| {
                values.iter().map(move |value| (name.to_string(), HeaderValue::as_str(value).to_owned()))
            })
            .collect();
        pairs.sort();
        let mut letter = Self {
            sequence: 0,
            consumer: String::new(),
            subject: String::new(),
            headers: pairs,
            body: message.payload,
        };
        letter.sequence = letter.header("Nats-Sequence").parse().context("the broker's answer has no sequence")?;
        // The broker vouches for the subject, and by it for the consumer.
        let stored = letter.header("Nats-Subject").split('.').nth(2).unwrap_or_default().to_owned();
        letter.consumer = stored;
        letter.subject = letter.header(header::SUBJECT).to_owned();
        Ok(letter)
    }
}

impl DeadLetters {
    /// Those that `client`, connected as `ops`, can see.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Which of a consumer's letters, or of every consumer's, were replayed with success.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn replayed(&self, consumer: Option<&str>) -> Result<Marks> {
        let counts = self.counts(&dead_letter::replayed(consumer.unwrap_or("*"), "*")).await?;
        let marks = counts.into_keys().filter_map(|subject| {
            let (consumer, sequence) = subject.strip_prefix("replayed.evt.")?.split_once('.')?;
            Some((consumer.to_owned(), sequence.parse().ok()?))
        });
        Ok(Marks(marks.collect()))
    }

    /// How many letters have not been replayed with success.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn waiting(&self) -> Result<u64> {
        let letters: u64 = self.counts(&dead_letter::subjects("*")).await?.into_values().sum();
        let replayed = self.counts(&dead_letter::replayed("*", "*")).await?.len() as u64;
        Ok(letters.saturating_sub(replayed))
    }

    /// How many messages each subject like this has.
    async fn counts(&self, like: &str) -> Result<BTreeMap<String, u64>> {
        let mut counts = BTreeMap::new();
        loop {
            let request = json!({ "subjects_filter": like, "offset": counts.len() });
            let info: Value = self.api(&format!("STREAM.INFO.{}", dead_letter::STREAM), &request).await?;
            let page = info["state"]["subjects"].as_object().into_iter().flatten();
            let before = counts.len();
            counts.extend(page.map(|(subject, count)| (subject.clone(), count.as_u64().unwrap_or_default())));
            if counts.len() == before || counts.len() as u64 >= info["total"].as_u64().unwrap_or_default() {
                return Ok(counts);
            }
        }
    }

    /// The first letters that match, oldest first, at most `limit` of those that `wanted` takes.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn list(&self, filter: &Filter, limit: usize, wanted: impl Fn(&Letter) -> bool) -> Result<Vec<Letter>> {
        let mut letters = Vec::new();
        let mut after = filter.after;
        while letters.len() < limit {
            let batch =
                self.batch(after + 1, &dead_letter::subjects(filter.consumer.as_deref().unwrap_or("*"))).await?;
            let Some(last) = batch.last() else { break };
            after = last.sequence;
            let matching = |letter: &Letter| filter.subject.as_ref().is_none_or(|like| is_like(&letter.subject, like));
            letters.extend(batch.into_iter().filter(|letter| matching(letter) && wanted(letter)));
        }
        letters.truncate(limit);
        Ok(letters)
    }

    /// The letter at a place.
    ///
    /// # Errors
    /// When there is none there, or the broker does not answer.
    pub async fn find(&self, sequence: u64) -> Result<Letter> {
        let body = serde_json::to_vec(&json!({ "seq": sequence }))?;
        let subject = format!("$JS.API.DIRECT.GET.{}", dead_letter::STREAM);
        let asked = tokio::time::timeout(WITHIN, self.client.request(subject, body.into()));
        let answer = asked.await.context("the broker does not answer")?.context("asking for the letter")?;
        match answer.status {
            None => {}
            Some(StatusCode::NOT_FOUND) => bail!("there is no dead letter {sequence}"),
            Some(status) => bail!("the broker answered {status} to the question for dead letter {sequence}"),
        }
        let letter = Letter::read(answer)?;
        ensure!(letter.header("Nats-Subject").starts_with("dlq."), "there is no dead letter {sequence}");
        Ok(letter)
    }

    /// Has the letter's own consumer handle it again, and waits for that.
    ///
    /// # Errors
    /// When it failed again, when nobody serves the consumer, or when the outcome is unknown; asking again is harmless.
    pub async fn replay(&self, letter: &Letter) -> Result<ReplayOutcome> {
        let body = serde_json::to_vec(&Replay { sequence: letter.sequence.to_string() })?;
        let request = async_nats::Request::new().payload(body.into()).timeout(Some(WITHIN));
        let answer = match self.client.send_request(dead_letter::replay(&letter.consumer), request).await {
            Ok(answer) => answer,
            Err(error) if error.kind() == async_nats::RequestErrorKind::NoResponders => {
                bail!("nobody serves the consumer {}; is its service running?", letter.consumer)
            }
            Err(error) => return Err(error).context("no answer; whether it was replayed is unknown, try again"),
        };
        if let Ok(Replayed { outcome }) = serde_json::from_slice(&answer.payload) {
            return Ok(outcome);
        }
        let problem: Problem = serde_json::from_slice(&answer.payload).context("the answer is neither")?;
        Err(anyhow!("{} {}: {} (request {})", problem.status, problem.code, problem.detail, problem.request_id))
    }

    async fn batch(&self, from: u64, filter: &str) -> Result<Vec<Letter>> {
        let request = json!({ "seq": from, "batch": BATCH_MAX, "max_bytes": BATCH_BYTES_MAX, "next_by_subj": filter });
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await?;
        let subject = format!("$JS.API.DIRECT.GET.{}", dead_letter::STREAM);
        self.client.publish_with_reply(subject, inbox, serde_json::to_vec(&request)?.into()).await?;
        let mut letters = Vec::new();
        loop {
            let next = tokio::time::timeout(WITHIN, answers.next()).await.context("the broker does not answer")?;
            let message = next.context("the connection to the broker ended")?;
            match message.status.map(|status| status.as_u16()) {
                None => letters.push(Letter::read(message)?),
                // The end of the batch, or nothing there.
                Some(204 | 404) => return Ok(letters),
                Some(503) => {
                    bail!("the stream {} does not exist; `trunkline nats apply` makes it", dead_letter::STREAM)
                }
                Some(status) => bail!("the broker answered {status} to the question for dead letters"),
            }
        }
    }

    async fn api<T: for<'de> Deserialize<'de>>(&self, api: &str, request: &Value) -> Result<T> {
        let request = async_nats::Request::new().payload(serde_json::to_vec(request)?.into()).timeout(Some(WITHIN));
        let request = request.headers(HeaderMap::new());
        let answer = self.client.send_request(format!("$JS.API.{api}"), request).await;
        let answer = answer.with_context(|| format!("asking the broker for {api}"))?;
        let mut answer: Value = serde_json::from_slice(&answer.payload)?;
        if let Some(error) = answer.get_mut("error") {
            bail!("the broker refused {api}: {}", error["description"].take());
        }
        Ok(serde_json::from_value(answer)?)
    }
}

/// Whether a subject is covered by a pattern with the broker's wildcards.
fn is_like(subject: &str, pattern: &str) -> bool {
    let mut tokens = subject.split('.');
    for part in pattern.split('.') {
        match (part, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (part, Some(token)) if part == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::is_like;

    #[test]
    fn patterns_are_the_brokers() {
        let subject = "audit.identity.user.created";
        for pattern in [subject, ">", "audit.>", "audit.*.user.*", "audit.identity.user.>"] {
            assert!(is_like(subject, pattern), "{pattern}");
        }
        for pattern in ["audit", "audit.*", "audit.identity.user.created.>", "evt.>", "audit.identity.user.created.x"] {
            assert!(!is_like(subject, pattern), "{pattern}");
        }
    }
}
