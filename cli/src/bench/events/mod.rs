//! Events from commit to effect, beside what JetStream does by itself in the same run: raw publishes, singly and in
//! atomic batches, and a raw pull. And the audit log's intake.
//!
//! The acting service and the consumer are the kernel's own parts (outbox, relay, consumer with inbox) in this process,
//! on roles and broker users of the platform; the effect is one row. Each event is two messages, the event and its audit
//! record, in two streams.

mod flow;
mod intake;
mod raw;

use std::time::Duration;

use anyhow::{Context as _, Result};

use self::flow::Flow;
use self::intake::Intake;
use self::raw::Raw;
use super::bed::Bed;
use super::report::{self, Round};
use super::{Run, cost};
use crate::platform::nats::client;
use crate::platform::nats::streams::Declaration;

/// A database of the benchmark's own: the platform's processes relay what is in theirs.
const DATABASE: &str = "bench_events";

/// What is measured of our side.
pub(super) struct Load {
    /// Transactions under way at once.
    pub(super) committers: usize,
    /// Events in each.
    pub(super) per_commit: usize,
    /// Events a second for the lag at a steady rate.
    pub(super) rate: u64,
}

pub(super) async fn measure(run: &Run, load: &Load) -> Result<()> {
    let bed = Bed::start(run, &["auth", "authz", "audit", "identity", "gateway"]).await?;
    let account = bed.other_account()?;
    let url = bed.servers.nats_url();
    let provision = subjects::broker::PROVISION;
    let provisioner = client::connect(url, &account.key_file(provision), provision).await?;
    Declaration::committed().apply(&provisioner).await?;
    bed.servers.databases().without_connection_limits().migrate(DATABASE).await?;

    let raw = Raw::open(url, account).await?;
    let flow = Flow::open(&bed, account, DATABASE, load).await?;
    let intake = Intake::open(&bed).await?;
    let mut pids = bed.pids(&[])?;
    pids.push(std::process::id());
    let audit = bed.pids(&["audit"])?;

    let mut rounds: [Vec<Round>; 6] = Default::default();
    for number in 0..=run.rounds {
        let duration = if number == 0 { Duration::from_secs(1) } else { run.duration() };
        let round = [
            measured(&pids, raw.publish_batches(duration)).await.context("raw batches")?,
            measured(&pids, raw.publish_singly(duration)).await.context("raw publishes")?,
            measured(&pids, raw.pull_all()).await.context("raw pull")?,
            measured(&pids, flow.run(duration, None)).await.context("commit to effect")?,
            measured(&pids, flow.run(duration, Some(load.rate))).await.context("commit to effect at a rate")?,
            measured(&audit, intake.run(duration)).await.context("audit intake")?,
        ];
        // The first round warms up.
        if number > 0 {
            rounds.iter_mut().zip(round).for_each(|(rounds, round)| rounds.push(round));
        }
    }

    let [batches, singly, pull, full, steady, intake_rounds] = rounds.map(|rounds| report::medians(&rounds));
    report::heading_of(
        &format!(
            "events: {} rounds of {} s, JetStream sync {}, PostgreSQL synchronous; CPU of this process and nats-server, \
             without PostgreSQL's; rates beside raw atomic batches",
            run.rounds,
            run.seconds,
            run.sync.name()
        ),
        "each",
    );
    report::line("floor: raw publish, batches of 1000", batches, batches);
    report::line("floor: raw publish, 64 under way", singly, batches);
    report::line("floor: raw pull and ack", pull, batches);
    let kind = format!("{} x {}", load.committers, load.per_commit);
    report::line(&format!("commit to effect, {kind} events"), full, batches);
    report::line(&format!("commit to effect at {}/s", load.rate), steady, batches);
    report::line("audit log: entries chained", intake_rounds, batches);
    report::say("The lag (p50, p99) of a publish is that of its acknowledgement; of an event, from commit to effect.");
    flow.stop().await?;
    intake.check().await?;
    bed.stop().await
}

/// Runs one side and adds what each of its answers cost.
async fn measured(pids: &[u32], side: impl Future<Output = Result<Side>>) -> Result<Round> {
    let before = cost::cpu_us(pids)?;
    let Side { count, took, mut lags_us } = side.await?;
    let cpu_us = cost::cpu_us(pids)? - before;
    lags_us.sort_by(f64::total_cmp);
    let at = |quantile: f64| lags_us.get((lags_us.len() as f64 * quantile) as usize).copied().unwrap_or(f64::NAN);
    Ok(Round {
        rate: count as f64 / took.as_secs_f64(),
        p50_us: at(0.5),
        p99_us: at(0.99),
        cpu_us: cpu_us / count as f64,
    })
}

/// What came of one side in one round.
struct Side {
    count: u64,
    took: Duration,
    /// In microseconds; none where there is no such thing.
    lags_us: Vec<f64>,
}
