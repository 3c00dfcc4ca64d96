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

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

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
    /// What is measured; everything where nothing is said.
    pub(super) only: Vec<Subject>,
}

/// What can be measured by itself, each beside its floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// Jobs published one by one.
    Publish,
    /// Jobs submitted over HTTP, one by one, and then run by the jobs service.
    Submit,
    /// Jobs submitted over HTTP, a thousand a call, and then run by the jobs service.
    Batches,
    /// Jobs submitted with changes.
    Outbox,
    /// Jobs run by the kernel's runner.
    Run,
    /// How soon a job is begun.
    Pickup,
}

/// What is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Figure {
    RawPublish,
    RawBatches,
    RawDrain,
    RawPickup,
    Publish,
    Drain,
    Pickup,
    Outbox,
    Submit,
    Batches,
    Whole,
}

type Rounds = HashMap<Figure, Vec<Round>>;

impl Load {
    fn measures(&self, subject: Subject) -> bool {
        self.only.is_empty() || self.only.contains(&subject)
    }
}

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
    let mut rounds = Rounds::default();
    let mut recorded = Vec::new();
    for number in 0..=run.rounds {
        let warming = number == 0;
        let duration = if warming { Duration::from_secs(1) } else { run.duration() };
        let jobs = if warming { jobs.min(2_000) } else { jobs };
        let mut round = Vec::new();

        if load.measures(Subject::Publish) {
            let publish = measured(&client, raw.publish(duration, false)).await.context("raw publishes")?;
            round.push((Figure::RawPublish, publish));
        }
        if load.measures(Subject::Batches) || load.measures(Subject::Outbox) {
            let batches = measured(&client, raw.publish_batches(duration)).await.context("raw batches")?;
            round.push((Figure::RawBatches, batches));
        }
        if load.measures(Subject::Run) {
            raw.fill(jobs).await?;
        }
        let drain = measured(&client, raw.consume()).await.context("raw consumption")?;
        round.extend(load.measures(Subject::Run).then_some((Figure::RawDrain, drain)));
        if load.measures(Subject::Pickup) {
            let begun = raw.pickup(Pickup::Consumed, duration, load.rate).await.context("raw pickup")?;
            round.push((Figure::RawPickup, pickup(begun)));
        }

        ours.pause(true).await?;
        if load.measures(Subject::Publish) {
            let publish = measured(&client, ours.publish(duration, true)).await.context("jobs published")?;
            round.push((Figure::Publish, publish));
        }
        if load.measures(Subject::Run) {
            ours.fill(jobs).await?;
        }
        let drain = measured(&running, ours.run_all()).await.context("jobs run")?;
        round.extend(load.measures(Subject::Run).then_some((Figure::Drain, drain)));
        if load.measures(Subject::Pickup) {
            let begun = ours.pickup(Pickup::Run, duration, load.rate).await.context("pickup")?;
            round.push((Figure::Pickup, pickup(begun)));
        }

        if load.measures(Subject::Outbox) {
            round.push((Figure::Outbox, outbox.enqueue(duration).await.context("the outbox")?));
        }
        if load.measures(Subject::Submit) {
            round.push((Figure::Submit, whole.submit(duration).await.context("Submit")?));
        }
        if load.measures(Subject::Batches) {
            round.push((Figure::Batches, whole.submit_batches(duration).await.context("SubmitBatch")?));
        }
        if load.measures(Subject::Submit) || load.measures(Subject::Batches) {
            let (drain, history_s) = whole.drain().await.context("the jobs service")?;
            round.push((Figure::Whole, drain));
            if !warming {
                recorded.push(history_s);
            }
        }
        if !warming {
            for (figure, round) in round {
                rounds.entry(figure).or_default().push(round);
            }
        }
    }

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
    let line = |name: &str, figure: Figure, floor: Figure| {
        if let Some(own) = rounds.get(&figure) {
            let floor = rounds.get(&floor).map(|rounds| report::medians(rounds));
            let own = report::medians(own);
            report::line(name, own, floor.unwrap_or_else(Round::unknown));
        }
    };
    line("floor: raw publish, 100 under way", Figure::RawPublish, Figure::RawPublish);
    line("jobs published with their ids", Figure::Publish, Figure::RawPublish);
    line("Submit over HTTP, whole platform", Figure::Submit, Figure::RawPublish);
    line("floor: raw batches of 1000", Figure::RawBatches, Figure::RawBatches);
    line("SubmitBatch of 1000, whole platform", Figure::Batches, Figure::RawBatches);
    line("an outbox, 4 x 1000 a transaction", Figure::Outbox, Figure::RawBatches);
    line("floor: raw consume and acknowledge", Figure::RawDrain, Figure::RawDrain);
    line(&format!("jobs run, {} at once", load.concurrency), Figure::Drain, Figure::RawDrain);
    line("the jobs service, history beside it", Figure::Whole, Figure::RawDrain);
    line(&format!("floor: raw pickup at {}/s", load.rate), Figure::RawPickup, Figure::RawPickup);
    line(&format!("job begun at {}/s", load.rate), Figure::Pickup, Figure::RawPickup);
    report::say(
        "CPU of what concerns the whole platform is that of gateway, jobs, nats-server and PostgreSQL; of the outbox, of this \
         process, nats-server and PostgreSQL, until all is in the work queue, and its p50 and p99 are those of a transaction.",
    );
    if !recorded.is_empty() {
        let seconds = report::median(recorded);
        report::say(&format!("The history was whole {seconds:.2} s after the last of its jobs had ended."));
    }
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
