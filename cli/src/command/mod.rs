//! The command line: what can be asked, and who answers it.

mod api;
mod audit;
mod audit_export;
mod audit_verify;
mod doctor;
mod doctor_jobs;
mod events;
mod jobs;
mod migrate;
mod nats;
mod options;
mod output;
mod schedules;
mod token;
mod up;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use options::Data;

/// The operational core of a product on one machine: sign-in, identity, audit and an API edge as services on NATS.
#[derive(Debug, Parser)]
#[command(name = "trunkline", version, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed (one line on standard error says why and what to do), 2 wrong usage."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Operation(Operation),
    /// Measure the platform beside the least it could cost
    ///
    /// Starts servers and services of its own in a temporary folder and takes turns with the floor, so read the ratios. Use a
    /// release build: `cargo run --release -p trunkline -- bench gateway`.
    #[command(subcommand)]
    Bench(crate::bench::Bench),
}

#[derive(Debug, Subcommand)]
enum Operation {
    /// Start the whole platform on this machine and keep it running until Ctrl-C
    #[command(long_about = up::ABOUT)]
    Up(up::Arguments),
    /// Prepare a PostgreSQL server and bring every schema up to date
    #[command(long_about = migrate::ABOUT)]
    Migrate(migrate::Arguments),
    /// The broker's configuration and streams
    #[command(subcommand)]
    Nats(nats::Command),
    /// Print the OpenAPI 3.1 document of the HTTP API
    Openapi,
    /// Print an access token of the first administrator
    ///
    /// Signs in through the gateway of a running platform with the e-mail address and password in <data>/admin.json.
    Token(OnData),
    /// The audit log
    #[command(subcommand)]
    Audit(audit::Command),
    /// Events between the services
    #[command(subcommand)]
    Events(events::Command),
    /// Jobs in the background: submit, look at, watch and run them again
    #[command(subcommand)]
    Jobs(jobs::Command),
    /// Look for what is wrong with a running platform
    ///
    /// Checks versions, the JetStream sync mode, streams and consumers against what is declared, schemas against the migrations,
    /// every process, the gateway and the clocks. Exits with 1 when something is wrong.
    Doctor(doctor::Arguments),
}

#[derive(Args, Debug)]
struct OnData {
    #[command(flatten)]
    data: Data,
}

/// Does what was asked for.
pub fn run(cli: Cli) -> ExitCode {
    // A benchmark's parts are processes with a log of their own.
    if !matches!(cli.command, Command::Bench(crate::bench::Bench::Serve(_))) {
        output::log_warnings();
    }
    let result = match cli.command {
        Command::Operation(operation) => execute(operation),
        // Its parts are processes with a runtime of their own.
        Command::Bench(bench) => crate::bench::run(bench),
    };
    match result {
        Ok(code) => code,
        Err(error) if error.is::<output::ReaderGone>() => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn execute(operation: Operation) -> Result<ExitCode> {
    // Two threads: one may be busy with unpacking or making folders while the other sees signals.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let done = ExitCode::SUCCESS;
    let result = runtime.block_on(async {
        match operation {
            Operation::Up(arguments) => up::run(arguments).await.map(|()| done),
            Operation::Migrate(arguments) => migrate::run(arguments).await.map(|()| done),
            Operation::Nats(command) => nats::run(command).await.map(|()| done),
            Operation::Openapi => output::print(subjects::openapi::document().trim_end()).map(|()| done),
            Operation::Token(on) => token::run(&on.data).await.map(|()| done),
            Operation::Audit(command) => audit::run(command).await,
            Operation::Events(command) => events::run(command).await.map(|()| done),
            Operation::Jobs(command) => jobs::run(command).await.map(|()| done),
            Operation::Doctor(arguments) => doctor::run(&arguments).await,
        }
    });
    runtime.shutdown_background();
    result
}
