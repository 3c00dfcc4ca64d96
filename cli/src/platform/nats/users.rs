//! The broker's users: an nkey each, and what the contract lets each do.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nkeys::KeyPair;

use super::super::secrets;

/// The account of a platform that has the server for itself.
pub const ACCOUNT: &str = "TRUNKLINE";

/// One account and where the seeds of its users lie.
#[derive(Clone, Debug)]
pub struct Account {
    /// The account's name on the server.
    pub name: String,
    /// The folder of `<user>.nk` files.
    pub keys: PathBuf,
}

impl Account {
    /// The seed of a user.
    pub fn key_file(&self, user: &str) -> PathBuf {
        self.keys.join(format!("{user}.nk"))
    }
}

/// Renders `users.conf` for the accounts, making the seeds that are missing.
///
/// # Errors
/// When a seed can be neither read nor written.
pub fn render(accounts: &[Account]) -> Result<String> {
    let mut text = String::from(
        "# Rendered by `trunkline nats render` from the contract; changes are overwritten.\n\
         # Allow-lists only: what is not listed is denied. No user may let the server answer for it (allow_responses).\n\
         accounts {\n",
    );
    for account in accounts {
        secrets::private_folder(&account.keys)?;
        writeln!(text, "  {} {{\n    jetstream: enabled\n    users: [", account.name)?;
        for user in subjects::broker::users() {
            let key = public_key(&account.key_file(user))?;
            let rights = subjects::broker::permissions(user).expect("the contract knows its own users");
            writeln!(
                text,
                "      # {user}\n      {{ nkey: {key}, permissions: {{\n        publish: {{ allow: [{}] }}\n        subscribe: {{ allow: [{}] }}\n      }} }}",
                list(&rights.publish),
                list(&rights.subscribe)
            )?;
        }
        text.push_str("    ]\n  }\n");
    }
    text.push_str("  SYS {}\n}\nsystem_account: SYS\n");
    Ok(text)
}

fn list(subjects: &BTreeSet<String>) -> String {
    subjects.iter().map(|subject| format!("\"{subject}\"")).collect::<Vec<_>>().join(", ")
}

/// The public key of the seed in `file`; a missing or empty file gets a new seed.
fn public_key(file: &Path) -> Result<String> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text.trim().to_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
    };
    let pair = if text.is_empty() {
        let pair = KeyPair::new_user();
        secrets::write_private(file, format!("{}\n", pair.seed()?).as_bytes())?;
        pair
    } else {
        KeyPair::from_seed(&text).with_context(|| format!("{} holds no nkey seed", file.display()))?
    };
    Ok(pair.public_key())
}
