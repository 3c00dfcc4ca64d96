//! Jobs: how fast they are submitted, how fast no-op jobs are done, and how soon one is begun, beside what JetStream does by
//! itself with the same stream in the same run: publish, atomic batches, and consume-and-acknowledge.
//!
//! Twice: the runner alone (the kernel's, as in a service that runs its own queue; its log is stored and nobody reads it), in an
//! account without other services; and the whole platform, where the jobs service runs the queue `diagnostics` and brings
//! everything into the history meanwhile.

mod outbox;
mod platform;
mod queue;
mod runner;

use std::time::Duration;

use anyhow::{Context as _, Result};

use self::outbox::Outbox;
use self::platform::Whole;
use self::queue::{Pickup, Queue, Side};
use super::bed::Bed;
use super::report::{self, Round};
use super::{Run, cost};
use crate::platform::nats::SyncMode;
use crate::platform::nats::client;
use crate::platform::nats::streams::Declaration;

pub(super) use runner::BenchRunner;

/// What is measured of jobs.
pub(super) struct Load {
    /// Jobs that the runner alone runs at once.
    pub(super) concurrency: u32,
    /// Jobs of one drain at least; what should take as long as a round where there is none.
    pub(super) jobs: Option<u64>,
    /// Jobs a second for how soon they are begun.
    pub(super) rate: u64,
}

/// Sides of a round, in their order.
const SIDES: usize = 11;

pub(super) async fn measure(run: &Run, load: &Load) -> Result<()> {
    let bed = Bed::start(run, &["auth", "authz", "identity", "jobs", "gateway"]).await?;
    let account = bed.other_account()?;
    let url = bed.servers.nats_url();
    let provision = subjects::broker::PROVISION;
    let provisioner = client::connect(url, &account.key_file(provision), provision).await?;
    Declaration::committed().apply(&provisioner).await?;

    let raw = Queue::open(url, account, "raw", RAW_PENDING_MAX).await?;
    let ours = Queue::open(url, account, runner::QUEUE, load.concurrency).await?;
    let runner = runner::start(&bed, account, load.concurrency).await?;
    let outbox = Outbox::open(&bed, account).await?;
    let whole = Whole::open(&bed).await?;
    let broker = bed.pids(&[])?;
    let with = |pid: u32| broker.iter().copied().chain([pid]).collect::<Vec<_>>();
    let client = with(std::process::id());
    let running = with(runner.state().pid.context("it is ready")?);

    // More than a power-safe broker drains, or any, in the time of a round.
    let a_second = if matches!(run.sync, SyncMode::Always) { 5_000 } else { 50_000 };
    let jobs = load.jobs.unwrap_or(run.seconds.max(1) * a_second);
    let mut rounds: [Vec<Round>; SIDES] = Default::default();
    let mut recorded = Vec::new();
    for number in 0..=run.rounds {
        let warming = number == 0;
        let duration = if warming { Duration::from_secs(1) } else { run.duration() };
        let jobs = if warming { jobs.min(2_000) } else { jobs };

        let raw_publish = measured(&client, raw.publish(duration, false)).await.context("raw publishes")?;
        let raw_batches = measured(&client, raw.publish_batches(duration)).await.context("raw batches")?;
        raw.fill(jobs).await?;
        let raw_drain = measured(&client, raw.consume()).await.context("raw consumption")?;
        let raw_pickup = pickup(raw.pickup(Pickup::Consumed, duration, load.rate).await.context("raw pickup")?);

        ours.pause(true).await?;
        let publish = measured(&client, ours.publish(duration, true)).await.context("jobs published")?;
        ours.fill(jobs).await?;
        let drain = measured(&running, ours.run_all()).await.context("jobs run")?;
        let begun = pickup(ours.pickup(Pickup::Run, duration, load.rate).await.context("pickup")?);

        let enqueued = outbox.enqueue(duration).await.context("the outbox")?;
        let submit = whole.submit(duration).await.context("Submit")?;
        let batches = whole.submit_batches(duration).await.context("SubmitBatch")?;
        let (all, history_s) = whole.drain().await.context("the jobs service")?;
        if !warming {
            let round = [
                raw_publish,
                raw_batches,
                raw_drain,
                raw_pickup,
                publish,
                drain,
                begun,
                enqueued,
                submit,
                batches,
                all,
            ];
            rounds.iter_mut().zip(round).for_each(|(rounds, round)| rounds.push(round));
            recorded.push(history_s);
        }
    }

    let [raw_publish, raw_batches, raw_drain, raw_pickup, publish, drain, begun, enqueued, submit, batches, all] =
        rounds.map(|rounds| report::medians(&rounds));
    report::heading_of(
        &format!(
            "jobs: {} rounds of {} s, drains of {jobs} jobs or more, JetStream sync {}; CPU of who submits or runs and nats-server; \
             each rate beside the one above it marked floor",
            run.rounds,
            run.seconds,
            run.sync.name(),
        ),
        "job",
    );
    report::line("floor: raw publish, 100 under way", raw_publish, raw_publish);
    report::line("jobs published with their ids", publish, raw_publish);
    report::line("Submit over HTTP, whole platform", submit, raw_publish);
    report::line("floor: raw batches of 1000", raw_batches, raw_batches);
    report::line("SubmitBatch of 1000, whole platform", batches, raw_batches);
    report::line("an outbox, 4 x 1000 a transaction", enqueued, raw_batches);
    report::line("floor: raw consume and acknowledge", raw_drain, raw_drain);
    report::line(&format!("jobs run, {} at once", load.concurrency), drain, raw_drain);
    report::line("the jobs service, history beside it", all, raw_drain);
    report::line(&format!("floor: raw pickup at {}/s", load.rate), raw_pickup, raw_pickup);
    report::line(&format!("job begun at {}/s", load.rate), begun, raw_pickup);
    report::say(&format!(
        "CPU of what concerns the whole platform is that of gateway, jobs, nats-server and PostgreSQL; of the outbox, of this \
         process, nats-server and PostgreSQL, until all is in the work queue, and its p50 and p99 are those of a transaction. The history was whole \
         {:.2} s after the last of its jobs had ended.",
        report::median(recorded)
    ));
    outbox.stop().await?;
    runner.stop().await?;
    bed.stop().await
}

/// Deliveries under way at once of the raw side: more than it ever has.
const RAW_PENDING_MAX: u32 = 20_000;

/// Runs one side and adds what each of its jobs cost.
async fn measured(pids: &[u32], side: impl Future<Output = Result<Side>>) -> Result<Round> {
    let before = cost::cpu_us(pids)?;
    let side = side.await?;
    Ok(side.round(cost::cpu_us(pids)? - before))
}

/// How soon: rate and cost of a steady trickle say nothing.
fn pickup(side: Side) -> Round {
    side.round(f64::NAN)
}
