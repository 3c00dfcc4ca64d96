//! Sign-ins over HTTP, beside raw argon2id with the same parameters on all cores.

use std::num::NonZero;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use argon2::{Algorithm, Argon2, Params, Version};

use super::bed::Bed;
use super::load::{self, Shot};
use super::report::{self, Round};
use super::{Run, cost};

/// Identity's defaults (OWASP's first choice for argon2id).
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;

pub(super) async fn measure(run: &Run, connections: usize) -> Result<()> {
    let bed = Bed::start(run, &["auth", "authz", "audit", "identity", "gateway"]).await?;
    let shot = Shot {
        method: http::Method::POST,
        path: "/api/v1/auth/login".to_owned(),
        token: None,
        body: bed.credentials()?.into(),
    };
    let pids = bed.pids(&["gateway", "auth", "identity", "audit"])?;
    load::run(bed.gateway, &shot, connections, Duration::from_secs(1)).await.context("warming up")?;

    let (mut floor, mut ours, mut control) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..run.rounds {
        floor.push(hashes(run.duration()).await?);
        let before = cost::cpu_us(&pids)?;
        let outcome = load::run(bed.gateway, &shot, connections, run.duration()).await?;
        ours.push(Round::of(&outcome, cost::cpu_us(&pids)? - before));
        control.push(hashes(run.duration()).await?);
    }
    let (floor, ours, control) = (report::medians(&floor), report::medians(&ours), report::medians(&control));
    report::heading(&format!(
        "POST {} at {connections} connections, {} rounds of {} s, JetStream sync {}; CPU without PostgreSQL's",
        shot.path,
        run.rounds,
        run.seconds,
        run.sync.name()
    ));
    report::line("floor: raw argon2id", floor, floor);
    report::line("floor again (control)", control, floor);
    report::line("trunkline: sign-ins", ours, floor);
    bed.stop().await
}

/// As many threads as there are cores, each hashing one password after the other into memory that it keeps.
#[expect(clippy::disallowed_methods, reason = "the floor has nothing of the kernel's")]
async fn hashes(duration: Duration) -> Result<Round> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let before = cost::cpu_us(&[std::process::id()])?;
    let start = Instant::now();
    let workers: Vec<_> =
        (0..threads).map(|_| tokio::task::spawn_blocking(move || hash_until(start + duration))).collect();
    let mut latencies = Vec::new();
    for worker in workers {
        latencies.extend(worker.await??);
    }
    let (took, count) = (start.elapsed().as_secs_f64(), latencies.len() as f64);
    latencies.sort_by(f64::total_cmp);
    let at = |quantile: f64| latencies.get((count * quantile) as usize).copied().unwrap_or(f64::NAN);
    Ok(Round {
        rate: count / took,
        p50_us: at(0.5),
        p99_us: at(0.99),
        cpu_us: (cost::cpu_us(&[std::process::id()])? - before) / count,
    })
}

fn hash_until(until: Instant) -> Result<Vec<f64>> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|error| anyhow!("argon2: {error}"))?;
    let mut memory = vec![argon2::Block::default(); params.block_count()];
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let (mut latencies, mut out) = (Vec::new(), [0; 32]);
    while Instant::now() < until {
        let start = Instant::now();
        argon2
            .hash_password_into_with_memory(b"correct horse battery staple", b"0123456789abcdef", &mut out, &mut memory)
            .map_err(|error| anyhow!("argon2: {error}"))?;
        latencies.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(latencies)
}
