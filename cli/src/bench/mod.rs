//! `trunkline bench`: our figures beside the floor's, measured by turns in one run on servers of the benchmark's own.
//!
//! Read the ratios. A shared machine moves both sides by up to half from one run to the next; medians of interleaved
//! rounds and CPU time per request move least, and the floor is measured against itself as a control.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "figures for people: counts and microseconds stay far below 2^52"
)]

mod audit;
mod authz;
mod bed;
mod cost;
mod events;
mod floor;
mod gateway;
mod jobs;
mod load;
mod login;
mod memory;
mod report;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::platform::nats::SyncMode;

/// What is measured.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// A request with a token through gateway, NATS and service and back, beside a bare axum + async-nats pair.
    Gateway {
        #[command(flatten)]
        run: Run,
        /// Connections that are kept busy; given more than once, each is measured.
        #[arg(long, default_values_t = [32, 128])]
        connections: Vec<usize>,
    },
    /// Sign-ins, beside raw argon2id hashes on the same cores.
    Login {
        #[command(flatten)]
        run: Run,
        /// Connections that are kept busy.
        #[arg(long, default_value_t = 16)]
        connections: usize,
    },
    /// Events from commit to effect, and the audit log's intake, beside raw JetStream publishes and a raw pull.
    Events {
        #[command(flatten)]
        run: Run,
        /// Transactions under way at once.
        #[arg(long, default_value_t = 16)]
        committers: usize,
        /// Events in each transaction.
        #[arg(long, default_value_t = 10)]
        per_commit: usize,
        /// Events a second for the lag at a steady rate.
        #[arg(long, default_value_t = 5_000)]
        rate: u64,
    },
    /// The audit log: ingest, verification offline, and pages of lists in a large log.
    Audit {
        #[command(flatten)]
        run: Run,
        /// Records of the backlog that is taken in.
        #[arg(long, default_value_t = 50_000)]
        records: u32,
        /// Entries of the log in which pages are listed.
        #[arg(long, default_value_t = 1_000_000)]
        entries: u32,
    },
    /// Decisions with many users, roles and permissions, beside raw NATS, bare hash sets and other engines.
    Authz {
        #[command(flatten)]
        run: Run,
        /// Users, each with three roles.
        #[arg(long, default_value_t = 100_000)]
        users: usize,
        /// Roles.
        #[arg(long, default_value_t = 1_000)]
        roles: usize,
        /// Permissions.
        #[arg(long, default_value_t = 10_000)]
        permissions: usize,
        /// Requests under way at once; given more than once, each is measured.
        #[arg(long, default_values_t = [32, 128])]
        in_flight: Vec<usize>,
    },
    /// Jobs submitted, run, and begun, beside raw JetStream's publishes and its consume-and-acknowledge.
    Jobs {
        #[command(flatten)]
        run: Run,
        /// Jobs that the runner alone runs at once.
        #[arg(long, default_value_t = 1_000)]
        concurrency: u32,
        /// Jobs of one drain at least; as many as should take the time of a round where it is not said.
        #[arg(long)]
        jobs: Option<u64>,
        /// Jobs a second for how soon they are begun.
        #[arg(long, default_value_t = 100)]
        rate: u64,
        /// Measures only this; may be given more than once.
        #[arg(long, value_enum)]
        only: Vec<jobs::Subject>,
    },
    /// A part of a benchmark, started by it.
    #[command(subcommand, hide = true)]
    Serve(Part),
}

/// How long, and on what.
#[derive(Args, Clone, Debug)]
pub struct Run {
    /// Rounds; the sides take turns in each, and the median counts.
    #[arg(long, default_value_t = 7)]
    pub rounds: usize,
    /// Seconds that one side is measured in one round.
    #[arg(long, default_value_t = 3)]
    pub seconds: u64,
    /// When JetStream's writes reach the disk.
    #[arg(long, value_enum, default_value_t = SyncMode::Always)]
    pub sync: SyncMode,
}

impl Run {
    fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// Processes that a benchmark starts of this program.
#[derive(Debug, Subcommand)]
pub enum Part {
    /// The floor's gateway.
    FloorGateway {
        /// Where it listens.
        listen: SocketAddr,
        /// Its broker.
        nats_url: String,
        /// Seed of its broker user.
        key_file: PathBuf,
    },
    /// The floor's service.
    FloorService {
        /// Its broker.
        nats_url: String,
        /// Seed of its broker user.
        key_file: PathBuf,
    },
    /// The floor's decisions.
    FloorAuthz {
        /// Its broker.
        nats_url: String,
        /// Seed of its broker user.
        key_file: PathBuf,
    },
    /// Identity's contract from memory, on the kernel.
    Identity,
    /// A queue of jobs that do nothing, on the kernel.
    Jobs,
}

/// The token that the floor's processes admit; theirs alone, it opens nothing.
const FLOOR_TOKEN: &str = "TRUNKLINE_BENCH_TOKEN";

/// Measures, or serves a part. Fails with one line that says why.
pub fn run(bench: Bench) -> Result<ExitCode> {
    match bench {
        Bench::Gateway { run, connections } => measure(gateway::measure(&run, &connections)),
        Bench::Login { run, connections } => measure(login::measure(&run, connections)),
        Bench::Events { run, committers, per_commit, rate } => {
            measure(events::measure(&run, &events::Load { committers, per_commit, rate }))
        }
        Bench::Audit { run, records, entries } => measure(audit::measure(&run, records, entries)),
        Bench::Authz { run, users, roles, permissions, in_flight } => {
            measure(authz::measure(&run, authz::Size { users, roles, permissions }, &in_flight))
        }
        Bench::Jobs { run, concurrency, jobs, rate, only } => {
            measure(jobs::measure(&run, &jobs::Load { concurrency, jobs, rate, only }))
        }
        Bench::Serve(Part::Jobs) => Ok(kernel::run::<jobs::BenchRunner>()),
        Bench::Serve(Part::FloorAuthz { nats_url, key_file }) => {
            serve(floor::authz(&nats_url, &key_file, authz::reply()))
        }
        Bench::Serve(Part::Identity) => Ok(kernel::run::<memory::Identity>()),
        Bench::Serve(Part::FloorGateway { listen, nats_url, key_file }) => {
            serve(floor::gateway(listen, &nats_url, &key_file, std::env::var(FLOOR_TOKEN)?))
        }
        Bench::Serve(Part::FloorService { nats_url, key_file }) => {
            let body = memory::me_as_json().into();
            serve(floor::service(&nats_url, &key_file, std::env::var(FLOOR_TOKEN)?, body))
        }
    }
}

fn measure(measurement: impl Future<Output = Result<()>>) -> Result<ExitCode> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(measurement)?;
    Ok(ExitCode::SUCCESS)
}

/// Like our services, on one thread.
fn serve(server: impl Future<Output = Result<()>>) -> Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(server)?;
    Ok(ExitCode::SUCCESS)
}
