//! `trunkline jobs`: work in the background, through the gateway; watched on the broker.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use futures::StreamExt as _;
use reqwest::Method;
use serde_json::{Value, json};
use subjects::Timestamp;
use subjects::broker::OPS;
use subjects::job;
use subjects::subject::Token;

use super::api::Session;
use super::options::Data;
use super::output::{cell, print, table};
use super::schedules;
use crate::platform::nats::client;

/// States in which nothing follows by itself.
const ENDED: [&str; 3] = ["SUCCEEDED", "DEAD_LETTER", "CANCELLED"];

/// How long nothing may be told of a job before it is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Submit a job and print its id
    Submit(Submit),
    /// List jobs, the newest first
    List(List),
    /// Show one job, with what went wrong in each attempt
    Show(One),
    /// Watch a job until it has ended, with its progress
    Watch(One),
    /// Cancel a job, whether it waits or runs
    Cancel(One),
    /// Run a job now: without the rest of its pause, or anew when it was given up or cancelled
    Retry(One),
    /// Jobs that were given up
    #[command(subcommand)]
    DeadLetters(DeadLetters),
    /// Queues: what waits in them, and how they are run
    #[command(subcommand)]
    Queues(Queues),
    /// Schedules: jobs that are submitted again and again
    #[command(subcommand)]
    Schedules(schedules::Command),
}

#[derive(Args, Debug)]
pub(super) struct Submit {
    #[command(flatten)]
    data: Data,
    queue: String,
    kind: String,
    /// Its arguments, JSON
    #[arg(default_value = "{}")]
    args: String,
    /// Not before this time, RFC 3339
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// HIGH, NORMAL or LOW
    #[arg(long, ignore_case = true, value_parser = ["HIGH", "NORMAL", "LOW"])]
    priority: Option<String>,
    /// How often it is tried at most
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,
    /// Its id; the same key is the same job
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Of the jobs of the queue with the same key one runs at a time
    #[arg(long, value_name = "KEY")]
    concurrency_key: Option<String>,
    /// Wait until it has ended, and show how it goes
    #[arg(long)]
    watch: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(super) struct List {
    #[command(flatten)]
    data: Data,
    /// Only in this state, for example RUNNING
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    /// Only of this queue
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// Only of this kind
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// One JSON object a line, with every field
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(super) struct One {
    #[command(flatten)]
    pub(super) data: Data,
    /// The job's id
    pub(super) id: String,
    /// Its queue, where jobs of several have this id
    #[arg(long, value_name = "QUEUE")]
    pub(super) queue: Option<String>,
    /// Its kind, where jobs of several have this id
    #[arg(long, value_name = "KIND")]
    pub(super) kind: Option<String>,
    /// One JSON object a line
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum DeadLetters {
    /// List them, the newest first
    List(ListLetters),
    /// Show one, with its arguments, headers and errors
    Show(One),
    /// Put one back into its queue, or those of a queue and kind
    Replay(Replay),
    /// Delete those of a queue and kind, or all, for good
    Purge(Purge),
}

#[derive(Args, Debug)]
pub(super) struct ListLetters {
    #[command(flatten)]
    data: Data,
    /// Only of this queue
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// Only of this kind
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// One JSON object a line, with every field
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(super) struct Replay {
    #[command(flatten)]
    data: Data,
    /// The job's id; left out, all of the queue and kind given, the oldest first
    id: Option<String>,
    /// Only of this queue
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// Only of this kind
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// How many a second
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(super) struct Purge {
    #[command(flatten)]
    data: Data,
    /// Only of this queue
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// Only of this kind
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// Every one
    #[arg(long, conflicts_with_all = ["queue", "kind"])]
    all: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Queues {
    /// List them
    List(ListQueues),
    /// Declare one or change it; what is left out gets its default
    Put(PutQueue),
    /// Take no more of its jobs
    Pause(OneQueue),
    /// Let it go on
    Resume(OneQueue),
}

#[derive(Args, Debug)]
pub(super) struct ListQueues {
    #[command(flatten)]
    data: Data,
    /// One JSON object a line, with every field
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(super) struct OneQueue {
    #[command(flatten)]
    data: Data,
    queue: String,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(super) struct PutQueue {
    #[command(flatten)]
    one: OneQueue,
    /// Jobs that run at once
    #[arg(long, value_name = "N")]
    concurrency: Option<u32>,
    /// How often a job is tried that does not say it
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,
    /// How long an attempt may take
    #[arg(long, value_name = "MS")]
    timeout_ms: Option<u32>,
    /// The first pause before another attempt
    #[arg(long, value_name = "MS")]
    backoff_base_ms: Option<u32>,
    /// The longest pause
    #[arg(long, value_name = "MS")]
    backoff_max_ms: Option<u32>,
    /// Jobs that begin in a second, over all instances; 0.1 is one in ten seconds
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// Jobs that may begin at once where none has for a while
    #[arg(long, value_name = "N", requires = "rate")]
    burst: Option<u32>,
}

pub(super) async fn run(command: Command) -> Result<()> {
    match command {
        Command::Submit(arguments) => submit(arguments).await,
        Command::List(arguments) => list(arguments).await,
        Command::Show(one) => show_job(&get(&one, "jobs").await?, one.json),
        Command::Watch(one) => watch(&one).await,
        Command::Cancel(one) => show_job(&act(&one, "jobs", "cancel").await?, one.json),
        Command::Retry(one) => show_job(&act(&one, "jobs", "retry").await?, one.json),
        Command::DeadLetters(DeadLetters::List(arguments)) => list_letters(arguments).await,
        Command::DeadLetters(DeadLetters::Show(one)) => show_job(&get(&one, "dead-letters").await?, one.json),
        Command::DeadLetters(DeadLetters::Replay(arguments)) => replay(arguments).await,
        Command::DeadLetters(DeadLetters::Purge(arguments)) => purge(arguments).await,
        Command::Schedules(command) => schedules::run(command).await,
        Command::Queues(Queues::List(arguments)) => list_queues(&arguments).await,
        Command::Queues(Queues::Put(arguments)) => put_queue(&arguments).await,
        Command::Queues(Queues::Pause(one)) => hold(&one, "pause").await,
        Command::Queues(Queues::Resume(one)) => hold(&one, "resume").await,
    }
}

async fn submit(arguments: Submit) -> Result<()> {
    let args: Value = serde_json::from_str(&arguments.args).context("the arguments are no JSON")?;
    let mut job = json!({ "queue": arguments.queue, "kind": arguments.kind, "args": args });
    let optional = [
        ("runAt", arguments.at.map(Value::from)),
        ("priority", arguments.priority.map(|priority| priority.to_ascii_uppercase().into())),
        ("maxAttempts", arguments.max_attempts.map(Value::from)),
        ("idempotencyKey", arguments.key.map(Value::from)),
        ("concurrencyKey", arguments.concurrency_key.map(Value::from)),
    ];
    for (field, value) in optional {
        if let Some(value) = value {
            job[field] = value;
        }
    }
    let session = Session::open(&arguments.data).await?;
    let reply: Value = session.send(Method::POST, "/api/v1/jobs", &[], Some(&job)).await?;
    let id = reply["jobId"].as_str().context("the answer has no jobId")?.to_owned();
    if arguments.watch {
        let (queue, kind) = (Some(arguments.queue), Some(arguments.kind));
        return watch(&One { data: arguments.data, id, queue, kind, json: arguments.json }).await;
    }
    if arguments.json {
        return print(&reply.to_string());
    }
    let known = if reply["duplicate"] == true { "  (submitted before)" } else { "" };
    print(&format!("{id}{known}"))
}

async fn list(list: List) -> Result<()> {
    let session = Session::open(&list.data).await?;
    let state = list.state.map(|state| state.to_ascii_uppercase().replace('-', "_"));
    let filters = filters([("state", state), ("queue", list.queue), ("kind", list.kind)]);
    let (jobs, are_more) = session.pages("/api/v1/jobs", &filters, list.limit).await?;
    let columns = ["id", "queue", "kind", "state", "attempt", "createdAt", "finishedAt"];
    show_list(&jobs, &columns, are_more, list.limit, list.json)
}

async fn list_letters(list: ListLetters) -> Result<()> {
    let session = Session::open(&list.data).await?;
    let filters = filters([("queue", list.queue), ("kind", list.kind)]);
    let (letters, are_more) = session.pages("/api/v1/dead-letters", &filters, list.limit).await?;
    let columns = ["id", "queue", "kind", "reason", "attempt", "failedAt", "error"];
    show_list(&letters, &columns, are_more, list.limit, list.json)
}

async fn list_queues(list: &ListQueues) -> Result<()> {
    let session = Session::open(&list.data).await?;
    let reply: Value = session.get("/api/v1/queues", &[]).await?;
    let queues = reply["items"].as_array().cloned().unwrap_or_default();
    let columns =
        ["name", "pending", "running", "oldestAgeMs", "paused", "concurrency", "ratePerSecond", "maxAttempts"];
    show_list(&queues, &columns, false, 0, list.json)
}

async fn put_queue(arguments: &PutQueue) -> Result<()> {
    let settings = json!({
        "concurrency": arguments.concurrency.unwrap_or_default(),
        "maxAttempts": arguments.max_attempts.unwrap_or_default(),
        "timeoutMs": arguments.timeout_ms.unwrap_or_default(),
        "backoffBaseMs": arguments.backoff_base_ms.unwrap_or_default(),
        "backoffMaxMs": arguments.backoff_max_ms.unwrap_or_default(),
        "ratePerSecond": arguments.rate.unwrap_or_default(),
        "rateBurst": arguments.burst.unwrap_or_default(),
    });
    let session = Session::open(&arguments.one.data).await?;
    let path = format!("/api/v1/queues/{}", token(&arguments.one.queue)?);
    show_job(&session.send(Method::PUT, &path, &[], Some(&settings)).await?, arguments.one.json)
}

async fn hold(one: &OneQueue, verb: &str) -> Result<()> {
    let session = Session::open(&one.data).await?;
    let path = format!("/api/v1/queues/{}/{verb}", token(&one.queue)?);
    show_job(&session.send(Method::POST, &path, &[], Some(&json!({}))).await?, one.json)
}

async fn replay(arguments: Replay) -> Result<()> {
    if let Some(id) = arguments.id {
        let Replay { data, queue, kind, json, .. } = arguments;
        let one = One { data, id, queue, kind, json };
        return show_job(&act(&one, "dead-letters", "replay").await?, one.json);
    }
    let mut body = which(arguments.queue.as_ref(), arguments.kind.as_ref());
    let rate = arguments.rate.unwrap_or_default();
    body["ratePerSecond"] = rate.into();
    // One that is given up again meanwhile is left for a person to look at.
    body["failedBefore"] = serde_json::to_value(Timestamp::from(kernel::Clock::system().now()))?;
    let session = Session::open(&arguments.data).await?;
    let mut all = 0;
    // Each call takes some; what it has taken comes back over its time, so the next waits for that.
    loop {
        let reply: Value = session.send(Method::POST, "/api/v1/dead-letters/replay", &[], Some(&body)).await?;
        let (replayed, remaining) = (reply["replayed"].as_u64(), reply["remaining"].as_u64());
        let (replayed, remaining) = (replayed.unwrap_or_default(), remaining.unwrap_or_default());
        all += replayed;
        let told = format!("replayed: {all}, remaining: {remaining}");
        print(&if arguments.json { reply.to_string() } else { told })?;
        if replayed == 0 || remaining == 0 {
            return Ok(());
        }
        if rate > 0 {
            tokio::time::sleep(Duration::from_millis(replayed * 1_000 / u64::from(rate))).await;
        }
    }
}

async fn purge(arguments: Purge) -> Result<()> {
    let mut query = filters([("queue", arguments.queue), ("kind", arguments.kind)]);
    if arguments.all {
        query.push(("all", "true".to_owned()));
    }
    if query.is_empty() {
        bail!("say which: --queue, --kind, or --all");
    }
    let session = Session::open(&arguments.data).await?;
    let reply: Value = session.send(Method::DELETE, "/api/v1/dead-letters", &query, None).await?;
    if arguments.json { print(&reply.to_string()) } else { print(&format!("purged: {}", reply["purged"])) }
}

/// Shows each state as it comes, and the progress in between.
pub(super) async fn watch(one: &One) -> Result<()> {
    let admin = one.data.admin()?;
    let url = admin.nats_url.context("the platform in this data folder has no NATS server; start it with `up`")?;
    let client = client::connect(&url, &one.data.folder()?.join(format!("nkeys/{OPS}.nk")), OPS).await?;
    let mut told = client.subscribe(job::live_subject(&token(&one.id)?)).await?;
    // Proves that the subscription is in force before the job is looked at, so that nothing falls between.
    client.request("$JS.API.INFO", "".into()).await.context("asking the NATS server")?;
    let session = Session::open(&one.data).await?;
    let before = get_over(&session, one, "jobs").await?;
    show_step(&before, one.json)?;
    if has_ended(&before) {
        return Ok(());
    }
    loop {
        let message = match tokio::time::timeout(LOOK_INTERVAL, told.next()).await {
            Ok(Some(message)) => message,
            Ok(None) => break,
            // What happened before the subscription may have come into the history since.
            Err(_) => {
                let job = get_over(&session, one, "jobs").await?;
                if has_ended(&job) {
                    return show_step(&job, one.json);
                }
                continue;
            }
        };
        let step: Value = serde_json::from_slice(&message.payload).context("what is told of a job")?;
        if step["queue"] == before["queue"] && step["kind"] == before["kind"] {
            show_step(&step, one.json)?;
            if has_ended(&step) {
                return Ok(());
            }
        }
    }
    bail!("the connection to the NATS server has ended")
}

fn has_ended(job: &Value) -> bool {
    ENDED.iter().any(|state| job["state"] == *state)
}

fn show_step(step: &Value, json: bool) -> Result<()> {
    if json {
        return print(&step.to_string());
    }
    let mut line = format!("{:<16} attempt {} of {}", text(&step["state"]), step["attempt"], step["maxAttempts"]);
    for (field, word) in [("progress", ""), ("error", "error: "), ("result", "result: "), ("runAt", "next: ")] {
        let value = &step[field];
        if !value.is_null() && value != "" {
            line.extend(["  ", word, &text(value)]);
        }
    }
    print(&line)
}

async fn get(one: &One, what: &str) -> Result<Value> {
    get_over(&Session::open(&one.data).await?, one, what).await
}

async fn get_over(session: &Session, one: &One, what: &str) -> Result<Value> {
    let query = filters([("queue", one.queue.clone()), ("kind", one.kind.clone())]);
    session.get(&format!("/api/v1/{what}/{}", token(&one.id)?), &query).await
}

async fn act(one: &One, what: &str, verb: &str) -> Result<Value> {
    let session = Session::open(&one.data).await?;
    let body = which(one.queue.as_ref(), one.kind.as_ref());
    session.send(Method::POST, &format!("/api/v1/{what}/{}/{verb}", token(&one.id)?), &[], Some(&body)).await
}

/// What is typed must not become another path or subject.
fn token(given: &str) -> Result<String> {
    let token = Token::parse(given).with_context(|| format!("{given:?} must be 1 to 64 of [A-Za-z0-9_-]"))?;
    Ok(token.to_string())
}

fn which(queue: Option<&String>, kind: Option<&String>) -> Value {
    let mut body = json!({});
    for (field, value) in [("queue", queue), ("kind", kind)] {
        if let Some(value) = value {
            body[field] = value.clone().into();
        }
    }
    body
}

pub(super) fn filters<const N: usize>(given: [(&'static str, Option<String>); N]) -> Vec<(&'static str, String)> {
    given.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

pub(super) fn show_list(items: &[Value], columns: &[&str], are_more: bool, limit: usize, json: bool) -> Result<()> {
    if json {
        return items.iter().try_for_each(|item| print(&item.to_string()));
    }
    if items.is_empty() {
        return print("none");
    }
    let heading = columns.iter().map(|column| column.to_ascii_uppercase()).collect();
    let row = |item: &Value| columns.iter().map(|column| text(&item[*column])).collect();
    let rows: Vec<Vec<String>> = std::iter::once(heading).chain(items.iter().map(row)).collect();
    print(&table(&rows))?;
    if are_more { print(&format!("… and more; --limit shows more than {limit}")) } else { Ok(()) }
}

/// Each field that says something, one a line.
pub(super) fn show_job(job: &Value, json: bool) -> Result<()> {
    if json {
        return print(&job.to_string());
    }
    let fields = job.as_object().context("the answer is no object")?;
    let is_said = |value: &Value| !value.is_null() && value != "" && *value != json!([]) && *value != json!({});
    let mut rows = Vec::new();
    for (name, value) in fields.iter().filter(|(_, value)| is_said(value)) {
        match value.as_array() {
            Some(errors) if name == "errors" => rows.extend(errors.iter().map(|error| {
                vec![
                    format!("attempt {}", error["attempt"]),
                    format!("{} {}", text(&error["at"]), text(&error["message"])),
                ]
            })),
            _ => rows.push(vec![name.clone(), text(value)]),
        }
    }
    print(&table(&rows))
}

pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => cell(text),
        other => cell(&other.to_string()),
    }
}
