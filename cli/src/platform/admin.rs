//! `admin.json`: where everything is and who may sign in first, for people and scripts. It holds secrets and is private.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::secrets;
use super::supervisor::Process;

/// The first administrator's address: it receives no mail, it is a name to sign in with.
const EMAIL: &str = "admin@trunkline.local";

/// The file's content. What does not apply is left out.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Admin {
    /// The first administrator's sign-in name.
    pub email: String,
    /// Its password.
    pub password: String,
    /// The gateway's public address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_url: Option<String>,
    /// Where NATS clients connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats_url: Option<String>,
    /// The `nats` CLI's context file of the user `ops`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats_context: Option<String>,
    /// The monitoring of our own nats-server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats_monitoring_url: Option<String>,
    /// The superuser's URL of our own PostgreSQL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres_url: Option<String>,
    /// What runs now.
    pub processes: Vec<Running>,
}

/// One process.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Running {
    /// A service's name, `gateway`, `nats-server` or `postgres`.
    pub name: String,
    /// From 1 within the name.
    pub instance: usize,
    /// The operating system's number of it.
    pub pid: u32,
    /// Where it answers, if anywhere of its own.
    pub url: Option<String>,
    /// Its metrics and health.
    pub admin_url: Option<String>,
}

/// The file in a data folder.
#[derive(Clone, Debug)]
pub struct AdminFile {
    path: PathBuf,
}

impl AdminFile {
    /// The one in `data`, which may not exist yet.
    pub fn in_folder(data: &Path) -> Self {
        Self { path: data.join("admin.json") }
    }

    /// The file itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says.
    ///
    /// # Errors
    /// When it is missing or not ours.
    pub fn read(&self) -> Result<Admin> {
        let text = std::fs::read(&self.path)
            .with_context(|| format!("reading {}; has `trunkline up` run with this --data?", self.path.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("{} is not what `trunkline up` writes", self.path.display()))
    }

    /// What it says; on the very first start, `true` and a new administrator, who is written down first.
    ///
    /// # Errors
    /// When the file can be neither read nor written.
    pub fn read_or_create(&self) -> Result<(Admin, bool)> {
        if self.path.exists() {
            return Ok((self.read()?, false));
        }
        let password = secrets::password()?.expose().to_owned();
        let admin = Admin { email: EMAIL.to_owned(), password, ..Admin::default() };
        self.write(&admin)?;
        Ok((admin, true))
    }

    /// Replaces what it says.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, admin: &Admin) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(admin)?;
        text.push(b'\n');
        secrets::write_private(&self.path, &text)
    }
}

/// Those of the processes that run now, as the file lists them.
pub fn running<'a>(processes: impl IntoIterator<Item = &'a Process>) -> Vec<Running> {
    let mut running = Vec::new();
    for process in processes {
        let (spec, state) = (process.spec(), process.state());
        if let Some(pid) = state.pid {
            running.push(Running {
                name: spec.name.clone(),
                instance: spec.instance,
                pid,
                url: state.status.url.or_else(|| spec.url.clone()),
                admin_url: state.status.admin_url,
            });
        }
    }
    running
}
