//! What runs once everything is ready: kept listed, told of, stopped.

use std::path::Path;

use anyhow::Result;

use super::super::output::print;
use super::Arguments;
use super::ends::Ends;
use crate::platform::admin::{self, AdminFile};
use crate::platform::deployment::Deployment;
use crate::platform::servers::Servers;
use crate::platform::supervisor::Process;

/// Everything that runs.
pub(super) struct Platform {
    pub(super) deployment: Deployment,
    pub(super) servers: Servers,
    pub(super) file: AdminFile,
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
