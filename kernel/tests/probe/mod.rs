//! A service that does what its caller tells it to, under identity's name and rights, and the keys that its tokens need.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::{Client, HeaderMap, Message};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::StreamExt as _;
use kernel::endpoint::Routes;
use kernel::settings::{NoSettings, Process};
use kernel::{Clock, Context, Error, Lifecycle, Parts, Result, Running, Service, Start, StartError};
use serde_json::{Value, json};
use subjects::authz::v1::{AuthorizeReply, AuthorizeRequest};
use subjects::identity::v1::{
    GET_ME, GET_USER, GetMeRequest, GetUserRequest, LIST_USERS, ListUsersReply, ListUsersRequest, REGISTER,
    RegisterReply, RegisterRequest, User, VERIFY_CREDENTIALS, VerifyCredentialsReply, VerifyCredentialsRequest,
};
use subjects::{Register as _, ServiceContract};
use tokio::sync::Notify;

use crate::servers::nats::Nats;

static CONTRACT: ServiceContract = ServiceContract {
    name: "identity",
    version: "1.2.3",
    description: "A probe.",
    endpoints: &[&REGISTER, &GET_ME, &GET_USER, &LIST_USERS, &VERIFY_CREDENTIALS],
    events: &[],
    calls: &["svc.auth.v1.get_jwks", "svc.authz.v1.authorize"],
    consumers: &[],
    watches: &[],
    buckets: &[],
    enqueues: &[],
    jobs: &[],
};

/// The service.
pub struct Probe {
    parts: Parts<NoSettings>,
    /// Requests whose handler has begun.
    pub begun: AtomicUsize,
}

impl Service for Probe {
    type Settings = NoSettings;

    const DATABASE: bool = false;

    fn contract() -> &'static ServiceContract {
        &CONTRACT
    }

    async fn build(parts: Parts<NoSettings>) -> Result<Self, StartError> {
        Ok(Self { parts, begun: AtomicUsize::new(0) })
    }

    fn routes(routes: &mut Routes<Self>) {
        routes.register(&REGISTER, |probe: Arc<Self>, cx: Arc<Context>, request: RegisterRequest| async move {
            probe.begun.fetch_add(1, Ordering::SeqCst);
            match request.email.as_str() {
                "panic" => panic!("told to"),
                "sleep" => tokio::time::sleep(Duration::from_millis(request.password.parse().unwrap())).await,
                "deny" => return Err(deny(&probe, &cx).await),
                "time out" => return Err(time_out(&probe, &cx).await),
                "if match" => return Err(if_match(&probe, &cx).await),
                "refuse" => return Err(Error::conflict("taken", "Line one.\r\nLine two.").with_source("hunter2")),
                _ => {}
            }
            Ok(RegisterReply {})
        });
        routes.register(&GET_ME, |_: Arc<Self>, cx: Arc<Context>, _: GetMeRequest| async move {
            Ok(User { id: cx.user_id()?.to_owned(), display_name: cx.request_id().to_owned(), ..User::default() })
        });
        routes.register(&GET_USER, |_: Arc<Self>, _: Arc<Context>, request: GetUserRequest| async move {
            Ok(User { id: request.user_id, ..User::default() })
        });
        routes.register(&LIST_USERS, |_: Arc<Self>, _: Arc<Context>, request: ListUsersRequest| async move {
            Ok(ListUsersReply { next_page_token: request.page_size.to_string(), ..ListUsersReply::default() })
        });
        routes.register(
            &VERIFY_CREDENTIALS,
            |_: Arc<Self>, cx: Arc<Context>, request: VerifyCredentialsRequest| async move {
                if request.email == "big" {
                    return Ok(VerifyCredentialsReply { user_id: "x".repeat(2_000_000), ..Default::default() });
                }
                let remaining = u32::try_from(cx.remaining().as_millis()).unwrap();
                Ok(VerifyCredentialsReply { valid: true, user_id: remaining.to_string(), ..Default::default() })
            },
        );
    }

    async fn run(self: Arc<Self>, life: Lifecycle) -> Result<(), StartError> {
        life.stopping().await;
        Ok(())
    }
}

/// Calls what this service's broker user may not.
async fn deny(probe: &Probe, cx: &Context) -> Error {
    let audit = subjects::audit::v1::AuditClient::new(probe.parts.caller.clone());
    audit.list_entries(cx, subjects::audit::v1::ListEntriesRequest::default()).await.err().unwrap()
}

/// Calls the one service it may, which does not answer.
async fn time_out(probe: &Probe, cx: &Context) -> Error {
    let auth = subjects::auth::v1::AuthClient::new(probe.parts.caller.clone());
    auth.get_jwks(cx, subjects::auth::v1::GetJwksRequest {}).await.err().unwrap()
}

/// Calls what takes no precondition with one.
async fn if_match(probe: &Probe, cx: &Context) -> Error {
    let authz = subjects::authz::v1::AuthzClient::new(probe.parts.caller.if_match("17"));
    authz.authorize(cx, AuthorizeRequest::default()).await.err().unwrap()
}

/// The settings of a probe.
pub fn process(server: &Nats) -> Process {
    let mut process = server.settings("identity");
    process.nats.reconnect_delay_max_ms = 200;
    process
}

/// Starts a probe.
pub async fn start(server: &Nats) -> Running {
    start_with(process(server)).await
}

/// Starts a probe with other settings.
pub async fn start_with(process: Process) -> Running {
    kernel::start::<Probe>(Start::new(process, NoSettings {})).await.expect("the probe starts")
}

/// Signs tokens, and gives the key to whoever asks auth for it.
pub struct Keys(Ed25519KeyPair);

impl Keys {
    /// Answers for auth until the test ends.
    pub async fn serve(server: &Nats) -> Self {
        let keys = Self(Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap());
        let x = URL_SAFE_NO_PAD.encode(keys.0.public_key());
        let client = server.client("auth").await;
        let mut questions = client.queue_subscribe("svc.auth.v1.get_jwks", "auth".to_owned()).await.unwrap();
        let jwk = subjects::auth::v1::Jwk {
            kty: "OKP".to_owned(),
            crv: "Ed25519".to_owned(),
            x,
            kid: "k1".to_owned(),
            ..Default::default()
        };
        let answer = prost::Message::encode_to_vec(&subjects::auth::v1::Jwks { keys: vec![jwk] });
        spawn(async move {
            while let Some(question) = questions.next().await {
                client.publish(question.reply.unwrap(), answer.clone().into()).await.unwrap();
            }
        });
        keys
    }

    /// A token of a user with these roles.
    pub fn token(&self, user: &str, roles: &[&str]) -> String {
        let now = Clock::system().unix_seconds();
        let claims = json!({
            "iss": "trunkline", "aud": "trunkline", "sub": user, "sid": "s", "jti": "j", "client_id": "c",
            "roles": roles, "iat": now, "exp": now + 300,
        });
        let header = r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1"}"#;
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = URL_SAFE_NO_PAD.encode(self.0.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

/// Answers for authz, as a test wants it, and notes what it was asked.
#[derive(Clone, Default)]
pub struct Authz(Arc<Mutex<Answers>>);

#[derive(Default)]
struct Answers {
    /// By user, what is allowed to them, and what that rests on.
    known: HashMap<String, AuthorizeReply>,
    asked: Vec<AuthorizeRequest>,
    /// While there is one, answers wait.
    held: Option<Arc<Notify>>,
}

impl Authz {
    /// Answers until the test ends. Nobody may anything until it is told otherwise.
    pub async fn serve(server: &Nats) -> Self {
        let authz = Self::default();
        let client = server.client("authz").await;
        let mut questions = client.queue_subscribe("svc.authz.v1.authorize", "authz".to_owned()).await.unwrap();
        client.flush().await.unwrap();
        let own = authz.clone();
        spawn(async move {
            while let Some(question) = questions.next().await {
                let request = <AuthorizeRequest as prost::Message>::decode(question.payload).unwrap();
                let (reply, held) = {
                    let mut answers = own.0.lock().unwrap();
                    let reply = answers.known.get(&request.user_id).cloned().unwrap_or_default();
                    answers.asked.push(request);
                    (prost::Message::encode_to_vec(&reply), answers.held.clone())
                };
                let client = client.clone();
                spawn(async move {
                    if let Some(held) = held {
                        held.notified().await;
                    }
                    client.publish(question.reply.unwrap(), reply.into()).await.unwrap();
                });
            }
        });
        authz
    }

    /// From now on, what `user` may, and on which roles and groups that rests.
    pub fn know(&self, user: &str, allowed: bool, roles: &[&str], groups: &[&str]) {
        let text = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let reply = AuthorizeReply { allowed, roles: text(roles), group_ids: text(groups), ..Default::default() };
        self.0.lock().unwrap().known.insert(user.to_owned(), reply);
    }

    /// The questions since the last call.
    pub fn asked(&self) -> Vec<AuthorizeRequest> {
        std::mem::take(&mut self.0.lock().unwrap().asked)
    }

    /// Lets answers wait from now on, as they are known at this time, until the given one is notified.
    pub fn hold(&self) -> Arc<Notify> {
        let held = Arc::new(Notify::new());
        self.0.lock().unwrap().held = Some(Arc::clone(&held));
        held
    }

    /// Lets answers go at once again.
    pub fn hurry(&self) {
        self.0.lock().unwrap().held = None;
    }
}

/// A task of the test's own.
#[expect(clippy::disallowed_methods, reason = "a test's task ends with its runtime")]
pub fn spawn<F>(task: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(task)
}

/// Sends one request as people do.
pub async fn ask(client: &Client, subject: &'static str, pairs: &[(&str, &str)], body: &str) -> Message {
    let request = async_nats::Request::new().headers(headers(pairs)).payload(body.to_owned().into());
    let request = request.timeout(Some(Duration::from_secs(8)));
    client.send_request(subject, request).await.unwrap_or_else(|error| panic!("{subject}: {error}"))
}

/// Headers as they are given, repeated ones included.
pub fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(*name, *value);
    }
    map
}

/// Number and code of an error reply; `None` for a success.
pub fn refusal(message: &Message) -> Option<(u16, String)> {
    let headers = message.headers.as_ref()?;
    let status: u16 = headers.get("Nats-Service-Error-Code")?.as_str().parse().unwrap();
    let line = headers.get("Nats-Service-Error").unwrap().as_str();
    let problem = body(message);
    assert_eq!(problem["status"], status);
    assert!(!problem["requestId"].as_str().unwrap().is_empty());
    assert!(!line.contains(['\r', '\n']) && line.starts_with(problem["code"].as_str().unwrap()), "{line}");
    Some((status, problem["code"].as_str().unwrap().to_owned()))
}

/// The JSON of a message.
pub fn body(message: &Message) -> Value {
    serde_json::from_slice(&message.payload).unwrap()
}

/// The value of one line of the metrics page.
pub fn metric(running: &Running, line: &str) -> f64 {
    let page = running.metrics().encode();
    let found = page.lines().find_map(|entry| entry.strip_prefix(line)?.strip_prefix(' ')?.parse().ok());
    found.unwrap_or_else(|| panic!("{line} is not on the page:\n{page}"))
}
