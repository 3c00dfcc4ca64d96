//! A service that runs one queue, of jobs that do nothing: the kernel's runner and nothing beside it.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use kernel::jobs::{Concurrency, Engine, Outcome, Patience, QueueHandle, Run, Work};
use kernel::settings::NoSettings;
use kernel::{Lifecycle, Parts, Service, StartError};
use subjects::{ServiceContract, job};

use crate::bench::bed::Bed;
use crate::platform::nats::users::Account;
use crate::platform::process::Readiness;
use crate::platform::supervisor::Process;

/// The queue.
pub(super) const QUEUE: &str = "bench";

/// How many of its jobs run at once. No setting of the kernel's, which refuses those it does not know under its own prefix.
const CONCURRENCY: &str = "BENCH_CONCURRENCY";

const READY_WITHIN: Duration = Duration::from_secs(30);

/// Under the name of the service that may run any queue.
static CONTRACT: ServiceContract = ServiceContract {
    name: job::MANAGER,
    version: "0.0.0",
    description: "The benchmark's runner.",
    endpoints: &[],
    events: &[],
    calls: &[],
    consumers: &[],
    watches: &[],
    buckets: &[],
    enqueues: &[],
    jobs: &[],
};

/// The service.
#[derive(Debug)]
pub(in crate::bench) struct BenchRunner {
    _queue: QueueHandle,
}

struct Noop;

impl Work for Noop {
    fn run<'a>(&'a self, _run: &'a Run) -> BoxFuture<'a, Outcome> {
        std::future::ready(Outcome::Done(String::new())).boxed()
    }

    fn patience(&self, _kind: &str) -> Patience {
        Patience::default()
    }

    fn is_in_process(&self) -> bool {
        true
    }
}

impl Service for BenchRunner {
    type Settings = NoSettings;

    const DATABASE: bool = false;

    fn contract() -> &'static ServiceContract {
        &CONTRACT
    }

    async fn build(parts: Parts<NoSettings>) -> Result<Self, StartError> {
        let engine: Engine = parts.jobs.ok_or_else(|| StartError::new("a service with jobs has an engine"))?;
        let concurrency = std::env::var(CONCURRENCY).ok().and_then(|text| text.parse().ok());
        let concurrency = concurrency.ok_or_else(|| StartError::new("how many jobs run at once is not said"))?;
        Ok(Self { _queue: engine.run_queue(QUEUE, Concurrency::Here(concurrency), None, Arc::new(Noop)) })
    }

    async fn run(self: Arc<Self>, life: Lifecycle) -> Result<(), StartError> {
        life.stop_token().cancelled().await;
        Ok(())
    }
}

/// Starts it in an account without other services.
pub(super) async fn start(bed: &Bed, account: &Account, concurrency: u32) -> Result<Process> {
    let mut spec = bed.deployment.process("jobs", 1)?.spec().clone();
    "runner".clone_into(&mut spec.name);
    spec.log = spec.log.with_file_name("runner.log");
    spec.program = std::env::current_exe()?;
    spec.args = ["bench", "serve", "jobs"].map(OsString::from).to_vec();
    spec.env.retain(|name, _| !name.starts_with("TRUNKLINE_JOBS__") && !name.starts_with("TRUNKLINE_DATABASE"));
    let status = spec.log.with_file_name("runner.status");
    for (name, value) in [
        ("TRUNKLINE_NKEY_FILE", account.key_file(job::MANAGER).into_os_string()),
        ("TRUNKLINE_STATUS_FILE", status.clone().into_os_string()),
        (CONCURRENCY, concurrency.to_string().into()),
    ] {
        spec.env.insert(name.to_owned(), value);
    }
    spec.readiness = Readiness::StatusFile(status);
    let process = bed.deployment.supervisor().spawn(spec);
    process.ready(READY_WITHIN).await?;
    Ok(process)
}
