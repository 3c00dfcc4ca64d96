//! What a benchmark stands on: a platform of its own in a temporary folder, started by the code of `up`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::Run;
use crate::platform::admin::AdminFile;
use crate::platform::database::DATABASE;
use crate::platform::deployment::{Deployment, Options};
use crate::platform::folders;
use crate::platform::nats::client;
use crate::platform::nats::streams::Declaration;
use crate::platform::nats::users::Account;
use crate::platform::ports::Port;
use crate::platform::programs::Programs;
use crate::platform::servers::{self, Servers};
use crate::platform::terminal::Terminal;

/// Servers and services. Dropping it ends them and removes the folder.
pub(super) struct Bed {
    // Ends before the servers do.
    pub(super) deployment: Deployment,
    pub(super) servers: Servers,
    /// The gateway's public address.
    pub(super) gateway: SocketAddr,
}

/// A signed-in administrator.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SignedIn {
    pub(super) access_token: String,
}

impl Bed {
    /// Starts one instance of each of these, without rate limits.
    pub(super) async fn start(run: &Run, names: &[&str]) -> Result<Self> {
        let folder = temporary_folder();
        let mut options = servers::Options::temporary(folder.clone(), folders::default_cache()?, 2);
        options.sync = run.sync;
        options.terminal = Terminal::Stderr;
        let programs = Programs::find_or_build(Terminal::Stderr).await?;
        let servers = Servers::start(options).await?;
        let account = servers.accounts().first().context("two accounts were asked for")?.clone();
        let provision = subjects::broker::PROVISION;
        let provisioner = client::connect(servers.nats_url(), &account.key_file(provision), provision).await?;
        Declaration::committed().apply(&provisioner).await?;
        servers.databases().migrate(DATABASE).await?;
        let deployment = Deployment::start(Options {
            folder: servers.data().to_owned(),
            programs,
            nats_url: servers.nats_url().to_owned(),
            account,
            databases: servers.databases().clone(),
            database: DATABASE.to_owned(),
            instances: names.iter().map(|name| ((*name).to_owned(), 1)).collect(),
            env: BTreeMap::from([("TRUNKLINE_LOG__LEVEL".to_owned(), "warn".to_owned())]),
            service_env: BTreeMap::from([(
                "gateway".to_owned(),
                BTreeMap::from([("TRUNKLINE_GATEWAY__RATE_LIMITS__ENABLED".to_owned(), "false".to_owned())]),
            )]),
            gateway_port: Port::Any,
            restart: false,
        })?;
        deployment.ready().await?;
        let url = deployment.gateway_url().context("a gateway runs")?;
        let gateway = url.trim_start_matches("http://").parse()?;
        Ok(Self { deployment, servers, gateway })
    }

    /// The credentials of the first administrator, as JSON.
    pub(super) fn credentials(&self) -> Result<String> {
        let admin = AdminFile::in_folder(&self.deployment.options().folder).read()?;
        Ok(serde_json::json!({ "email": admin.email, "password": admin.password }).to_string())
    }

    /// Signs the first administrator in.
    pub(super) async fn sign_in(&self) -> Result<SignedIn> {
        let answer = reqwest::Client::new()
            .post(format!("http://{}/api/v1/auth/login", self.gateway))
            .header("Content-Type", "application/json")
            .body(self.credentials()?)
            .send()
            .await?
            .error_for_status()
            .context("signing in")?;
        Ok(answer.json().await?)
    }

    /// An account of the broker's that the platform does not use.
    pub(super) fn other_account(&self) -> Result<&Account> {
        self.servers.accounts().get(1).context("two accounts were asked for")
    }

    /// The pids of these and of the broker, whose CPU time a request costs.
    pub(super) fn pids(&self, names: &[&str]) -> Result<Vec<u32>> {
        let mut pids = Vec::new();
        for name in names {
            pids.push(self.deployment.process(name, 1)?.state().pid.with_context(|| format!("{name} does not run"))?);
        }
        let nats = self.servers.nats().context("the broker is ours")?;
        pids.push(nats.state().pid.context("the broker runs")?);
        Ok(pids)
    }

    /// Ends everything and removes the folder.
    pub(super) async fn stop(self) -> Result<()> {
        self.deployment.stop().await?;
        self.servers.stop().await
    }
}

fn temporary_folder() -> PathBuf {
    std::env::temp_dir().join(format!("trunkline-bench-{}", std::process::id()))
}
