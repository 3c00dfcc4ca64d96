//! Discovery as NATS micro services speak it (ADR-32): PING, INFO and STATS, to all, by name and by id. Metadata is
//! never null, and its values are texts.

use std::sync::Arc;

use async_nats::{Client, Message};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use futures::StreamExt as _;
use futures::stream::select_all;
use serde_json::{Value, json};
use subjects::{Access, Endpoint, ServiceContract};

use crate::endpoint::{Measures, reply_subject};
use crate::service::Instance;
use crate::{Lifecycle, StartError};

/// What is told.
pub(crate) struct Discovery {
    pub(crate) contract: &'static ServiceContract,
    pub(crate) instance: Instance,
    pub(crate) admin_url: String,
    pub(crate) endpoints: Vec<(&'static Endpoint, Arc<Measures>)>,
    pub(crate) started: DateTime<Utc>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Ping,
    Info,
    Stats,
}

impl Verb {
    const ALL: [Self; 3] = [Self::Ping, Self::Info, Self::Stats];

    fn as_str(self) -> &'static str {
        match self {
            Self::Ping => "PING",
            Self::Info => "INFO",
            Self::Stats => "STATS",
        }
    }
}

impl Discovery {
    /// Answers until the process stops.
    pub(crate) async fn start(self, client: &Client, life: &Lifecycle) -> Result<(), StartError> {
        let (name, id) = (self.contract.name, self.instance.id.clone());
        let mut questions = Vec::with_capacity(9);
        for verb in Verb::ALL {
            let word = verb.as_str();
            for subject in [format!("$SRV.{word}"), format!("$SRV.{word}.{name}"), format!("$SRV.{word}.{name}.{id}")] {
                let fault = StartError::new(format!("{subject} cannot be answered"));
                let opened = client.subscribe(subject).await;
                questions.push(opened.map_err(|error| fault.with_source(error))?.map(move |message| (verb, message)));
            }
        }
        let mut questions = select_all(questions);
        let (client, stop) = (client.clone(), life.stop_token());
        life.spawn("discovery", async move {
            while let Some(Some((verb, message))) = stop.run_until_cancelled(questions.next()).await {
                self.answer(&client, verb, &message).await;
            }
        });
        Ok(())
    }

    async fn answer(&self, client: &Client, verb: Verb, message: &Message) {
        let Ok(to) = reply_subject(message) else { return };
        let answer = match verb {
            Verb::Ping => self.frame("ping"),
            Verb::Info => self.info(),
            Verb::Stats => self.stats(),
        };
        if let Err(error) = client.publish(to, Bytes::from(answer.to_string())).await {
            tracing::warn!(%error, "A question of discovery could not be answered.");
        }
    }

    fn frame(&self, kind: &str) -> Value {
        json!({
            "type": format!("io.nats.micro.v1.{kind}_response"),
            "name": self.contract.name,
            "id": self.instance.id,
            "version": self.contract.version,
            "metadata": {
                "instance": self.instance.name,
                "pid": std::process::id().to_string(),
                "adminUrl": self.admin_url,
            },
        })
    }

    fn info(&self) -> Value {
        let mut info = self.frame("info");
        info["description"] = self.contract.description.into();
        info["endpoints"] = self.endpoints.iter().map(|(endpoint, _)| self.endpoint_info(endpoint)).collect();
        info
    }

    fn endpoint_info(&self, endpoint: &Endpoint) -> Value {
        let mut metadata = json!({
            "description": endpoint.description,
            "access": access(endpoint.access),
            "timeoutMs": endpoint.timeout_ms.to_string(),
            "idempotent": endpoint.idempotent.to_string(),
            "request": endpoint.request,
            "reply": endpoint.reply,
        });
        if let Some(http) = &endpoint.http {
            metadata["http"] = format!("{} {}", http.method.as_str(), http.path).into();
        }
        json!({
            "name": endpoint.name,
            "subject": endpoint.subject,
            "queue_group": self.contract.name,
            "metadata": metadata,
        })
    }

    fn stats(&self) -> Value {
        let mut stats = self.frame("stats");
        stats["started"] = self.started.to_rfc3339_opts(SecondsFormat::Micros, true).into();
        stats["endpoints"] =
            self.endpoints.iter().map(|(endpoint, measures)| self.endpoint_stats(endpoint, measures)).collect();
        stats
    }

    fn endpoint_stats(&self, endpoint: &Endpoint, measures: &Measures) -> Value {
        let snapshot = measures.snapshot();
        json!({
            "name": endpoint.name,
            "subject": endpoint.subject,
            "queue_group": self.contract.name,
            "num_requests": snapshot.requests,
            "num_errors": snapshot.errors,
            "last_error": snapshot.last_error,
            "processing_time": snapshot.nanos,
            "average_processing_time": snapshot.nanos.checked_div(snapshot.requests).unwrap_or(0),
            // Ours to fill (ADR-32); some readers insist on its being there.
            "data": Value::Null,
        })
    }
}

fn access(access: Access) -> String {
    match access {
        Access::Public => "public".to_owned(),
        Access::Token => "token".to_owned(),
        Access::Permission(permission) => format!("permission:{permission}"),
        Access::Internal(callers) => format!("internal:{}", callers.join(",")),
    }
}
