//! `trunkline doctor`: one line for each thing that is right or wrong, with the remedy.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use kernel::data::migrations;
use serde_json::Value;
use sqlx::postgres::{PgPool, PgPoolOptions};
use subjects::broker::{OPS, PROVISION};

use super::doctor_jobs::{self, Finding};
use super::options::{Data, NatsAuthority};
use super::output::print;
use crate::platform::admin::{Admin, Running};
use crate::platform::nats::dead_letters::DeadLetters;
use crate::platform::nats::streams::Declaration;
use crate::platform::nats::{client, monitoring};
use crate::platform::process::is_running;

/// How long any one thing may take to answer.
const WITHIN: Duration = Duration::from_secs(5);
/// Clocks this far apart make tokens invalid at once or too long.
const CLOCK_SKEW_SECONDS_MAX: f64 = 2.0;

/// What was found, and whether all of it is right.
struct Findings {
    wrong: usize,
}

impl Findings {
    fn wrong(&mut self, what: &str) -> Result<()> {
        self.wrong += 1;
        print(&format!("WRONG  {what}"))
    }

    /// Tells the outcome of a check.
    fn take(&mut self, outcome: Result<String>, what: &str) -> Result<()> {
        match outcome {
            Ok(fact) => right(&fact),
            Err(error) => self.wrong(&format!("{what}: {error:#}")),
        }
    }
}

fn right(what: &str) -> Result<()> {
    print(&format!("ok     {what}"))
}

fn notable(what: &str) -> Result<()> {
    print(&format!("note   {what}"))
}

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    ca: NatsAuthority,
}

pub(super) async fn run(arguments: &Arguments) -> Result<ExitCode> {
    let folder = arguments.data.folder()?;
    let admin = arguments.data.admin()?;
    let mut found = Findings { wrong: 0 };
    right(&format!("trunkline {}, data in {}", env!("CARGO_PKG_VERSION"), folder.display()))?;

    check_processes(&admin, &mut found).await?;
    check_gateway(&admin, &mut found).await?;
    check_sync(&admin, &mut found).await?;
    let key_file = folder.join("nkeys").join(format!("{PROVISION}.nk"));
    match check_streams(&admin, &key_file, arguments.ca.file.as_deref()).await {
        Ok((version, differences)) if differences.is_empty() => {
            right(&format!("nats-server {version}, streams and consumers as declared"))?;
        }
        Ok((_, differences)) => {
            for difference in differences {
                found.wrong(&format!("{difference}; `trunkline nats apply` puts it right where nothing is lost"))?;
            }
        }
        Err(error) => found.wrong(&format!("nats-server: {error:#}"))?,
    }
    let key_file = folder.join("nkeys").join(format!("{OPS}.nk"));
    match count_dead_letters(&admin, &key_file, arguments.ca.file.as_deref()).await {
        Ok(0) => right("no dead letters wait")?,
        Ok(count) => notable(&format!("{count} dead letters wait; `trunkline events dead-letters list` says why"))?,
        Err(error) => found.wrong(&format!("dead letters: {error:#}"))?,
    }
    let jobs = async {
        let url = admin.nats_url.as_deref().context("the platform was never ready")?;
        let client = client::connect_trusting(url, &key_file, OPS, arguments.ca.file.as_deref()).await?;
        doctor_jobs::check(&client, &arguments.data).await
    };
    match jobs.await {
        Ok(findings) => {
            for finding in findings {
                match finding {
                    Finding::Right(what) => right(&what)?,
                    Finding::Note(what) => notable(&what)?,
                    Finding::Wrong(what) => found.wrong(&what)?,
                }
            }
        }
        Err(error) => found.wrong(&format!("jobs: {error:#}"))?,
    }
    check_database(&admin, &mut found).await?;
    // Compiled in: neither this machine, nor a container, nor the broker has to have any.
    right(&format!(
        "time zones of schedules: IANA {}, {} names",
        chrono_tz::IANA_TZDB_VERSION,
        chrono_tz::TZ_VARIANTS.len()
    ))?;

    if found.wrong == 0 {
        print("everything is as it should be")?;
        return Ok(ExitCode::SUCCESS);
    }
    print(&format!("{} wrong", found.wrong))?;
    Ok(ExitCode::FAILURE)
}

async fn check_processes(admin: &Admin, found: &mut Findings) -> Result<()> {
    if admin.processes.is_empty() {
        return found.wrong("nothing runs on this data folder; start it with `trunkline up`");
    }
    let names = crate::platform::programs::names();
    for name in names.iter().filter(|name| !admin.processes.iter().any(|process| process.name == **name)) {
        found.wrong(&format!("no instance of {name} runs"))?;
    }
    for process in &admin.processes {
        let what = format!("{} {}", process.name, process.instance);
        found.take(check_process(process, &what).await, &what)?;
    }
    Ok(())
}

async fn check_process(process: &Running, what: &str) -> Result<String> {
    anyhow::ensure!(is_running(process.pid), "process {} is gone, and `trunkline up` with it", process.pid);
    let Some(url) = &process.admin_url else { return Ok(format!("{what} runs (process {})", process.pid)) };
    let answer = get(&format!("{url}/readyz")).await?;
    let status = answer.status();
    anyhow::ensure!(status.is_success(), "is not ready: {}", answer.text().await.unwrap_or_default().trim());
    Ok(format!("{what} is ready (process {}, {url})", process.pid))
}

async fn check_gateway(admin: &Admin, found: &mut Findings) -> Result<()> {
    let Some(url) = &admin.gateway_url else { return notable("there is no gateway") };
    let check = async {
        let answer = get(&format!("{url}/readyz")).await?;
        anyhow::ensure!(answer.status().is_success(), "says {}", answer.status());
        Ok(format!("the gateway answers at {url}"))
    };
    found.take(check.await, &format!("the gateway at {url}"))
}

async fn check_sync(admin: &Admin, found: &mut Findings) -> Result<()> {
    let Some(url) = &admin.nats_monitoring_url else {
        return notable("the NATS server is not ours; its JetStream sync mode is for its operator to check");
    };
    match monitoring(url, "varz").await {
        Ok(varz) if varz["jetstream"]["config"]["sync_always"] == Value::Bool(true) => {
            right("JetStream sync: always; what is acknowledged survives a loss of power")
        }
        Ok(_) => notable("JetStream sync: interval; a loss of power loses what was acknowledged in the last seconds"),
        Err(error) => found.wrong(&format!("nats-server's monitoring: {error:#}")),
    }
}

/// The server's version, and what differs from the declaration.
async fn check_streams(admin: &Admin, key_file: &Path, ca_file: Option<&Path>) -> Result<(String, Vec<String>)> {
    let url = admin.nats_url.as_deref().context("the platform was never ready")?;
    let client = client::connect_trusting(url, key_file, PROVISION, ca_file).await?;
    let version = client.server_info().version;
    Ok((version, Declaration::committed().compare(&client).await?.0))
}

async fn count_dead_letters(admin: &Admin, key_file: &Path, ca_file: Option<&Path>) -> Result<u64> {
    let url = admin.nats_url.as_deref().context("the platform was never ready")?;
    DeadLetters::new(client::connect_trusting(url, key_file, OPS, ca_file).await?).waiting().await
}

async fn check_database(admin: &Admin, found: &mut Findings) -> Result<()> {
    let Some(url) = &admin.postgres_url else {
        return notable("the PostgreSQL server is not ours; the services check its schemas when they start");
    };
    let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(WITHIN).connect(url).await;
    let pool = match pool {
        Ok(pool) => pool,
        Err(error) => return found.wrong(&format!("PostgreSQL: {error}")),
    };
    found.take(check_server(&pool).await, "PostgreSQL")?;
    for service in migrations::SERVICES {
        let check = migrations::check(&pool, service).await;
        found.take(
            check.map(|()| format!("schema {service} is up to date")).map_err(Into::into),
            &format!("schema {service}"),
        )?;
    }
    pool.close().await;
    Ok(())
}

async fn check_server(pool: &PgPool) -> Result<String> {
    let (version, fsync, synchronous_commit, server_seconds): (String, String, String, f64) = sqlx::query_as(
        "SELECT current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit'), \
         extract(epoch FROM clock_timestamp())::float8",
    )
    .fetch_one(pool)
    .await?;
    anyhow::ensure!(
        fsync == "on" && synchronous_commit == "on",
        "fsync is {fsync}, synchronous_commit is {synchronous_commit}; both must be on"
    );
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of this millennium fit into 53 bits")]
    let our_seconds = kernel::Clock::system().now().timestamp_millis() as f64 / 1_000.0;
    let skew = (server_seconds - our_seconds).abs();
    anyhow::ensure!(skew <= CLOCK_SKEW_SECONDS_MAX, "its clock is {skew:.1} s apart from this machine's");
    Ok(format!("PostgreSQL {version}, fsync and synchronous_commit on, clocks agree"))
}

async fn get(url: &str) -> Result<reqwest::Response> {
    let answer = tokio::time::timeout(WITHIN, reqwest::get(url)).await;
    answer
        .with_context(|| format!("{url} does not answer within {} s", WITHIN.as_secs()))?
        .with_context(|| format!("{url} does not answer"))
}
