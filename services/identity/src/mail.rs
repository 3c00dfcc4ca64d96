//! Where mail goes: to a mail server, or as files into a folder. Knows nothing of what is written, and keeps nothing.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use kernel::StartError;
use kernel::settings::Secret;
use lettre::address::Address;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::{AsyncSmtpTransportBuilder, PoolConfig};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};
use subjects::subject::Token;
use tokio::io::AsyncWriteExt as _;

use crate::domain::one_line;

/// How long each step with the server may take; well within the job's own time.
const STEP_MAX: Duration = Duration::from_secs(15);

/// Connections to the server at once.
const CONNECTIONS_MAX: u32 = 4;

/// Sends mail.
pub(crate) struct Post {
    to: Destination,
    sender: Mailbox,
}

enum Destination {
    Server(AsyncSmtpTransport<Tokio1Executor>),
    Folder(PathBuf),
    /// Not set.
    Nowhere,
}

/// What a URL names, not opened.
enum Place {
    Server(AsyncSmtpTransportBuilder),
    Folder(PathBuf),
}

/// A letter in its envelope.
pub(crate) struct Letter<'a> {
    /// The same for every attempt to send it, so that a server may drop what it has already.
    pub id: &'a Token,
    pub date: DateTime<Utc>,
    /// What the recipient is called; may hold anything.
    pub name: &'a str,
    pub address: &'a str,
    pub subject: &'a str,
    pub text: String,
}

/// Why a letter was not sent. Never holds an address: what a server says of one often does.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PostError {
    /// Another attempt is of no use.
    #[error("{0}")]
    Refused(String),
    /// Another attempt may go better.
    #[error("{0}")]
    Away(String),
}

impl Post {
    /// Opens what `url` names: `smtp://`, `smtps://` or `file:///`. Within a runtime; nothing is connected yet.
    pub(crate) fn open(url: Option<&Secret>, sender: &str) -> Result<Self, StartError> {
        let sender: Mailbox =
            sender.parse().map_err(|_| StartError::new("identity.mail_sender is not an address of mail"))?;
        let to = match url.map(Secret::expose) {
            None => Destination::Nowhere,
            Some(url) => match place(url).map_err(|fault| StartError::new(format!("identity.mail_url {fault}")))? {
                Place::Folder(folder) => Destination::Folder(folder),
                Place::Server(server) => {
                    let pool = PoolConfig::new().max_size(CONNECTIONS_MAX);
                    Destination::Server(server.timeout(Some(STEP_MAX)).pool_config(pool).build())
                }
            },
        };
        Ok(Self { to, sender })
    }

    pub(crate) async fn send(&self, letter: Letter<'_>) -> Result<(), PostError> {
        let message = self.message(&letter)?;
        match &self.to {
            Destination::Nowhere => Err(PostError::Refused("identity.mail_url is not set".to_owned())),
            Destination::Folder(folder) => write(folder, letter.id, &message.formatted())
                .await
                .map_err(|error| PostError::Away(format!("the folder for mail cannot be written: {}", error.kind()))),
            Destination::Server(server) => server.send(message).await.map(|_| ()).map_err(|error| judged(&error)),
        }
    }

    fn message(&self, letter: &Letter<'_>) -> Result<Message, PostError> {
        let unfit = |what: &str| PostError::Refused(format!("{what} does not fit into a letter"));
        let address: Address = letter.address.parse().map_err(|_| unfit("the address"))?;
        let name = Some(one_line(letter.name)).filter(|name| !name.is_empty());
        // RFC 3834: so that nobody's absence note answers it.
        let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
        Message::builder()
            .message_id(Some(format!("<{}@{}>", letter.id, self.sender.email.domain())))
            .date(letter.date.into())
            .from(self.sender.clone())
            .to(Mailbox::new(name, address))
            .subject(letter.subject)
            .raw_header(HeaderValue::new(automatic, "auto-generated".to_owned()))
            .header(ContentType::TEXT_PLAIN)
            .body(letter.text.clone())
            .map_err(|_| unfit("the text"))
    }
}

/// What `url` names, or what is wrong with it; never repeats it, since it may hold a password.
pub(crate) fn check_url(url: &str) -> Result<(), String> {
    place(url).map(|_| ())
}

fn place(url: &str) -> Result<Place, String> {
    if let Some(path) = url.strip_prefix("file://") {
        let path = PathBuf::from(path);
        return if path.is_absolute() {
            Ok(Place::Folder(path))
        } else {
            Err("must name a folder by its whole path: file:///var/mail".to_owned())
        };
    }
    let Some((scheme @ ("smtp" | "smtps"), rest)) = url.split_once("://") else {
        return Err("must begin with smtp://, smtps:// or file:///".to_owned());
    };
    let asked = rest.rsplit_once('?').map_or("", |(_, asked)| asked);
    let is_secret = scheme == "smtps" || asked.split('&').any(|part| part == "tls=required");
    if rest.contains('@') && !is_secret {
        return Err("must be smtps:// or end in ?tls=required where it has a password".to_owned());
    }
    let as_what = "is not as smtp://host:port, smtp://user:password@host?tls=required or smtps://user:password@host";
    let server = AsyncSmtpTransport::<Tokio1Executor>::from_url(url);
    server.map(Place::Server).map_err(|_| as_what.to_owned())
}

/// A server's refusal counts (RFC 5321 §4.2.1); its words stay here.
fn judged(error: &lettre::transport::smtp::Error) -> PostError {
    match error.status() {
        Some(code) if error.is_permanent() => PostError::Refused(format!("the mail server refuses it: {code}")),
        Some(code) => PostError::Away(format!("the mail server does not take it just now: {code}")),
        None if error.is_timeout() => PostError::Away("the mail server does not answer".to_owned()),
        None if error.is_tls() => PostError::Away("the mail server cannot be reached safely: TLS failed".to_owned()),
        None if error.is_client() => PostError::Away("the mail server does not offer what is needed".to_owned()),
        None if error.is_response() => PostError::Away("the mail server answers something else than SMTP".to_owned()),
        None => PostError::Away("the mail server cannot be reached".to_owned()),
    }
}

/// Appears whole or not at all, and once however often it is written.
async fn write(folder: &std::path::Path, id: &Token, text: &[u8]) -> io::Result<()> {
    tokio::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).await?;
    let unfinished = folder.join(format!("{id}.eml.unfinished"));
    // What is written to people is theirs.
    let mut file =
        tokio::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished).await?;
    file.write_all(text).await?;
    file.sync_all().await?;
    tokio::fs::rename(&unfinished, folder.join(format!("{id}.eml"))).await
}

impl std::fmt::Debug for Post {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Post").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formatted(name: &str, subject: &str) -> String {
        let post = Post::open(None, "Trunkline <no-reply@example.org>").unwrap();
        let id = Token::parse("0198").unwrap();
        let letter = Letter {
            id: &id,
            date: DateTime::from_timestamp(1_800_000_000, 0).unwrap(),
            name,
            address: "ann@example.org",
            subject,
            text: "Hello".to_owned(),
        };
        String::from_utf8(post.message(&letter).unwrap().formatted()).unwrap()
    }

    #[test]
    fn a_letter_has_the_headers_that_it_must_have() {
        let letter = formatted("Ann", "News");

        for line in [
            "Message-ID: <0198@example.org>",
            "Date: Fri, 15 Jan 2027 08:00:00 +0000",
            "From: Trunkline <no-reply@example.org>",
            "To: Ann <ann@example.org>",
            "Subject: News",
            "Auto-Submitted: auto-generated",
        ] {
            assert!(letter.lines().any(|own| own == line), "{line} is not in\n{letter}");
        }
    }

    #[test]
    fn no_name_adds_a_header_or_a_recipient() {
        for name in [
            "Ann\r\nBcc: all@example.org",
            "Ann\nBcc: all@example.org",
            "Ann\rBcc: all@example.org",
            "Ann\r\n\r\nanother body",
            "Ann\" <eve@example.org>, \"",
            "=?utf-8?q?Ann=0D=0ABcc:_all@example.org?=",
            "Ann\u{85}Bcc: all@example.org",
            &"é\r\nBcc: all@example.org ".repeat(20),
        ] {
            let letter = formatted(name, "News");
            let (head, body) = letter.split_once("\r\n\r\n").unwrap();
            let headers: Vec<&str> = head.split("\r\n").filter(|line| !line.starts_with([' ', '\t'])).collect();
            let names: Vec<&str> = headers.iter().map(|line| line.split_once(':').unwrap().0).collect();
            let mut sorted = names.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), names.len(), "{head}");
            assert!(!names.contains(&"Bcc") && !head.contains(['\r', '\n', '\0'].map(String::from).concat().as_str()));
            assert!(head.lines().all(|line| !line.contains('\r')), "{head}");
            assert_eq!(body, "Hello");
            let envelope = Post::open(None, "no-reply@example.org").unwrap();
            let id = Token::parse("0198").unwrap();
            let letter = Letter {
                id: &id,
                date: DateTime::UNIX_EPOCH,
                name,
                address: "ann@example.org",
                subject: "News",
                text: String::new(),
            };
            let message = envelope.message(&letter).unwrap();
            assert_eq!(
                message.envelope().to().iter().map(ToString::to_string).collect::<Vec<_>>(),
                ["ann@example.org"]
            );
        }
    }

    #[test]
    fn a_url_that_would_show_a_password_is_refused() {
        for good in [
            "smtp://localhost:2525",
            "smtps://ann:secret@mail.example.org",
            "smtp://ann:secret@mail.example.org?tls=required",
            "file:///var/mail",
        ] {
            assert_eq!(check_url(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "mail.example.org",
            "http://mail.example.org",
            "smtp://ann:secret@mail.example.org",
            "smtp://ann:secret@mail.example.org?tls=opportunistic",
            "smtp://ann:secret-tls=required@mail.example.org",
            "smtp://",
            "file://mail",
        ] {
            let fault = check_url(bad).unwrap_err();
            assert!(!fault.contains("secret"), "{fault}");
        }
    }
}
