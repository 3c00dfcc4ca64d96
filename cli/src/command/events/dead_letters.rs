//! `trunkline events dead-letters`: what was given up, why, and another try.

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use subjects::broker::OPS;
use subjects::dead_letter::{ReplayOutcome, header};

use super::super::options::{Data, NatsAuthority};
use super::super::output::{cell, print, table};
use crate::platform::nats::client;
use crate::platform::nats::dead_letters::{DeadLetters, Filter, Letter};

/// Letters listed at most.
const LIMIT_MAX: usize = 10_000;

#[derive(Debug, Subcommand)]
pub(in crate::command) enum Command {
    /// List what is dead, the oldest first
    List(List),
    /// Show one with its headers and body
    Show(Show),
    /// Have a letter's own consumer handle it again
    ///
    /// Nobody else gets the message. Its effect is had once, however often it is replayed; one that fails again stays dead.
    Replay(Again),
}

#[derive(Args, Debug)]
pub(in crate::command) struct Connection {
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    ca: NatsAuthority,
}

#[derive(Args, Debug)]
pub(in crate::command) struct List {
    #[command(flatten)]
    connection: Connection,
    /// Only what this consumer gave up
    #[arg(long, value_name = "NAME", value_parser = parse_consumer)]
    consumer: Option<String>,
    /// Only messages published to subjects like this, for example audit.identity.>
    #[arg(long, value_name = "PATTERN")]
    subject: Option<String>,
    /// Only letters behind this one
    #[arg(long, value_name = "SEQUENCE", default_value_t = 0)]
    after: u64,
    /// How many at most, up to 10,000
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = parse_limit)]
    limit: usize,
    /// Those too that were replayed with success
    #[arg(long)]
    all: bool,
    /// One JSON object a line, with every header
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(in crate::command) struct Show {
    #[command(flatten)]
    connection: Connection,
    /// The letter, as `list` numbers it
    sequence: u64,
    /// One JSON object; the body as text, or in base64 where it is none
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(in crate::command) struct Again {
    #[command(flatten)]
    connection: Connection,
    /// The letters, as `list` numbers them
    #[arg(required = true)]
    sequences: Vec<u64>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

impl Connection {
    async fn open(&self) -> Result<DeadLetters> {
        let url = self.data.admin()?.nats_url.context("admin.json does not say where NATS is")?;
        let key_file = self.data.folder()?.join("nkeys").join(format!("{OPS}.nk"));
        Ok(DeadLetters::new(client::connect_trusting(&url, &key_file, OPS, self.ca.file.as_deref()).await?))
    }
}

pub(super) async fn run(command: Command) -> Result<()> {
    match command {
        Command::List(arguments) => list(arguments).await,
        Command::Show(arguments) => show(arguments).await,
        Command::Replay(arguments) => replay(arguments).await,
    }
}

async fn list(arguments: List) -> Result<()> {
    let List { connection, consumer, subject, after, limit, all, json } = arguments;
    let letters = connection.open().await?;
    let marks = letters.replayed(consumer.as_deref()).await?;
    let filter = Filter { consumer, subject, after };
    // One more tells whether there are more.
    let mut found = letters.list(&filter, limit + 1, |letter| all || !marks.has(letter)).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let state = |letter: &Letter| if marks.has(letter) { "REPLAYED" } else { "DEAD" };
    if json {
        return found.iter().try_for_each(|letter| print(&to_json(letter, state(letter)).to_string()));
    }
    if found.is_empty() {
        return print("no dead letters");
    }
    let mut heading =
        ["SEQUENCE", "TIME", "CONSUMER", "SUBJECT", "ATTEMPTS", "STATE", "REASON"].map(str::to_owned).to_vec();
    let mut rows: Vec<Vec<String>> = found
        .iter()
        .map(|letter| {
            let fact = |name: &str| cell(letter.header(name));
            vec![
                letter.sequence.to_string(),
                fact(header::TIME),
                cell(&letter.consumer),
                cell(&letter.subject),
                fact(header::ATTEMPTS),
                state(letter).to_owned(),
                fact(header::REASON),
            ]
        })
        .collect();
    if !all {
        heading.remove(5);
        for row in &mut rows {
            row.remove(5);
        }
    }
    rows.insert(0, heading);
    print(&table(&rows))?;
    match found.last() {
        Some(last) if more => print(&format!("… and more; --after {} shows them", last.sequence)),
        _ => Ok(()),
    }
}

async fn show(arguments: Show) -> Result<()> {
    let Show { connection, sequence, json } = arguments;
    let letters = connection.open().await?;
    let letter = letters.find(sequence).await?;
    let marks = letters.replayed(Some(&letter.consumer)).await?;
    let state = if marks.has(&letter) { "REPLAYED" } else { "DEAD" };
    if json {
        let mut object = to_json(&letter, state);
        match std::str::from_utf8(&letter.body) {
            Ok(text) => object["body"] = text.into(),
            Err(_) => object["bodyBase64"] = STANDARD.encode(&letter.body).into(),
        }
        return print(&object.to_string());
    }
    let mut rows = vec![vec!["state".to_owned(), state.to_owned()]];
    rows.extend(letter.headers.iter().map(|(name, value)| vec![cell(name), cell(value)]));
    print(&table(&rows))?;
    print("")?;
    match serde_json::from_slice::<Value>(&letter.body) {
        // Escapes whatever could drive a terminal.
        Ok(body) => print(&serde_json::to_string_pretty(&body)?),
        Err(_) => print(&cell(&String::from_utf8_lossy(&letter.body))),
    }
}

async fn replay(arguments: Again) -> Result<()> {
    let Again { connection, sequences, json } = arguments;
    let letters = connection.open().await?;
    let mut failed = 0;
    for &sequence in &sequences {
        let letter = letters.find(sequence).await?;
        let outcome = letters.replay(&letter).await;
        failed += usize::from(outcome.is_err());
        let line = match &outcome {
            Ok(outcome) if json => json!({ "sequence": sequence.to_string(), "outcome": outcome }).to_string(),
            Err(error) if json => {
                json!({ "sequence": sequence.to_string(), "outcome": "FAILED", "reason": format!("{error:#}") })
                    .to_string()
            }
            Ok(ReplayOutcome::Handled) => format!("{sequence}: handled by {}", letter.consumer),
            Ok(ReplayOutcome::Known) => format!("{sequence}: had been handled by {} before", letter.consumer),
            Err(error) => format!("{sequence}: {error:#}"),
        };
        print(&line)?;
    }
    if failed > 0 {
        bail!("{failed} of {} could not be replayed", sequences.len());
    }
    Ok(())
}

fn to_json(letter: &Letter, state: &str) -> Value {
    let headers: Map<String, Value> =
        letter.headers.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    json!({
        "sequence": letter.sequence.to_string(),
        "state": state,
        "consumer": letter.consumer,
        "subject": letter.subject,
        "messageId": letter.header(header::MESSAGE_ID),
        "stream": letter.header(header::STREAM),
        "streamSequence": letter.header(header::SEQUENCE),
        "attempts": letter.header(header::ATTEMPTS).parse::<u64>().unwrap_or_default(),
        "reason": letter.header(header::REASON),
        "time": letter.header(header::TIME),
        "headers": headers,
    })
}

fn parse_consumer(text: &str) -> Result<String> {
    let names: Vec<&str> =
        subjects::SERVICES.iter().flat_map(|service| service.consumers).map(|consumer| consumer.durable).collect();
    if !names.contains(&text) {
        bail!("there is no consumer {text}; there are {}", names.join(", "));
    }
    Ok(text.to_owned())
}

fn parse_limit(text: &str) -> Result<usize> {
    match text.parse() {
        Ok(limit) if (1..=LIMIT_MAX).contains(&limit) => Ok(limit),
        _ => bail!("must be 1 to {LIMIT_MAX}"),
    }
}
