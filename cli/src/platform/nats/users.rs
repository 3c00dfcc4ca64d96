//! The broker's users: an nkey each, and what the contract lets each do.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nkeys::KeyPair;
use serde::{Deserialize, Serialize};
use subjects::broker::{self, Permissions};
use subjects::job;
use subjects::subject::Token;

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
    /// The folder of `<user>.json` files, each an [`AddedUser`]; none where nobody was added.
    pub added: Option<PathBuf>,
}

/// A user that somebody added: narrower than the platform's own.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AddedUser {
    /// What it is for.
    pub role: Role,
    /// The one queue that it may reach.
    pub queue: String,
}

/// What an added user is for.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Submits jobs.
    Producer,
    /// Does the work.
    Worker,
}

impl AddedUser {
    fn rights(&self, name: &str) -> Permissions {
        match self.role {
            Role::Producer => broker::producer(name, Some(&self.queue)),
            Role::Worker => broker::worker(name, Some(&self.queue)),
        }
    }
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
         # Allow-lists: what is not listed is denied. No user may let the server answer for it (allow_responses).\n\
         accounts {\n",
    );
    for account in accounts {
        secrets::private_folder(&account.keys)?;
        writeln!(text, "  {} {{\n    jetstream: enabled\n    users: [", account.name)?;
        let own = broker::users()
            .into_iter()
            .map(|user| (user.to_owned(), broker::permissions(user).expect("the contract knows its own users")));
        for (user, rights) in own.chain(added(account)?) {
            let key = public_key(&account.key_file(&user))?;
            writeln!(
                text,
                "      # {user}\n      {{ nkey: {key}, permissions: {{\n        publish: {}\n        subscribe: {}\n      }} }}",
                rules(&rights.publish, &rights.publish_denied),
                rules(&rights.subscribe, &rights.subscribe_denied)
            )?;
        }
        text.push_str("    ]\n  }\n");
    }
    text.push_str("  SYS {}\n}\nsystem_account: SYS\n");
    Ok(text)
}

/// The users that somebody added, by name.
fn added(account: &Account) -> Result<Vec<(String, Permissions)>> {
    let Some(folder) = account.added.as_ref().filter(|folder| folder.is_dir()) else { return Ok(Vec::new()) };
    let mut users = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let Some(name) = path.file_stem().and_then(|name| name.to_str()) else { continue };
        if path.extension().is_some_and(|extension| extension == "json") {
            let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            let user: AddedUser =
                serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))?;
            check(name, &user)?;
            users.push((name.to_owned(), user.rights(name)));
        }
    }
    users.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(users)
}

/// Adds a user, or changes what it may, in the folder `added`; rendering takes it in.
///
/// # Errors
/// When the name or the queue is the platform's own or no word, or the file cannot be written.
pub fn add(folder: &Path, name: &str, user: &AddedUser) -> Result<()> {
    check(name, user)?;
    secrets::private_folder(folder)?;
    let text = serde_json::to_vec_pretty(user)?;
    secrets::write_private(&folder.join(format!("{name}.json")), &text)
}

fn check(name: &str, user: &AddedUser) -> Result<()> {
    if Token::parse(name).is_none() || broker::users().contains(&name) || name == "trunkline" {
        bail!("{name:?} cannot name a user: 1 to 64 of [A-Za-z0-9_-], and none of {}", broker::users().join(", "));
    }
    if Token::parse(&user.queue).is_none() || !job::is_open(&user.queue) {
        bail!("{:?} is no queue that a user can be given", user.queue);
    }
    Ok(())
}

fn rules(allowed: &BTreeSet<String>, denied: &BTreeSet<String>) -> String {
    if denied.is_empty() {
        return format!("{{ allow: [{}] }}", list(allowed));
    }
    format!("{{ allow: [{}], deny: [{}] }}", list(allowed), list(denied))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_added_user_has_a_name_and_a_queue_of_its_own() {
        let user = |queue: &str| AddedUser { role: Role::Producer, queue: queue.to_owned() };
        assert!(check("shop", &user("orders")).is_ok());
        for (name, queue) in [("ops", "orders"), ("a.b", "orders"), ("", "orders"), ("shop", "work"), ("shop", ">")] {
            assert!(check(name, &user(queue)).is_err(), "{name} {queue}");
        }
        assert_eq!(user("orders").rights("shop").publish, BTreeSet::from(["jobs.orders.>".to_owned()]));
    }
}
