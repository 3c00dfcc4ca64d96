//! One hop: client, gateway, broker, service and back, with a token that both ends have checked before.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures::FutureExt as _;

use super::bed::Bed;
use super::load::{self, Shot};
use super::report::{self, Round};
use super::{FLOOR_TOKEN, Run, cost};
use crate::platform::ports;
use crate::platform::process::{Readiness, Spec};
use crate::platform::supervisor::Process;

const READY_WITHIN: Duration = Duration::from_secs(30);
const PATH: &str = "/api/v1/users/me";

pub(super) async fn measure(run: &Run, connections: &[usize]) -> Result<()> {
    let bed = Bed::start(run, &["auth", "authz", "identity", "gateway"]).await?;
    let token = bed.sign_in().await?.access_token;
    let shot =
        Shot { method: http::Method::GET, path: PATH.to_owned(), token: Some(token.clone()), body: Bytes::new() };

    // The whole of it first, with identity's own query, so that it stands beside.
    let with_database = bed.pids(&["gateway", "identity"])?;
    let mut database_rounds = Vec::new();
    for _ in 0..run.rounds.min(3) {
        database_rounds.push(round(bed.gateway, &shot, connections[0], run, &with_database).await?);
    }

    let memory = exchange_identity(&bed).await?;
    let floor = Floor::start(&bed, &token).await?;
    let mut ours = bed.pids(&["gateway"])?;
    ours.push(memory.state().pid.context("it is ready")?);
    let floors = floor.pids(&bed)?;
    let floor_shot = shot.clone();
    for (address, shot) in [(bed.gateway, &shot), (floor.address, &floor_shot)] {
        load::run(address, shot, 8, Duration::from_secs(1)).await.context("warming up")?;
    }

    for &connections in connections {
        let (mut a, mut b, mut c) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..run.rounds {
            a.push(round(floor.address, &floor_shot, connections, run, &floors).await?);
            b.push(round(bed.gateway, &shot, connections, run, &ours).await?);
            c.push(round(floor.address, &floor_shot, connections, run, &floors).await?);
        }
        let (a, b, c) = (report::medians(&a), report::medians(&b), report::medians(&c));
        report::heading(&format!(
            "GET {PATH} at {connections} connections, {} rounds of {} s, JetStream sync {}",
            run.rounds,
            run.seconds,
            run.sync.name()
        ));
        report::line("floor: axum + async-nats", a, a);
        report::line("floor again (control)", c, a);
        report::line("trunkline: gateway + kernel", b, a);
    }
    let database = report::medians(&database_rounds);
    report::heading(&format!(
        "the same with identity's query, at {} connections (CPU without PostgreSQL's)",
        connections[0]
    ));
    report::line("trunkline: gateway + identity", database, database);

    report::say("\nresident memory");
    for process in bed.deployment.processes() {
        if let Some(pid) = process.state().pid {
            report::say(&format!("{:<34} {:>6.1} MiB", process.spec().name, cost::resident_mib(pid)?));
        }
    }
    memory.stop().await?;
    for process in &floor.processes {
        process.stop().await?;
    }
    bed.stop().await
}

async fn round(address: SocketAddr, shot: &Shot, connections: usize, run: &Run, pids: &[u32]) -> Result<Round> {
    let before = cost::cpu_us(pids)?;
    let outcome = load::run(address, shot, connections, run.duration()).await?;
    Ok(Round::of(&outcome, cost::cpu_us(pids)? - before))
}

/// Puts the same contract, answered from memory, in identity's place.
async fn exchange_identity(bed: &Bed) -> Result<Process> {
    let identity = bed.deployment.process("identity", 1)?;
    identity.stop().await?;
    let mut spec = identity.spec().clone();
    spec.program = std::env::current_exe()?;
    spec.args = ["bench", "serve", "identity"].map(OsString::from).to_vec();
    spec.env.retain(|name, _| !name.starts_with("TRUNKLINE_IDENTITY__") && !name.starts_with("TRUNKLINE_DATABASE"));
    let process = bed.deployment.supervisor().spawn(spec);
    process.ready(READY_WITHIN).await?;
    Ok(process)
}

/// The floor's pair, in an account of its own on the same broker.
struct Floor {
    address: SocketAddr,
    processes: Vec<Process>,
}

impl Floor {
    async fn start(bed: &Bed, token: &str) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::any()?));
        let account = bed.other_account()?;
        let url = bed.servers.nats_url();
        let key = |user| account.key_file(user).into_os_string();
        let service = [OsString::from("floor-service"), url.into(), key("identity")];
        let gateway = [OsString::from("floor-gateway"), address.to_string().into(), url.into(), key("gateway")];
        let mut processes = Vec::new();
        for (args, path) in [(service.to_vec(), None), (gateway.to_vec(), Some(PATH))] {
            let process = bed.servers.supervisor().spawn(part(bed, args, token, address, path)?);
            processes.push(process);
        }
        for process in &processes {
            process.ready(READY_WITHIN).await?;
        }
        Ok(Self { address, processes })
    }

    fn pids(&self, bed: &Bed) -> Result<Vec<u32>> {
        let mut pids = bed.pids(&[])?;
        for process in &self.processes {
            pids.push(process.state().pid.context("it is ready")?);
        }
        Ok(pids)
    }
}

/// A process of the floor's that serves no HTTP; ready at once.
pub(super) fn part_of(bed: &Bed, args: Vec<OsString>) -> Result<Spec> {
    part(bed, args, "", SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), None)
}

/// A process of the floor's; ready at once, or when a request for `path` succeeds.
fn part(bed: &Bed, args: Vec<OsString>, token: &str, address: SocketAddr, path: Option<&'static str>) -> Result<Spec> {
    let name = args[0].to_string_lossy().into_owned();
    let (client, bearer) = (reqwest::Client::new(), token.to_owned());
    let probe = move || {
        let (client, bearer) = (client.clone(), bearer.clone());
        async move {
            let Some(path) = path else { return true };
            let request = client.get(format!("http://{address}{path}")).bearer_auth(bearer);
            request.send().await.is_ok_and(|answer| answer.status().is_success())
        }
        .boxed()
    };
    let mut spec = bed.deployment.process("identity", 1)?.spec().clone();
    spec.log = spec.log.with_file_name(format!("{name}.log"));
    spec.name = name;
    spec.program = std::env::current_exe()?;
    spec.args = [OsString::from("bench"), "serve".into()].into_iter().chain(args).collect();
    spec.env = BTreeMap::from([(FLOOR_TOKEN.to_owned(), token.into())]);
    spec.sockets.clear();
    spec.readiness = Readiness::Probe(Arc::new(probe));
    Ok(spec)
}
