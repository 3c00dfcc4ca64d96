//! The command as a client of the gateway, signed in as the first administrator.

use anyhow::{Context as _, Result, bail};
use reqwest::{Client, RequestBuilder, Url};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::options::Data;

/// How long an answer may take.
const WITHIN: std::time::Duration = std::time::Duration::from_secs(30);

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
}

async fn send<A: DeserializeOwned>(request: RequestBuilder) -> Result<A> {
    let answer =
        request.send().await.context("the gateway does not answer; is `trunkline up` running on this data folder?")?;
    let status = answer.status();
    let body = answer.bytes().await.context("reading the gateway's answer")?;
    if status.is_success() {
        return serde_json::from_slice(&body).context("the gateway's answer is not the JSON expected");
    }
    match serde_json::from_slice::<subjects::Problem>(&body) {
        Ok(problem) => {
            let fields = problem.errors.iter().map(|field| format!(" {} {};", field.pointer, field.detail));
            let fields = fields.collect::<Vec<_>>().concat();
            let subjects::Problem { status, code, detail, request_id, .. } = problem;
            bail!("{status} {code}: {detail}{fields} (request {request_id})")
        }
        Err(_) => bail!("the gateway answered {status}"),
    }
}
