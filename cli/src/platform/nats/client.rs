//! The command's own connections to the broker.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::Client;

/// How long a connection or an answer may take.
const WITHIN: Duration = Duration::from_secs(5);

/// Connects as the user whose seed is in `key_file`; replies come to `_INBOX.<user>`.
///
/// # Errors
/// As [`connect_trusting`].
pub async fn connect(url: &str, key_file: &Path, user: &str) -> Result<Client> {
    connect_trusting(url, key_file, user, None).await
}

/// [`connect`] with TLS to a server whose certificate was signed by the authority in `ca_file`, PEM, where one is given.
///
/// # Errors
/// When nobody answers there or the key is refused, with the remedy.
#[expect(clippy::disallowed_methods, reason = "the command is a client of the broker, not a service")]
pub async fn connect_trusting(url: &str, key_file: &Path, user: &str, ca_file: Option<&Path>) -> Result<Client> {
    let seed = std::fs::read_to_string(key_file).with_context(|| format!("reading {}", key_file.display()))?;
    let mut options = async_nats::ConnectOptions::with_nkey(seed.trim().to_owned())
        .name(format!("trunkline/{user}"))
        .custom_inbox_prefix(subjects::subject::inbox_prefix(user))
        .connection_timeout(WITHIN)
        .request_timeout(Some(WITHIN));
    if let Some(file) = ca_file {
        options = options.add_root_certificates(file.to_owned()).require_tls(true);
    }
    options.connect(url).await.with_context(|| {
        let keys = key_file.parent().unwrap_or(key_file).display();
        format!("connecting to {url} as {user}; a server that is not ours needs the users of `trunkline nats render --keys {keys}`")
    })
}
