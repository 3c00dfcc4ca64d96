//! The command as a client of the gateway, signed in as the first administrator.

use anyhow::{Context as _, Result, bail};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::options::Data;

/// How long an answer may take.
const WITHIN: std::time::Duration = std::time::Duration::from_secs(30);

/// How long an answer may take that is a stream.
const STREAM_WITHIN: std::time::Duration = std::time::Duration::from_hours(24);

/// A signed-in session.
pub(super) struct Session {
    http: Client,
    url: String,
    token: String,
}

impl Session {
    /// Signs in through the gateway of the platform that runs on the data folder.
    pub(super) async fn open(data: &Data) -> Result<Self> {
        let admin = data.admin()?;
        let url = admin
            .gateway_url
            .context("the platform in this data folder has no gateway; start it with `trunkline up`")?;
        let http = Client::builder().timeout(WITHIN).build()?;
        let login = http
            .post(format!("{url}/api/v1/auth/login"))
            .json(&json!({ "email": admin.email, "password": admin.password }));
        let answer: Value = send(login).await.context("signing in as the first administrator")?;
        let token = answer["accessToken"].as_str().context("the answer to the login has no accessToken")?.to_owned();
        Ok(Self { http, url, token })
    }

    /// The access token.
    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// `GET path?query`.
    pub(super) async fn get<A: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> Result<A> {
        let url = Url::parse_with_params(&format!("{}{path}", self.url), query).context("the gateway's address")?;
        send(self.http.get(url).bearer_auth(&self.token)).await
    }

    /// `GET path?query`, whose answer is read piece by piece and may take long.
    pub(super) async fn stream(&self, path: &str, query: &[(&str, String)]) -> Result<Response> {
        let url = Url::parse_with_params(&format!("{}{path}", self.url), query).context("the gateway's address")?;
        let answer = answer(self.http.get(url).bearer_auth(&self.token).timeout(STREAM_WITHIN)).await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        refused(status, &answer.bytes().await.context("reading the gateway's answer")?)
    }
}

async fn answer(request: RequestBuilder) -> Result<Response> {
    request.send().await.context("the gateway does not answer; is `trunkline up` running on this data folder?")
}

async fn send<A: DeserializeOwned>(request: RequestBuilder) -> Result<A> {
    let answer = answer(request).await?;
    let status = answer.status();
    let body = answer.bytes().await.context("reading the gateway's answer")?;
    if status.is_success() {
        return serde_json::from_slice(&body).context("the gateway's answer is not the JSON expected");
    }
    refused(status, &body)
}

/// What the gateway refused, as an error.
fn refused<T>(status: StatusCode, body: &[u8]) -> Result<T> {
    match serde_json::from_slice::<subjects::Problem>(body) {
        Ok(problem) => {
            let fields = problem.errors.iter().map(|field| format!(" {} {};", field.pointer, field.detail));
            let fields = fields.collect::<Vec<_>>().concat();
            let subjects::Problem { status, code, detail, request_id, .. } = problem;
            bail!("{status} {code}: {detail}{fields} (request {request_id})")
        }
        Err(_) => bail!("the gateway answered {status}"),
    }
}
