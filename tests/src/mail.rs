//! A mail server: takes letters over SMTP (RFC 5321) on a port of its own, or refuses them as it is told. Deliberately nothing
//! else: no TLS, no accounts, no delivery.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// A letter as it came.
#[derive(Clone, Debug)]
pub struct Letter {
    /// The envelope's recipients.
    pub to: Vec<String>,
    /// Headers and body, lines ended by `\r\n`.
    pub text: String,
}

/// A running mail server. Dropped, it goes on to the end of the test's runtime.
#[derive(Clone, Debug)]
pub struct MailServer {
    url: String,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    letters: Vec<Letter>,
    /// What it says to the next recipients instead of taking them.
    refusals: VecDeque<String>,
    refused: usize,
}

impl MailServer {
    /// Starts one that takes everything.
    pub async fn start() -> MailServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port can be had");
        let url = format!("smtp://{}", listener.local_addr().expect("it listens"));
        let server = MailServer { url, state: Arc::default() };
        let own = server.clone();
        #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(own.clone().serve(client));
            }
        });
        server
    }

    /// Where it is, for the setting `identity.mail_url`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// From now on answers so many recipients with `reply` (`451 4.7.1 Later`), then takes them again.
    pub fn refuse(&self, count: usize, reply: &str) {
        self.state().refusals.extend(std::iter::repeat_n(reply.to_owned(), count));
    }

    /// How many recipients it has refused.
    pub fn refused(&self) -> usize {
        self.state().refused
    }

    /// Everything that it has taken for a recipient.
    pub fn letters_to(&self, address: &str) -> Vec<Letter> {
        self.state().letters.iter().filter(|letter| letter.to.iter().any(|to| to == address)).cloned().collect()
    }

    async fn serve(self, client: TcpStream) {
        // One that goes away in the middle has sent nothing.
        let _ = self.converse(client).await;
    }

    async fn converse(&self, client: TcpStream) -> std::io::Result<()> {
        let (reader, mut writer) = client.into_split();
        let mut lines = BufReader::new(reader).lines();
        let mut to = Vec::new();
        writer.write_all(b"220 test ESMTP\r\n").await?;
        while let Some(line) = lines.next_line().await? {
            let command = line.to_ascii_uppercase();
            let reply = if command.starts_with("EHLO") {
                "250-test\r\n250-8BITMIME\r\n250 SMTPUTF8".to_owned()
            } else if command.starts_with("RCPT TO:") {
                self.answer(&line, &mut to)
            } else if command == "DATA" {
                writer.write_all(b"354 Go on\r\n").await?;
                let mut text = String::new();
                while let Some(line) = lines.next_line().await? {
                    if line == "." {
                        break;
                    }
                    text.push_str(line.strip_prefix('.').unwrap_or(&line));
                    text.push_str("\r\n");
                }
                self.state().letters.push(Letter { to: std::mem::take(&mut to), text });
                "250 Taken".to_owned()
            } else if command == "QUIT" {
                writer.write_all(b"221 Bye\r\n").await?;
                return Ok(());
            } else {
                if command.starts_with("MAIL") || command == "RSET" {
                    to.clear();
                }
                "250 Yes".to_owned()
            };
            writer.write_all(format!("{reply}\r\n").as_bytes()).await?;
        }
        Ok(())
    }

    fn answer(&self, line: &str, to: &mut Vec<String>) -> String {
        let mut state = self.state();
        if let Some(refusal) = state.refusals.pop_front() {
            state.refused += 1;
            // As servers do, it says whom it does not want.
            return format!("{refusal} {}", &line[8..]);
        }
        let address = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
        to.extend(address.map(|(address, _)| address.to_owned()));
        "250 Yes".to_owned()
    }

    /// Every step leaves it whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
