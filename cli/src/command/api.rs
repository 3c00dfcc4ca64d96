//! The command as a client of the gateway, signed in as the first administrator.

use anyhow::{Context as _, Result};
use reqwest::{Client, Method, RequestBuilder, Response, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::options::Data;

/// How long an answer may take.
const WITHIN: std::time::Duration = std::time::Duration::from_secs(30);

/// How long an answer may take that is a stream.
const STREAM_WITHIN: std::time::Duration = std::time::Duration::from_hours(24);

/// Items in one answer of the API, at most.
const PAGE_SIZE_MAX: usize = 500;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    items: Vec<Value>,
    #[serde(default)]
    next_page_token: String,
}

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

    /// Where the gateway listens, without a slash at the end.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// `GET path?query`.
    pub(super) async fn get<A: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> Result<A> {
        let url = Url::parse_with_params(&format!("{}{path}", self.url), query).context("the gateway's address")?;
        send(self.http.get(url).bearer_auth(&self.token)).await
    }

    /// A request with a JSON body, or without one.
    pub(super) async fn send<A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<&Value>,
    ) -> Result<A> {
        let url = Url::parse_with_params(&format!("{}{path}", self.url), query).context("the gateway's address")?;
        let request = self.http.request(method, url).bearer_auth(&self.token);
        send(match body {
            Some(body) => request.json(body),
            None => request,
        })
        .await
    }

    /// `DELETE path`, which answers nothing.
    pub(super) async fn delete(&self, path: &str) -> Result<()> {
        let url = format!("{}{path}", self.url);
        accepted(self.http.delete(url).bearer_auth(&self.token)).await.map(|_| ())
    }

    /// Pages of a list until `limit` items. True where there are more.
    pub(super) async fn pages(
        &self,
        path: &str,
        filters: &[(&str, String)],
        limit: usize,
    ) -> Result<(Vec<Value>, bool)> {
        let mut items: Vec<Value> = Vec::new();
        let mut page_token = String::new();
        while items.len() < limit {
            let mut query = filters.to_vec();
            query.push(("pageSize", (limit - items.len()).min(PAGE_SIZE_MAX).to_string()));
            if !page_token.is_empty() {
                query.push(("pageToken", page_token));
            }
            let page: Page = self.get(path, &query).await?;
            items.extend(page.items);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        Ok((items, !page_token.is_empty()))
    }

    /// `GET path?query`, whose answer is read piece by piece and may take long.
    pub(super) async fn stream(&self, path: &str, query: &[(&str, String)]) -> Result<Response> {
        let url = Url::parse_with_params(&format!("{}{path}", self.url), query).context("the gateway's address")?;
        accepted(self.http.get(url).bearer_auth(&self.token).timeout(STREAM_WITHIN)).await
    }
}

async fn send<A: DeserializeOwned>(request: RequestBuilder) -> Result<A> {
    let body = accepted(request).await?.bytes().await.context("reading the gateway's answer")?;
    serde_json::from_slice(&body).context("the gateway's answer is not the JSON expected")
}

/// The answer, of which only the head is read, where it is a success.
pub(super) async fn accepted(request: RequestBuilder) -> Result<Response> {
    let answer =
        request.send().await.context("the gateway does not answer; is `trunkline up` running on this data folder?")?;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let body = answer.bytes().await.context("reading the gateway's answer")?;
    let words = match serde_json::from_slice::<subjects::Problem>(&body) {
        Ok(problem) => {
            let fields = problem.errors.iter().map(|field| format!(" {} {};", field.pointer, field.detail));
            let fields = fields.collect::<Vec<_>>().concat();
            let subjects::Problem { status, code, detail, request_id, .. } = problem;
            format!("{status} {code}: {detail}{fields} (request {request_id})")
        }
        Err(_) => format!("the gateway answered {status}"),
    };
    Err(Refused { status: status.as_u16(), words }.into())
}

/// Whether the gateway refused for good: asking again will not help.
pub(super) fn is_refusal(error: &anyhow::Error) -> bool {
    let refused = error.downcast_ref::<Refused>();
    refused.is_some_and(|refused| (400..500).contains(&refused.status) && refused.status != 429)
}

/// The gateway's answer was no success.
#[derive(Debug)]
struct Refused {
    status: u16,
    words: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for Refused {}
