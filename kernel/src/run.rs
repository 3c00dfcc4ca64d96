//! The life of a process from its first line to its exit code.
//!
//! Settings are checked before anything is connected. What the process needs and cannot reach at its start is waited
//! for. The first signal lets running work end, the second does not.

use std::io::Write as _;
use std::panic;
use std::process::ExitCode;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::settings::{self, Faults, Process, Sources};
use crate::sockets::InheritedSockets;
use crate::start::{Start, start};
use crate::telemetry::Telemetry;
use crate::{Service, StartError};

/// `EX_CONFIG` of sysexits.h: the settings are at fault, and starting again will not help.
const EXIT_CONFIG: u8 = 78;

/// What a shell gives for a process that was interrupted.
const EXIT_FORCED: u8 = 130;

/// How long the runtime waits for threads that do not end.
const RUNTIME_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs a service until it is told to stop: all of `main`.
///
/// Exits with 0 after a stop, 78 for settings at fault (all named on standard error, none with its value), 130 when
/// forced, and 1 when it could not start or something in it died.
pub fn run<S: Service>() -> ExitCode {
    let (process, settings) = match load::<S>() {
        Ok(loaded) => loaded,
        Err(faults) => {
            complain(&faults.to_string());
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let telemetry = match Telemetry::start(&process.log, S::contract().name, &process.instance) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            complain(&format!("{error:?}"));
            return ExitCode::FAILURE;
        }
    };
    panic::set_hook(Box::new(log_panic));
    let code = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(supervise::<S>(process, settings));
            runtime.shutdown_timeout(RUNTIME_TIMEOUT);
            code
        }
        Err(error) => {
            tracing::error!(%error, "There is no runtime.");
            ExitCode::FAILURE
        }
    };
    telemetry.shut_down();
    code
}

fn load<S: Service>() -> Result<(Process, S::Settings), Faults> {
    let name = S::contract().name;
    let services = subjects::SERVICES.iter().map(|service| service.name).chain([subjects::GATEWAY.name]);
    let others = services.filter(|other| *other != name).map(str::to_owned);
    let loaded: (Process, S::Settings) = settings::load(name, &Sources::of_process(others))?;
    if S::DATABASE && loaded.0.database_url.is_none() {
        return Err(Faults(vec!["database_url is needed".to_owned()]));
    }
    Ok(loaded)
}

async fn supervise<S: Service>(process: Process, settings: S::Settings) -> ExitCode {
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return failed(&StartError::new("signals cannot be heard").with_source(error)),
    };
    let sockets = match InheritedSockets::from_environment() {
        Ok(sockets) => sockets,
        Err(error) => return failed(&error),
    };
    let starting = start::<S>(Start { sockets, ..Start::new(process, settings) });
    let running = tokio::select! {
        started = starting => match started {
            Ok(running) => running,
            Err(error) => return failed(&error),
        },
        name = signals.next() => {
            tracing::info!(signal = name, "Told to stop before the start was done.");
            return ExitCode::SUCCESS;
        }
    };
    tokio::select! {
        () = running.life().stopping() => {}
        name = signals.next() => {
            tracing::info!(signal = name, "Stopping: no new work is taken, what runs is finished.");
            running.life().stop();
        }
    }
    tokio::select! {
        outcome = running.stop() => match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        },
        name = signals.next() => {
            tracing::warn!(signal = name, "Told again: leaving at once.");
            ExitCode::from(EXIT_FORCED)
        }
    }
}

fn failed(error: &StartError) -> ExitCode {
    tracing::error!(?error, "The process ends as a failure.");
    ExitCode::FAILURE
}

/// The signals that end a process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hang_up.recv() => "SIGHUP",
        }
    }
}

/// Before there is a log.
fn complain(text: &str) {
    // Nobody may be listening any more.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Where it happened, and what it says of itself: a line like any other.
fn log_panic(info: &panic::PanicHookInfo<'_>) {
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let payload = info.payload();
    let message =
        payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let thread = std::thread::current().name().unwrap_or_default().to_owned();
    tracing::error!(location, thread, panic = message.unwrap_or_default(), "A panic.");
}
