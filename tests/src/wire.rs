//! The NATS protocol by hand: one connection, one line at a time. What the broker refuses comes back as `-ERR` before
//! the next `PONG`, so a refusal is seen for certain and without waiting, which a client library cannot promise.
//! Deliberately no reconnect, no multiplexing.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use nkeys::KeyPair;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// The longest the broker may be silent when it owes a line.
const LINE_MAX: Duration = Duration::from_secs(30);

/// A connection as one user of the broker.
pub struct Wire {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    subscriptions: u32,
    pending: Vec<Message>,
}

/// A message that came in.
#[derive(Clone, Debug)]
pub struct Message {
    /// As delivered.
    pub subject: String,
    /// Where it wants its answer; empty where nowhere.
    pub reply: String,
    /// The header block as text, status line included; empty where there is none.
    pub headers: String,
    /// As delivered.
    pub payload: Vec<u8>,
}

impl Wire {
    /// Connects to `url` (`nats://host:port`) with an nkey seed, or as nobody where there is none.
    ///
    /// # Errors
    /// The broker's refusal, or a broken connection.
    pub async fn connect(url: &str, seed: Option<&str>) -> anyhow::Result<Wire> {
        let address = url.trim_start_matches("nats://").trim_end_matches('/');
        let (reader, writer) = TcpStream::connect(address).await?.into_split();
        let mut wire = Wire { reader: BufReader::new(reader), writer, subscriptions: 0, pending: Vec::new() };
        let greeting = wire.line().await?;
        let info: Value = serde_json::from_str(greeting.trim_start_matches("INFO "))?;
        let mut options = json!({
            "verbose": false, "pedantic": false, "tls_required": false, "lang": "test", "version": "0.0.0",
            "protocol": 1, "headers": true, "no_responders": true, "echo": true,
        });
        if let Some(seed) = seed {
            let key = KeyPair::from_seed(seed.trim())?;
            let nonce = info["nonce"].as_str().unwrap_or_default();
            options["nkey"] = key.public_key().into();
            options["sig"] = URL_SAFE_NO_PAD.encode(key.sign(nonce.as_bytes())?).into();
        }
        wire.send(format!("CONNECT {options}\r\n").as_bytes()).await?;
        let refusals = wire.settle().await?;
        anyhow::ensure!(refusals.is_empty(), "the broker refused the connection: {refusals:?}");
        Ok(wire)
    }

    /// Subscribes, in a queue group where one is named, and gives what the broker said against it.
    pub async fn subscribe(&mut self, subject: &str, queue: Option<&str>) -> anyhow::Result<Vec<String>> {
        self.subscriptions += 1;
        let queue = queue.map_or(String::new(), |queue| format!("{queue} "));
        self.send(format!("SUB {subject} {queue}{}\r\n", self.subscriptions).as_bytes()).await?;
        self.settle().await
    }

    /// Publishes and gives what the broker said against it.
    pub async fn publish(&mut self, subject: &str, reply: Option<&str>, payload: &[u8]) -> anyhow::Result<Vec<String>> {
        let reply = reply.map_or(String::new(), |reply| format!("{reply} "));
        let mut command = format!("PUB {subject} {reply}{}\r\n", payload.len()).into_bytes();
        command.extend_from_slice(payload);
        command.extend_from_slice(b"\r\n");
        self.send(&command).await?;
        self.settle().await
    }

    /// Publishes with a header block as it is given (`NATS/1.0\r\nName: value\r\n\r\n`).
    pub async fn publish_raw_headers(
        &mut self,
        subject: &str,
        reply: &str,
        headers: &[u8],
        payload: &[u8],
    ) -> anyhow::Result<Vec<String>> {
        let total = headers.len() + payload.len();
        let mut command = format!("HPUB {subject} {reply} {} {total}\r\n", headers.len()).into_bytes();
        command.extend_from_slice(headers);
        command.extend_from_slice(payload);
        command.extend_from_slice(b"\r\n");
        self.send(&command).await?;
        self.settle().await
    }

    /// Writes bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.writer.write_all(bytes).await?)
    }

    /// Sends a PING and reads up to its PONG: everything sent before has then been judged. Gives the refusals.
    pub async fn settle(&mut self) -> anyhow::Result<Vec<String>> {
        self.send(b"PING\r\n").await?;
        let mut refusals = Vec::new();
        loop {
            let line = self.line().await?;
            if line == "PONG" {
                return Ok(refusals);
            } else if let Some(refusal) = line.strip_prefix("-ERR ") {
                refusals.push(refusal.trim_matches('\'').to_owned());
            } else if let Some(message) = self.message(&line).await? {
                self.pending.push(message);
            }
        }
    }

    /// The next message; `None` when none comes within `max`.
    pub async fn next_message(&mut self, max: Duration) -> anyhow::Result<Option<Message>> {
        if !self.pending.is_empty() {
            return Ok(Some(self.pending.remove(0)));
        }
        let arrival = async {
            loop {
                let line = self.line().await?;
                if let Some(message) = self.message(&line).await? {
                    return anyhow::Ok(message);
                }
            }
        };
        tokio::time::timeout(max, arrival).await.ok().transpose()
    }

    /// Messages that have come in while the connection settled.
    pub fn arrived(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.pending)
    }

    async fn message(&mut self, line: &str) -> anyhow::Result<Option<Message>> {
        let mut words = line.split_whitespace();
        let with_headers = match words.next() {
            Some("MSG") => false,
            Some("HMSG") => true,
            Some("PING") => {
                self.send(b"PONG\r\n").await?;
                return Ok(None);
            }
            _ => return Ok(None),
        };
        let words: Vec<&str> = words.collect();
        let sizes = if with_headers { 2 } else { 1 };
        let (names, sizes) = words.split_at(words.len() - sizes);
        let total: usize = sizes[sizes.len() - 1].parse()?;
        let headers: usize = if with_headers { sizes[0].parse()? } else { 0 };
        let mut bytes = vec![0; total + 2];
        tokio::time::timeout(LINE_MAX, self.reader.read_exact(&mut bytes)).await??;
        Ok(Some(Message {
            subject: names[0].to_owned(),
            reply: names.get(2).copied().unwrap_or_default().to_owned(),
            headers: String::from_utf8_lossy(&bytes[..headers]).into_owned(),
            payload: bytes[headers..total].to_vec(),
        }))
    }

    async fn line(&mut self) -> anyhow::Result<String> {
        let mut line = Vec::new();
        tokio::time::timeout(LINE_MAX, self.reader.read_until(b'\n', &mut line)).await??;
        anyhow::ensure!(!line.is_empty(), "the broker closed the connection");
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }
}
