//! The platform as an HTTP client sees it. Deliberately untyped: tests state the JSON that people rely on.

use std::{fmt::Debug, time::Duration};

use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::Value;

/// Longer than any endpoint's own timeout: the platform answers first, or the test fails.
const REQUEST_MAX: Duration = Duration::from_secs(20);

/// A client of one gateway, with or without an access token. Cloning shares the connections.
#[derive(Clone, Debug)]
pub struct Http {
    base: String,
    client: reqwest::Client,
    token: Option<String>,
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Reply {
    /// The status line's number.
    pub status: u16,
    /// As received.
    pub headers: HeaderMap,
    /// As received; empty where there is none.
    pub body: String,
}

impl Http {
    /// A client of the gateway at `base`, such as `http://127.0.0.1:8080`.
    pub fn new(base: &str) -> Http {
        let client = reqwest::Client::builder().timeout(REQUEST_MAX).build().expect("a client without TLS");
        Http { base: base.trim_end_matches('/').to_owned(), client, token: None }
    }

    /// The same connections, with this access token on every request.
    pub fn with_token(&self, token: &str) -> Http {
        Http { token: Some(token.to_owned()), ..self.clone() }
    }

    /// The access token sent with every request.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Where the gateway listens, without a slash at the end.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// A request that the test finishes itself.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends a request without a body.
    pub async fn get(&self, path: &str) -> Reply {
        Reply::of(self.request(Method::GET, path)).await
    }

    /// `PUT` with a JSON body.
    pub async fn put(&self, path: &str, body: &Value) -> Reply {
        Reply::of(self.request(Method::PUT, path).json(body)).await
    }

    /// `PATCH` with a JSON body.
    pub async fn patch(&self, path: &str, body: &Value) -> Reply {
        Reply::of(self.request(Method::PATCH, path).json(body)).await
    }

    /// `DELETE`.
    pub async fn delete(&self, path: &str) -> Reply {
        Reply::of(self.request(Method::DELETE, path)).await
    }

    /// Sends a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        Reply::of(self.request(Method::POST, path).json(body)).await
    }

    /// Signs in and gives the token reply; fails the test on any other answer than 200.
    pub async fn login(&self, email: &str, password: &str) -> Value {
        let body = serde_json::json!({ "email": email, "password": password });
        self.post("/api/v1/auth/login", &body).await.json(200)
    }

    /// The same connections, signed in.
    pub async fn signed_in(&self, email: &str, password: &str) -> Http {
        let tokens = self.login(email, password).await;
        self.with_token(tokens["accessToken"].as_str().expect("a login answers an access token"))
    }
}

impl Reply {
    /// Sends the request and reads the whole answer; no answer at all fails the test.
    pub async fn of(request: reqwest::RequestBuilder) -> Reply {
        Reply::try_of(request).await.expect("the gateway answers")
    }

    /// Sends the request and reads the whole answer.
    pub async fn try_of(request: reqwest::RequestBuilder) -> reqwest::Result<Reply> {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Reply { status, headers, body: response.text().await? })
    }

    /// The JSON body of an answer that must have this status.
    #[track_caller]
    pub fn json(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "unexpected answer: {self:?}");
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// The problem of an answer that must have this status and this stable word, in the form of RFC 9457.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> Value {
        let problem = self.any_problem();
        assert_eq!((self.status, &problem["code"]), (status, &Value::from(code)), "unexpected answer: {self:?}");
        problem
    }

    /// The problem of an answer that must be one, with every field that `API.md` promises.
    #[track_caller]
    pub fn any_problem(&self) -> Value {
        let content_type = self.header("content-type");
        assert!(content_type.starts_with("application/problem+json"), "not a problem: {self:?}");
        let problem: Value = serde_json::from_str(&self.body).expect("a problem is JSON");
        assert_eq!(problem["status"], self.status, "the body's status is the answer's: {self:?}");
        for field in ["type", "title", "detail", "code", "requestId"] {
            let text = problem[field].as_str();
            assert!(text.is_some_and(|text| !text.is_empty()), "a problem has {field}: {self:?}");
        }
        let reason = StatusCode::from_u16(self.status).expect("a status");
        assert!(reason.is_client_error() || reason.is_server_error(), "a problem is an error: {self:?}");
        problem
    }

    /// A header's text; empty where it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}
