//! A nats-server with the platform's streams and users.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_nats::jetstream::stream::RawMessageErrorKind;
use async_nats::jetstream::{self, message::StreamMessage};
use async_nats::{Client, ConnectOptions};
use kernel::settings::{Process, Secret};
use serde_json::{Value, json};
use subjects::broker;

/// The broker's own description of its streams.
const STREAMS: &str = include_str!("../../../nats/streams.json");

/// A user that may do anything.
pub const OBSERVER: &str = "observer";

const PASSWORD: &str = "secret";

/// A server of its own.
pub struct Nats {
    port: u16,
    folder: PathBuf,
    process: Option<Child>,
}

impl Nats {
    /// Starts a new server and makes the streams.
    pub async fn start() -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let folder = super::folder().join(format!("nats-{}", STARTED.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        let mut server = Self { port: super::free_port(), folder, process: None };
        std::fs::write(server.configuration_file(), server.configuration()).expect("the folder can be written to");
        server.resume();
        server.make_streams().await;
        server
    }

    /// Starts it again after [`Nats::kill`].
    pub fn resume(&mut self) {
        let configuration = self.configuration_file().to_str().expect("paths of tests are readable").to_owned();
        let arguments = ["--config".to_owned(), configuration];
        self.process = Some(super::start_server(self.port, &super::programs().nats_server, &arguments, None));
    }

    /// Kills it as `kill -9` does.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().expect("it can be killed");
        process.wait().expect("it can be waited for");
    }

    /// Kills it, deletes what it stored, starts it again and makes the streams anew.
    pub async fn wipe_store(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.store()).expect("the store can be deleted");
        self.resume();
        self.make_streams().await;
    }

    /// Kills it, keeps a copy of what it stored, and starts it again.
    pub fn copy_store(&mut self) {
        self.kill();
        copy_folder(&self.store(), &self.folder.join("copy"));
        self.resume();
    }

    /// Kills it, puts the copy in the place of what it stored, and starts it again.
    pub fn replace_store_by_copy(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.store()).expect("the store can be deleted");
        copy_folder(&self.folder.join("copy"), &self.store());
        self.resume();
    }

    fn store(&self) -> PathBuf {
        self.folder.join("store")
    }

    /// Stops it without its noticing, or lets it go on.
    pub fn pause(&self, paused: bool) {
        let id = self.process.as_ref().expect("it runs").id().to_string();
        let signal = if paused { "-STOP" } else { "-CONT" };
        assert!(Command::new("kill").args([signal, &id]).status().expect("kill runs").success());
    }

    /// A client with the rights of a user of the platform.
    #[expect(clippy::disallowed_methods, reason = "stands for the kernel's own connection")]
    pub async fn client(&self, user: &str) -> Client {
        ConnectOptions::with_user_and_password(user.to_owned(), PASSWORD.to_owned())
            .custom_inbox_prefix(subjects::subject::inbox_prefix(user))
            .reconnect_delay_callback(|_| Duration::from_millis(50))
            .retry_on_initial_connect()
            .connect(format!("127.0.0.1:{}", self.port))
            .await
            .expect("a client can be made")
    }

    /// How a process connects as a user of the platform.
    pub fn settings(&self, user: &str) -> Process {
        let mut process = Process { nats_url: format!("nats://127.0.0.1:{}", self.port), ..Process::default() };
        process.nats.user = Some(user.to_owned());
        process.nats.password = Some(Secret::new(PASSWORD));
        process
    }

    /// Everything in a stream, in order.
    pub async fn messages(&self, stream: &str) -> Vec<StreamMessage> {
        let context = jetstream::new(self.client(OBSERVER).await);
        let mut stream = context.get_stream(stream).await.expect("the stream exists");
        let state = stream.info().await.expect("the stream answers").state.clone();
        let mut messages = Vec::new();
        for sequence in state.first_sequence.max(1)..=state.last_sequence {
            match stream.get_raw_message(sequence).await {
                Ok(message) => messages.push(message),
                Err(error) => assert_eq!(error.kind(), RawMessageErrorKind::NoMessageFound, "{error}"),
            }
        }
        messages
    }

    /// Changes fields of a stream's configuration.
    pub async fn configure(&self, stream: &str, changes: Value) {
        let mut configuration = stream_configurations().remove(stream_position(stream))["config"].take();
        let changes = changes.as_object().expect("fields are an object").clone();
        configuration.as_object_mut().expect("a configuration is an object").extend(changes);
        self.administer(&format!("$JS.API.STREAM.UPDATE.{stream}"), &configuration).await;
    }

    /// Changes fields of a consumer's configuration.
    pub async fn configure_consumer(&self, stream: &str, durable: &str, changes: Value) {
        let mut declared = stream_configurations().remove(stream_position(stream))["consumers"].take();
        let consumers = declared.as_array_mut().expect("consumers are a list");
        let consumer = consumers.iter_mut().find(|consumer| consumer["durable_name"] == durable);
        let mut consumer = consumer.expect("the consumer is declared").take();
        let changes = changes.as_object().expect("fields are an object").clone();
        consumer.as_object_mut().expect("a configuration is an object").extend(changes);
        let request = json!({ "stream_name": stream, "config": consumer });
        self.administer(&format!("$JS.API.CONSUMER.CREATE.{stream}.{durable}"), &request).await;
    }

    /// Deletes a stream and makes it anew, empty.
    pub async fn wipe(&self, stream: &str) {
        let configuration = stream_configurations().remove(stream_position(stream))["config"].take();
        self.administer(&format!("$JS.API.STREAM.DELETE.{stream}"), &json!({})).await;
        self.administer(&format!("$JS.API.STREAM.CREATE.{stream}"), &configuration).await;
    }

    async fn make_streams(&self) {
        for stream in stream_configurations() {
            let name = stream["config"]["name"].as_str().expect("a stream has a name");
            self.administer(&format!("$JS.API.STREAM.CREATE.{name}"), &stream["config"]).await;
            for consumer in stream["consumers"].as_array().expect("consumers are a list") {
                let durable = consumer["durable_name"].as_str().expect("a consumer has a name");
                let request = json!({ "stream_name": name, "config": consumer });
                self.administer(&format!("$JS.API.CONSUMER.CREATE.{name}.{durable}"), &request).await;
            }
        }
    }

    async fn administer(&self, subject: &str, request: &Value) {
        let client = self.client(OBSERVER).await;
        let body = serde_json::to_vec(request).expect("JSON can be written");
        for _ in 0..600 {
            match client.request(subject.to_owned(), body.clone().into()).await {
                Ok(reply) => {
                    let reply: Value = serde_json::from_slice(&reply.payload).expect("the answer is JSON");
                    assert!(reply.get("error").is_none(), "{subject}: {reply}");
                    return;
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        panic!("{subject}: JetStream does not come up");
    }

    fn configuration_file(&self) -> PathBuf {
        self.folder.join("nats-server.conf")
    }

    fn configuration(&self) -> String {
        let mut users = String::new();
        for user in broker::users() {
            let permissions = broker::permissions(user).expect("a user has permissions");
            let list = |subjects: &BTreeSet<String>| serde_json::to_string(subjects).expect("a list can be written");
            writeln!(
                users,
                "{{ user: {user}, password: {PASSWORD}, permissions: {{ publish: {{ allow: {} }}, subscribe: {{ allow: {} }} }} }}",
                list(&permissions.publish),
                list(&permissions.subscribe)
            )
            .expect("a string can be written to");
        }
        // Sees everything, for tests that must know what was sent.
        writeln!(users, "{{ user: {OBSERVER}, password: {PASSWORD} }}").expect("a string can be written to");
        let (port, folder) = (self.port, self.folder.display());
        format!(
            "listen: 127.0.0.1:{port}\nserver_name: test\nlog_file: \"{folder}/log\"\n\
             jetstream {{ store_dir: \"{folder}/store\" }}\nauthorization {{ users: [\n{users}] }}\n"
        )
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
    }
}

fn copy_folder(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs");
    assert!(status.success(), "{} can be copied", from.display());
}

fn stream_configurations() -> Vec<Value> {
    let file: Value = serde_json::from_str(STREAMS).expect("the file is JSON");
    file["streams"].as_array().expect("streams are a list").clone()
}

fn stream_position(name: &str) -> usize {
    stream_configurations().iter().position(|stream| stream["config"]["name"] == name).expect("the stream is declared")
}
