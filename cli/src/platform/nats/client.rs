//! The command's own connections to the broker.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::Client;

/// How long a connection or an answer may take.
const WITHIN: Duration = Duration::from_secs(5);

/// Names the certificates of the authorities that may vouch for the server, as for the services; given, the connection is TLS only.
const CA_FILE: &str = "TRUNKLINE_NATS__CA_FILE";

/// Connects as the user whose seed is in `key_file`; replies come to `_INBOX.<user>`.
///
/// # Errors
/// When nobody answers there or the key is refused, with the remedy.
#[expect(clippy::disallowed_methods, reason = "the command is a client of the broker, not a service")]
pub async fn connect(url: &str, key_file: &Path, user: &str) -> Result<Client> {
    let seed = std::fs::read_to_string(key_file).with_context(|| format!("reading {}", key_file.display()))?;
    let mut options = async_nats::ConnectOptions::with_nkey(seed.trim().to_owned());
    if let Some(file) = std::env::var_os(CA_FILE) {
        options = options.add_root_certificates(file.into()).require_tls(true);
    }
    options
        .name(format!("trunkline/{user}"))
        .custom_inbox_prefix(format!("_INBOX.{user}"))
        .connection_timeout(WITHIN)
        .request_timeout(Some(WITHIN))
        .connect(url)
        .await
        .with_context(|| {
            format!(
                "connecting to {url} as {user}; if the server is not ours, give it the users of `trunkline nats render --keys {}`",
                key_file.parent().unwrap_or(key_file).display()
            )
        })
}
