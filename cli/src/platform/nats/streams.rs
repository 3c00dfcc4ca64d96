//! Brings the streams and consumers of a server to what `nats/streams.json` declares, as the provisioning user.
//!
//! Applying is idempotent. It deliberately never deletes, and refuses a change that would throw stored messages away: that is a
//! person's decision, with the nats CLI.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use async_nats::Client;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// What is declared; the words of `config` and `consumers` are the server's own (`nats stream info --json`).
pub const DECLARATION: &str = include_str!("../../../../nats/streams.json");
/// The server's code for a stream that does not exist (`JSStreamNotFoundErr`).
const STREAM_NOT_FOUND: u64 = 10059;
/// The server's code for a consumer that does not exist (`JSConsumerNotFoundErr`).
const CONSUMER_NOT_FOUND: u64 = 10014;
/// The server's code while JetStream is not up yet (`JSClusterNotAvailErr`).
const NOT_AVAILABLE: u64 = 10008;
/// Tries while JetStream comes up, and the wait between two.
const TRIES_MAX: u32 = 25;
const TRY_INTERVAL: Duration = Duration::from_millis(200);

/// Everything declared.
#[derive(Clone, Debug, Deserialize)]
pub struct Declaration {
    /// In the order in which they are made.
    pub streams: Vec<Stream>,
}

/// A stream and its consumers.
#[derive(Clone, Debug, Deserialize)]
pub struct Stream {
    /// The stream's configuration.
    pub config: Map<String, Value>,
    /// The configurations of its durable consumers.
    pub consumers: Vec<Map<String, Value>>,
}

/// What applying did, or what differs, one line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes(pub Vec<String>);

impl Declaration {
    /// What this version of the platform declares.
    pub fn committed() -> Self {
        serde_json::from_str(DECLARATION).expect("a test parses the committed declaration")
    }

    /// The same with every stream bounded to `bytes`: many small platforms on one server, as in tests. Where there are
    /// schedules, a bound would delete them silently.
    pub fn with_bytes_max(mut self, bytes: u64) -> Self {
        let is_bounded = |stream: &&mut Stream| stream.config.get("allow_msg_schedules") != Some(&Value::Bool(true));
        for stream in self.streams.iter_mut().filter(is_bounded) {
            stream.config.insert("max_bytes".into(), bytes.into());
        }
        self
    }

    /// Makes what is missing and changes what differs.
    ///
    /// # Errors
    /// When a change would lose stored messages or the server refuses one; earlier ones are applied then.
    pub async fn apply(&self, client: &Client) -> Result<Changes> {
        self.walk(client, true).await
    }

    /// Says what [`Declaration::apply`] would do.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn compare(&self, client: &Client) -> Result<Changes> {
        self.walk(client, false).await
    }

    async fn walk(&self, client: &Client, apply: bool) -> Result<Changes> {
        let mut changes = Changes::default();
        for stream in &self.streams {
            let name = text(&stream.config, "name")?;
            stream.apply(client, name, apply, &mut changes).await.with_context(|| format!("stream {name}"))?;
        }
        Ok(changes)
    }
}

impl Stream {
    async fn apply(&self, client: &Client, name: &str, apply: bool, changes: &mut Changes) -> Result<()> {
        match find(client, &format!("STREAM.INFO.{name}"), STREAM_NOT_FOUND).await? {
            None => {
                changes.0.push(format!("stream {name}: missing"));
                if !apply {
                    return Ok(());
                }
                request(client, &format!("STREAM.CREATE.{name}"), &Value::Object(self.config.clone())).await?;
            }
            Some(current) => {
                let differences = differences(&self.config, &current);
                if !differences.is_empty() {
                    changes.0.push(format!("stream {name}: {}", differences.join(", ")));
                    if apply {
                        refuse_loss(&self.config, &current)?;
                        request(client, &format!("STREAM.UPDATE.{name}"), &merged(&self.config, current)).await?;
                    }
                }
            }
        }
        for consumer in &self.consumers {
            let durable = text(consumer, "durable_name")?;
            self::consumer(client, name, durable, consumer, apply, changes)
                .await
                .with_context(|| format!("consumer {durable}"))?;
        }
        Ok(())
    }
}

async fn consumer(
    client: &Client,
    stream: &str,
    durable: &str,
    config: &Map<String, Value>,
    apply: bool,
    changes: &mut Changes,
) -> Result<()> {
    let (action, config) = match find(client, &format!("CONSUMER.INFO.{stream}.{durable}"), CONSUMER_NOT_FOUND).await? {
        None => {
            changes.0.push(format!("consumer {stream}/{durable}: missing"));
            ("create", Value::Object(config.clone()))
        }
        Some(current) => {
            let differences = differences(config, &current);
            if differences.is_empty() {
                return Ok(());
            }
            changes.0.push(format!("consumer {stream}/{durable}: {}", differences.join(", ")));
            ("update", merged(config, current))
        }
    };
    if apply {
        let body = json!({ "stream_name": stream, "config": config, "action": action });
        request(client, &format!("CONSUMER.CREATE.{stream}.{durable}"), &body).await?;
    }
    Ok(())
}

/// The declared fields that are not so on the server; a field the server leaves out has its zero value.
fn differences(declared: &Map<String, Value>, current: &Map<String, Value>) -> Vec<String> {
    declared
        .iter()
        .filter(|(field, value)| !same(value, current.get(*field)))
        .map(|(field, value)| format!("{field} is {} instead of {value}", current.get(field).unwrap_or(&Value::Null)))
        .collect()
}

fn same(declared: &Value, current: Option<&Value>) -> bool {
    match (declared, current) {
        (Value::Bool(false) | Value::Null, None) => true,
        (Value::Number(number), None) => number.as_i64() == Some(0),
        (Value::String(text), None) => text.is_empty(),
        (Value::Array(list), None) => list.is_empty(),
        (declared, current) => current == Some(declared),
    }
}

/// The server's configuration with the declared fields in place: what is not declared stays as a person set it.
fn merged(declared: &Map<String, Value>, mut current: Map<String, Value>) -> Value {
    for (field, value) in declared {
        current.insert(field.clone(), value.clone());
    }
    Value::Object(current)
}

/// Refuses what the server would do without asking although it drops stored messages.
fn refuse_loss(declared: &Map<String, Value>, current: &Map<String, Value>) -> Result<()> {
    let mut lossy = Vec::new();
    for field in ["max_age", "max_bytes", "max_msgs", "max_msgs_per_subject"] {
        // Zero and -1 mean unlimited.
        let limit = |config: &Map<String, Value>| config.get(field).and_then(Value::as_i64).filter(|limit| *limit > 0);
        if let Some(new) = limit(declared)
            && limit(current).is_none_or(|old| new < old)
        {
            lossy.push(format!("{field} would shrink to {new}"));
        }
    }
    for field in ["deny_delete", "deny_purge"] {
        if declared.get(field) == Some(&Value::Bool(false)) && current.get(field) == Some(&Value::Bool(true)) {
            lossy.push(format!("{field} would be taken away"));
        }
    }
    let subjects =
        |config: &Map<String, Value>| config.get("subjects").and_then(Value::as_array).cloned().unwrap_or_default();
    let kept = subjects(declared);
    for gone in subjects(current).iter().filter(|subject| !kept.contains(subject)) {
        lossy.push(format!("subject {gone} would be taken away"));
    }
    if lossy.is_empty() {
        return Ok(());
    }
    bail!(
        "not changed, because stored messages could be lost: {}; change it by hand with `nats stream edit`",
        lossy.join(", ")
    )
}

/// The `config` of an existing stream or consumer.
async fn find(client: &Client, api: &str, not_found: u64) -> Result<Option<Map<String, Value>>> {
    match request(client, api, &json!({})).await {
        Ok(mut info) => match info.get_mut("config").map(Value::take) {
            Some(Value::Object(config)) => Ok(Some(config)),
            _ => bail!("the server's answer to {api} has no config"),
        },
        Err(error) if error.downcast_ref::<ApiError>().is_some_and(|error| error.err_code == not_found) => Ok(None),
        Err(error) => Err(error),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ApiError {
    code: u64,
    err_code: u64,
    description: String,
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.description, self.err_code)
    }
}

impl std::error::Error for ApiError {}

async fn request(client: &Client, api: &str, body: &Value) -> Result<Value> {
    let subject = format!("$JS.API.{api}");
    let payload = serde_json::to_vec(body)?;
    for _ in 0..TRIES_MAX {
        let answer = match client.request(subject.clone(), payload.clone().into()).await {
            Ok(answer) => answer,
            Err(error) if error.kind() == async_nats::RequestErrorKind::NoResponders => {
                tokio::time::sleep(TRY_INTERVAL).await;
                continue;
            }
            Err(error) => return Err(error).with_context(|| format!("asking {subject}")),
        };
        let mut answer: Value =
            serde_json::from_slice(&answer.payload).with_context(|| format!("the answer to {subject}"))?;
        match answer.get_mut("error").map(Value::take) {
            None => return Ok(answer),
            Some(error) => {
                let error: ApiError = serde_json::from_value(error)?;
                if error.err_code != NOT_AVAILABLE {
                    return Err(error.into());
                }
                tokio::time::sleep(TRY_INTERVAL).await;
            }
        }
    }
    Err(anyhow!("JetStream is not available; is it enabled for this account?"))
}

fn text<'a>(config: &'a Map<String, Value>, field: &str) -> Result<&'a str> {
    config.get(field).and_then(Value::as_str).with_context(|| format!("the declaration lacks {field}"))
}

#[cfg(test)]
mod tests {
    use subjects::job::{self, Lane};

    use super::*;

    #[test]
    fn what_the_contract_consumes_is_declared_and_nothing_else() {
        let declared: Vec<(String, String, Value)> = Declaration::committed()
            .streams
            .iter()
            .flat_map(|stream| {
                let name = text(&stream.config, "name").unwrap().to_owned();
                stream.consumers.iter().map(move |consumer| {
                    (
                        name.clone(),
                        text(consumer, "durable_name").unwrap().to_owned(),
                        consumer["filter_subjects"].clone(),
                    )
                })
            })
            .collect();
        let consumers = subjects::SERVICES
            .iter()
            .flat_map(|service| service.consumers)
            .map(|consumer| (consumer.stream.to_owned(), consumer.durable.to_owned(), json!(consumer.filters)));
        let queues = subjects::SERVICES.iter().flat_map(|service| service.queues());
        let lanes = queues.flat_map(|queue| Lane::ALL.map(|lane| (queue, lane))).map(|(queue, lane)| {
            (job::STREAM.to_owned(), job::consumer(queue, lane), json!([job::filter(queue, lane)]))
        });
        let sorted = |list: Vec<(String, String, Value)>| {
            let mut lines: Vec<String> = list.into_iter().map(|line| format!("{line:?}")).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(declared), sorted(consumers.chain(lanes).collect()));
    }

    #[test]
    fn only_a_change_that_keeps_every_message_is_made() {
        let config = |value: Value| value.as_object().unwrap().clone();
        let current = config(json!({ "subjects": ["evt.>"], "max_bytes": 100, "max_age": 0, "deny_purge": true }));

        let kept =
            [json!({ "max_bytes": 200 }), json!({ "max_bytes": -1 }), json!({ "subjects": ["evt.>", "more.>"] })];
        let lost = [
            json!({ "max_bytes": 99 }),
            json!({ "max_age": 1 }),
            json!({ "deny_purge": false }),
            json!({ "subjects": ["evt.identity.>"] }),
        ];

        for change in kept {
            let mut declared = current.clone();
            declared.extend(config(change));
            assert!(refuse_loss(&declared, &current).is_ok(), "{declared:?}");
        }
        for change in lost {
            let mut declared = current.clone();
            declared.extend(config(change));
            assert!(refuse_loss(&declared, &current).is_err(), "{declared:?}");
        }
    }

    #[test]
    fn what_the_server_leaves_out_has_its_zero_value() {
        let declared =
            json!({ "max_age": 0, "deny_purge": false, "description": "", "subjects": ["a"], "max_bytes": 1 });
        let current = json!({ "subjects": ["a"], "max_bytes": 2, "more": true });
        let found = differences(declared.as_object().unwrap(), current.as_object().unwrap());
        assert_eq!(found, ["max_bytes is 2 instead of 1"]);
    }
}
