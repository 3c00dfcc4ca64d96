//! What runs once everything is ready: kept listed, told of, stopped.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use subjects::broker::PROVISION;

use super::super::output::print;
use super::Arguments;
use super::ends::Ends;
use crate::platform::admin::{self, AdminFile};
use crate::platform::deployment::{self, Deployment};
use crate::platform::nats::client;
use crate::platform::nats::streams::{Changes, Declaration};
use crate::platform::servers::Servers;
use crate::platform::supervisor::Process;

/// How long our nats-server may take to serve again once it was started.
const SERVES_WITHIN: Duration = Duration::from_mins(1);
/// The pause before the streams are declared again where that failed.
const DECLARE_INTERVAL: Duration = Duration::from_secs(1);

/// Everything that runs.
pub(super) struct Platform {
    pub(super) deployment: Deployment,
    pub(super) servers: Servers,
    pub(super) file: AdminFile,
    /// Who vouches for a NATS server that speaks TLS.
    pub(super) ca_file: Option<PathBuf>,
}

/// Brings streams and consumers to what is declared.
pub(super) async fn declare(servers: &Servers, ca_file: Option<&Path>) -> Result<Changes> {
    let account = servers.accounts().first().context("a platform has one account")?;
    let key_file = account.key_file(PROVISION);
    let client = client::connect_trusting(servers.nats_url(), &key_file, PROVISION, ca_file).await?;
    Declaration::committed().apply(&client).await.context("declaring the streams")
}

impl Platform {
    /// Writes down what runs now.
    pub(super) fn list(&self) -> Result<()> {
        let mut admin = self.file.read()?;
        let servers = [self.servers.nats(), self.servers.postgres()].into_iter().flatten();
        let running = admin::running(self.deployment.processes().iter().chain(servers));
        if running != admin.processes {
            admin.processes = running;
            self.file.write(&admin)?;
        }
        Ok(())
    }

    /// Keeps that list current for ever.
    pub(super) async fn keep_listed(&self) -> Result<()> {
        let mut deployment = self.deployment.supervisor().changes();
        let mut servers = self.servers.supervisor().changes();
        loop {
            tokio::select! {
                changed = deployment.changed() => changed?,
                changed = servers.changed() => changed?,
            }
            if let Err(error) = self.list() {
                tracing::warn!(error = format!("{error:#}"), "the list of processes is out of date");
            }
        }
    }

    /// Declares the streams again whenever our nats-server was started anew: its store may be gone, and then what the outboxes
    /// still have is sent again into streams that must be there.
    pub(super) async fn keep_declared(&self) -> Result<()> {
        let Some(nats) = self.servers.nats() else { return std::future::pending().await };
        let mut states = nats.changes();
        let mut declared = nats.state().starts;
        loop {
            let starts = states.wait_for(|state| state.starts != declared).await?.starts;
            let anew = async {
                nats.ready(SERVES_WITHIN).await?;
                declare(&self.servers, self.ca_file.as_deref()).await
            };
            match anew.await {
                Ok(Changes(changes)) => {
                    declared = starts;
                    if !changes.is_empty() {
                        tracing::warn!(
                            changes = changes.join("; "),
                            "nats-server has lost what was declared; it was made anew"
                        );
                    }
                }
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "the streams cannot be declared yet");
                    tokio::time::sleep(DECLARE_INTERVAL).await;
                }
            }
        }
    }

    pub(super) fn tell(&self, arguments: &Arguments, context: &Path) -> Result<()> {
        let command = if std::env::var_os("CARGO_MANIFEST_DIR").is_some() { "cargo trunkline" } else { "trunkline" };
        let data = self.servers.data().display();
        let on_data = if arguments.data.is_given() { format!(" --data {data}") } else { String::new() };
        let gateway = self.deployment.gateway_url().unwrap_or_else(|| "none".to_owned());
        let sync = match self.servers.nats() {
            Some(_) => format!(" (JetStream sync: {})", arguments.sync.name()),
            None => String::new(),
        };
        print(&format!("gateway: {gateway}"))?;
        print(&format!("nats:    {}{sync}", self.servers.nats_url()))?;
        print(&format!("context: {}", context.display()))?;
        print(&format!("data:    {data} (admin.json has the administrator and all addresses; logs in logs/)"))?;
        let mail = if arguments.settings.iter().any(|setting| setting.variable == "TRUNKLINE_IDENTITY__MAIL_URL") {
            "to the server that is set".to_owned()
        } else {
            format!("{data}/{}/*.eml (a server instead: --set identity.mail_url=smtp://…)", deployment::MAIL)
        };
        print(&format!("mail:    {mail}"))?;
        print("\nready; three things to try in another terminal:")?;
        print(&format!("  curl -H \"Authorization: Bearer $({command} token{on_data})\" {gateway}/api/v1/users/me"))?;
        print(&format!("  nats --context {} service ls", context.display()))?;
        print(&format!("  {command} audit list{on_data}"))
    }

    pub(super) async fn stop(self, ends: &mut Ends) -> Result<()> {
        let orderly = async {
            self.deployment.stop().await?;
            for process in [self.servers.nats(), self.servers.postgres()].into_iter().flatten() {
                process.stop().await?;
            }
            Ok(())
        };
        let stopped = tokio::select! {
            stopped = orderly => stopped,
            () = ends.next() => self.kill().await,
        };
        stopped.and(self.list())
    }

    async fn kill(&self) -> Result<()> {
        let servers = [self.servers.nats(), self.servers.postgres()].into_iter().flatten();
        let processes = self.deployment.processes().iter().chain(servers);
        futures::future::try_join_all(processes.map(Process::kill)).await.map(|_| ())
    }
}
