//! The floor: the least that a token-checking gateway over NATS can do, written directly on axum and async-nats.
//!
//! Both sides keep a cache of validated tokens, as ours do. There is no routing table, no limit, no deadline, no
//! permission, no trace, no metric and no error model: what ours adds is the difference.

use std::cell::RefCell;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use async_nats::{Client, HeaderMap, HeaderValue};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures::StreamExt as _;
use subjects::authz::v1::CHECK;

use crate::platform::nats::client::connect;

/// The rights of the two sides' broker users are the contract's, so the subject is too.
const SUBJECT: &str = subjects::identity::v1::GET_ME.subject;
const QUEUE: &str = subjects::identity::v1::GET_ME.service;
const AUTHORIZATION: &str = "Authorization";

/// Serves HTTP on `listen` and asks the service for each request.
pub(super) async fn gateway(listen: SocketAddr, nats_url: &str, key_file: &Path, token: String) -> Result<()> {
    let client = connect(nats_url, key_file, "gateway").await?;
    let state = Arc::new(Gateway { client, valid: Mutex::new(HashSet::from([token])) });
    let listener = tokio::net::TcpListener::bind(listen).await.with_context(|| format!("listening on {listen}"))?;
    let router = axum::Router::new().route("/api/v1/users/me", get(me)).with_state(state);
    Ok(axum::serve(listener, router).await?)
}

struct Gateway {
    client: Client,
    valid: Mutex<HashSet<String>>,
}

async fn me(State(gateway): State<Arc<Gateway>>, headers: http::HeaderMap) -> Response {
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let token = authorization.strip_prefix("Bearer ").unwrap_or_default();
    if !gateway.valid.lock().is_ok_and(|valid| valid.contains(token)) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let mut headers = HeaderMap::new();
    let Ok(value) = authorization.parse::<HeaderValue>() else { return StatusCode::BAD_REQUEST.into_response() };
    headers.append(AUTHORIZATION, value);
    match gateway.client.request_with_headers(SUBJECT, headers, Bytes::new()).await {
        Ok(reply) => ([(header::CONTENT_TYPE, "application/json")], reply.payload).into_response(),
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}

/// Answers each request with `body`.
pub(super) async fn service(nats_url: &str, key_file: &Path, token: String, body: Bytes) -> Result<()> {
    let client = connect(nats_url, key_file, QUEUE).await?;
    let mut requests = client.queue_subscribe(SUBJECT, QUEUE.to_owned()).await?;
    let valid = Rc::new(RefCell::new(HashSet::from([token])));
    while let Some(request) = requests.next().await {
        let authorization = request.headers.as_ref().and_then(|headers| headers.get(AUTHORIZATION));
        let token = authorization.and_then(|value| value.as_str().strip_prefix("Bearer ")).unwrap_or_default();
        if let Some(reply) = request.reply
            && valid.borrow().contains(token)
        {
            client.publish(reply, body.clone()).await?;
        }
    }
    Ok(())
}

/// Answers each `Check` with `body`, whatever it asks: the least that a decision over NATS can cost.
pub(super) async fn authz(nats_url: &str, key_file: &Path, body: Bytes) -> Result<()> {
    let (service, subject) = (CHECK.service, CHECK.subject);
    let client = connect(nats_url, key_file, service).await?;
    let mut requests = client.queue_subscribe(subject, service.to_owned()).await?;
    while let Some(request) = requests.next().await {
        if let Some(reply) = request.reply {
            client.publish(reply, body.clone()).await?;
        }
    }
    Ok(())
}
