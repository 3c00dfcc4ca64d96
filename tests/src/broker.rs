//! The platform as a NATS client sees it: as any user of the test's account, in JSON with plain headers, the way people
//! and other languages call it. Deliberately not the typed client: that one shares its mistakes with the services.

use std::{path::PathBuf, time::Duration};

use async_nats::{Client, HeaderMap, HeaderName, HeaderValue, RequestErrorKind};
use serde_json::Value;

use crate::wire::Wire;

/// Longer than any endpoint's own timeout: the service answers first, or the test fails.
const REQUEST_MAX: Duration = Duration::from_secs(15);

/// So long nobody answers a question to all before nobody more is expected, on a machine that may stand still for a while.
const SILENCE: Duration = Duration::from_secs(3);

/// A user of the broker and how to become it.
#[derive(Clone, Debug)]
pub struct User {
    /// The name, such as `ops`; its inbox prefix is `_INBOX.<name>`.
    pub name: String,
    /// The nkey seed. Test users only, so it may be printed.
    pub seed: String,
    /// The file that holds it.
    pub key_file: PathBuf,
    /// `nats://host:port`.
    pub url: String,
}

/// A connected user.
#[derive(Clone, Debug)]
pub struct Broker {
    /// For what the methods here do not do.
    pub client: Client,
}

/// An answer from a service.
#[derive(Clone, Debug)]
pub struct Answer {
    /// `Nats-Service-Error-Code`; 0 where there is none, which is success.
    pub error_code: u16,
    /// `Nats-Service-Error`; empty where there is none.
    pub error: String,
    /// `Content-Type`; empty where there is none.
    pub content_type: String,
    /// `Retry-After`, in seconds; empty where there is none.
    pub retry_after: String,
    /// As received.
    pub body: bytes::Bytes,
}

impl User {
    /// Tells a program of another language where the broker is and who it is.
    pub(crate) fn hand_to(&self, command: &mut tokio::process::Command) {
        command.env("NATS_URL", &self.url).env("NATS_NKEY", &self.key_file);
    }

    /// Connects with a client library, which reconnects by itself.
    pub async fn connect(&self) -> Broker {
        let options = async_nats::ConnectOptions::with_nkey(self.seed.trim().to_owned())
            .name(format!("test/{}", self.name))
            .custom_inbox_prefix(format!("_INBOX.{}", self.name))
            .retry_on_initial_connect()
            .request_timeout(Some(REQUEST_MAX));
        #[expect(clippy::disallowed_methods, reason = "a test is a client of the platform, not a part of it")]
        let client = options.connect(&self.url).await.expect("the broker takes its user");
        Broker { client }
    }

    /// Connects with the protocol by hand.
    pub async fn wire(&self) -> Wire {
        Wire::connect(&self.url, Some(&self.seed)).await.expect("the broker takes its user")
    }
}

impl Broker {
    /// Sends a JSON request without headers, as `nats req` would.
    pub async fn call(&self, subject: &str, body: &Value) -> Answer {
        self.send(subject, &[], body.to_string().into()).await
    }

    /// Sends a JSON request with an access token.
    pub async fn call_as(&self, token: &str, subject: &str, body: &Value) -> Answer {
        self.send(subject, &[("Authorization", &format!("Bearer {token}"))], body.to_string().into()).await
    }

    /// Sends any bytes with any headers; no answer at all fails the test.
    pub async fn send(&self, subject: &str, headers: &[(&str, &str)], body: bytes::Bytes) -> Answer {
        self.try_send(subject, headers, body)
            .await
            .unwrap_or_else(|error| panic!("{subject} did not answer: {error:?}"))
    }

    /// Sends any bytes with any headers.
    ///
    /// # Errors
    /// No responders, or no answer within fifteen seconds.
    pub async fn try_send(
        &self,
        subject: &str,
        headers: &[(&str, &str)],
        body: bytes::Bytes,
    ) -> Result<Answer, RequestErrorKind> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let value: HeaderValue = value.parse().expect("a header value of the test's own");
            map.append(name.parse::<HeaderName>().expect("a header name of the test's own"), value);
        }
        let request = async_nats::Request::new().headers(map).payload(body);
        let message = self.client.send_request(subject.to_owned(), request).await.map_err(|error| error.kind())?;
        let header = |name: &str| {
            let headers = message.headers.as_ref();
            headers.and_then(|headers| headers.get(name)).map(ToString::to_string).unwrap_or_default()
        };
        Ok(Answer {
            error_code: header("Nats-Service-Error-Code").parse().unwrap_or_default(),
            error: header("Nats-Service-Error"),
            content_type: header("Content-Type"),
            retry_after: header("Retry-After"),
            body: message.payload.clone(),
        })
    }

    /// Sends one request to every responder and gathers what answers, until some seconds have passed in which nobody
    /// did; for discovery.
    pub async fn gather(&self, subject: &str) -> Vec<Value> {
        use futures::StreamExt;
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.expect("one's own inbox");
        self.client.publish_with_reply(subject.to_owned(), inbox, bytes::Bytes::new()).await.expect("connected");
        let mut gathered = Vec::new();
        while let Ok(Some(message)) = tokio::time::timeout(SILENCE, answers.next()).await {
            if let Ok(answer) = serde_json::from_slice(&message.payload) {
                gathered.push(answer);
            }
        }
        gathered
    }
}

impl Answer {
    /// The JSON of an answer that must be a success.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!((self.error_code, self.error.as_str()), (0, ""), "unexpected answer: {self:?}");
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// The problem of an answer that must have this number and this stable word.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> Value {
        let problem = self.any_problem();
        assert_eq!((self.error_code, &problem["code"]), (status, &Value::from(code)), "unexpected answer: {self:?}");
        problem
    }

    /// The problem of an answer that must be one: both headers, and the body of RFC 9457.
    #[track_caller]
    pub fn any_problem(&self) -> Value {
        assert!(self.error_code >= 400 && !self.error.is_empty(), "not an error: {self:?}");
        let problem: Value =
            serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"));
        assert_eq!(problem["status"], self.error_code, "the body's status is the header's: {self:?}");
        for field in ["type", "title", "detail", "code", "requestId"] {
            let text = problem[field].as_str();
            assert!(text.is_some_and(|text| !text.is_empty()), "a problem has {field}: {self:?}");
        }
        problem
    }
}
