//! Decisions with many users, roles and permissions: over NATS beside the raw round trip of the same bytes, through the
//! gateway, and in process beside other engines.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use async_nats::{Client, HeaderMap, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use prost::Message as _;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use subjects::authz::v1::{CHECK, CheckReply, CheckRequest};
use subjects::wire::v1::{CallContext, call_context::Codec};
use tokio::process::Command;
use tokio::task::JoinSet;

use super::bed::Bed;
use super::load::{self, Outcome, Shot};
use super::report::{self, Round};
use super::{Run, cost, gateway};
use crate::platform::database::DATABASE;
use crate::platform::nats::client;
use crate::platform::supervisor::Process;

const ERROR_CODE: &str = "Nats-Service-Error-Code";

/// Roles of one user; permissions of one role, beside those that it alone has.
const ROLES_PER_USER: usize = 3;
const SHARED_PERMISSIONS: usize = 20;

/// Users who are asked about again and again.
const WARM_USERS: usize = 1_000;

/// Requests under way where the time of a first decision is measured: a service that is idle, and one that is busy, not overloaded.
const COLD_IN_FLIGHT: [usize; 2] = [1, 4];

/// How long the raw responder may take to be there.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// How much there is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) users: usize,
    pub(super) roles: usize,
    pub(super) permissions: usize,
}

pub(super) async fn measure(run: &Run, size: Size, in_flight: &[usize]) -> Result<()> {
    ensure!(size.users > WARM_USERS && size.roles > ROLES_PER_USER && size.permissions >= size.roles, "too few");
    let bed = Bed::start(run, &["auth", "authz", "identity", "gateway"]).await?;
    let token = bed.sign_in().await?.access_token;
    let pid = bed.deployment.process("authz", 1)?.state().pid.context("authz runs")?;
    let empty = cost::resident_mib(pid)?;
    fill(&bed, &token, size).await?;
    report::say(&format!(
        "decisions with {} users of {ROLES_PER_USER} roles, {} roles, {} permissions",
        size.users, size.roles, size.permissions
    ));

    let ours = Asker::connect(&bed, &token, size, false).await?;
    let raw = Floor::start(&bed, &token, size).await?;
    ours.once(0).await.context("the first decision")?; // Reads the policy.
    let mut next = 1;
    for in_flight in COLD_IN_FLIGHT {
        next = for_the_first_time(&bed, run, &raw, &ours, next, in_flight).await?;
    }
    ours.all().await?;
    let full = cost::resident_mib(pid)?;
    report::say(&format!(
        "\nmemory of authz: {empty:.0} MiB at its start, {full:.0} MiB after a question about every user"
    ));

    for &in_flight in in_flight {
        from_what_is_kept(&bed, run, &raw, &ours, in_flight).await?;
    }
    raw.responder.stop().await?;
    through_the_gateway(&bed, run, &token).await?;
    bed.stop().await?;
    in_process(run, size).await
}

/// Puts the data in place, then makes a role as a person does, so that every process hears of a change.
async fn fill(bed: &Bed, token: &str, size: Size) -> Result<()> {
    let Size { users, roles, permissions } = size;
    let mut database = PgConnection::connect(bed.servers.databases().superuser_url(DATABASE).expose()).await?;
    let permission = |n: &str| format!("'s' || {n} / 100 || '.r' || {n} / 10 % 10 || '.a' || {n} % 10");
    for statement in [
        format!("INSERT INTO authz.roles SELECT 'r' || n, '', false, now(), now() FROM generate_series(0, {roles} - 1) n"),
        format!(
            "INSERT INTO authz.role_permissions SELECT 'r' || n % {roles}, {} FROM generate_series(0, {permissions} - 1) n",
            permission("n")
        ),
        format!(
            "INSERT INTO authz.role_permissions SELECT 'r' || r, {} FROM (
                 SELECT r, (r * 7919 + k * 104729) % {permissions} AS n
                 FROM generate_series(0, {roles} - 1) r, generate_series(1, {SHARED_PERMISSIONS}) k) s
             ON CONFLICT DO NOTHING",
            permission("n")
        ),
        format!(
            "INSERT INTO identity.users SELECT {}, 'u' || n || '@example.org', 'u' || n || '@example.org', 'U', 'ACTIVE',
                 false, now(), now() FROM generate_series(0, {users} - 1) n",
            user_id_in_sql("n")
        ),
        format!(
            "INSERT INTO identity.user_roles SELECT {}, 'r' || (n * (2 * k + 1) + k) % {roles}, now()
             FROM generate_series(0, {users} - 1) n, generate_series(0, {ROLES_PER_USER} - 1) k ON CONFLICT DO NOTHING",
            user_id_in_sql("n")
        ),
        // What PostgreSQL would do of itself in the minutes after, while decisions are measured.
        "VACUUM ANALYZE".to_owned(),
        "CHECKPOINT".to_owned(),
    ] {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut database).await.context("filling the database")?;
    }
    let made = reqwest::Client::new()
        .post(format!("http://{}/api/v1/roles", bed.gateway))
        .bearer_auth(token)
        .header("Content-Type", "application/json")
        .body(r#"{"name":"bench"}"#)
        .send()
        .await?;
    made.error_for_status().context("making a role")?;
    Ok(())
}

fn user_id_in_sql(n: &str) -> String {
    format!("('00000000-0000-7000-8000-' || lpad(to_hex({n}), 12, '0'))::uuid")
}

/// Asks `Check` as our own processes do: protobuf, with the context in one header.
struct Asker {
    client: Client,
    headers: HeaderMap,
    size: Size,
}

impl Asker {
    /// In the platform's account, or beside it where the raw responder is.
    async fn connect(bed: &Bed, token: &str, size: Size, raw: bool) -> Result<Arc<Self>> {
        let account = if raw { bed.other_account()? } else { &bed.deployment.options().account };
        let client = client::connect(bed.servers.nats_url(), &account.key_file("gateway"), "gateway").await?;
        let context = CallContext { codec: Codec::Protobuf.into(), timeout_ms: 5_000, ..CallContext::default() };
        let value = format!("{}.{token}", STANDARD_NO_PAD.encode(context.encode_to_vec()));
        let mut headers = HeaderMap::new();
        headers.append(subjects::subject::CONTEXT_HEADER, value.parse::<HeaderValue>()?);
        Ok(Arc::new(Self { client, headers, size }))
    }

    /// A question about a user: one of their own permissions, or mostly another's.
    fn question(&self, user: usize) -> Bytes {
        let Size { roles, permissions, .. } = self.size;
        let n = if user.is_multiple_of(2) { user % roles } else { user * 31 % permissions };
        let request = CheckRequest {
            user_id: format!("00000000-0000-7000-8000-{user:012x}"),
            permission: format!("s{}.r{}.a{}", n / 100, n / 10 % 10, n % 10),
            consistency_token: String::new(),
        };
        request.encode_to_vec().into()
    }

    async fn once(&self, user: usize) -> Result<()> {
        let answer = self.client.request_with_headers(CHECK.subject, self.headers.clone(), self.question(user)).await?;
        match answer.headers.as_ref().and_then(|headers| headers.get(ERROR_CODE)) {
            None => Ok(()),
            Some(code) => bail!("an answer was {code}: {}", String::from_utf8_lossy(&answer.payload)),
        }
    }

    /// Closed loops about the users that `user` names for each loop's steps, until it names none or time is up.
    async fn run(
        self: &Arc<Self>,
        in_flight: usize,
        duration: Duration,
        user: impl Fn(usize, usize) -> Option<usize> + Copy + Send + 'static,
    ) -> Result<Outcome> {
        let start = Instant::now();
        let mut loops = JoinSet::new();
        for number in 0..in_flight {
            let asker = Arc::clone(self);
            loops.spawn(async move {
                let mut latency = load::histogram();
                for step in 0.. {
                    let Some(user) = user(number, step) else { break };
                    let sent = Instant::now();
                    if sent >= start + duration {
                        break;
                    }
                    asker.once(user).await?;
                    load::record(&mut latency, sent.elapsed())?;
                }
                anyhow::Ok(latency)
            });
        }
        let mut latency = load::histogram();
        while let Some(done) = loops.join_next().await {
            latency.add(done??)?;
        }
        Ok(Outcome { answers: latency.len(), took: start.elapsed(), latency })
    }

    /// Users from `first` on, each for the first time.
    async fn cold(self: &Arc<Self>, first: usize, in_flight: usize, duration: Duration) -> Result<Outcome> {
        let users = self.size.users;
        self.run(in_flight, duration, move |number, step| {
            Some(first + number + step * in_flight).filter(|user| *user < users)
        })
        .await
    }

    /// Each user.
    async fn all(self: &Arc<Self>) -> Result<()> {
        let users = self.size.users;
        let each = move |number, step| Some(number + step * 32).filter(|user| *user < users);
        self.run(32, Duration::from_hours(1), each).await.map(|_| ())
    }

    /// The same users again and again.
    async fn warm(self: &Arc<Self>, in_flight: usize, duration: Duration) -> Result<Outcome> {
        self.run(in_flight, duration, |number, step| Some((number * 37 + step) % WARM_USERS)).await
    }
}

/// Who answers the same bytes and does nothing else, and who asks it.
struct Floor {
    asker: Arc<Asker>,
    responder: Process,
}

impl Floor {
    async fn start(bed: &Bed, token: &str, size: Size) -> Result<Self> {
        let url = OsString::from(bed.servers.nats_url());
        let key = bed.other_account()?.key_file("authz").into_os_string();
        let responder = bed.servers.supervisor().spawn(gateway::part_of(bed, vec!["floor-authz".into(), url, key])?);
        let asker = Asker::connect(bed, token, size, true).await?;
        let began = Instant::now();
        while asker.once(0).await.is_err() {
            ensure!(began.elapsed() < READY_WITHIN, "the raw responder does not come");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Self { asker, responder })
    }

    /// The broker, and who answers.
    fn pids(&self, bed: &Bed) -> Result<Vec<u32>> {
        Ok([bed.pids(&[])?, vec![self.responder.state().pid.context("it answers")?]].concat())
    }
}

/// Decisions about users who were not asked about before, from `first` on, by turns with the raw round trip: what makes the one slow for
/// a moment makes the other slow. Says who was not asked about yet.
async fn for_the_first_time(
    bed: &Bed,
    run: &Run,
    raw: &Floor,
    ours: &Arc<Asker>,
    first: usize,
    in_flight: usize,
) -> Result<usize> {
    let raw_pids = raw.pids(bed)?;
    let our_pids = bed.pids(&["authz", "identity"])?;
    let (mut floor, mut decided) = (Vec::new(), Vec::new());
    let mut next = first;
    for _ in 0..run.rounds {
        let before = cost::cpu_us(&raw_pids)?;
        let outcome = raw.asker.warm(in_flight, run.duration()).await?;
        floor.push(Round::of(&outcome, cost::cpu_us(&raw_pids)? - before));
        let before = cost::cpu_us(&our_pids)?;
        let outcome = ours.cold(next, in_flight, run.duration()).await?;
        decided.push(Round::of(&outcome, cost::cpu_us(&our_pids)? - before));
        next += usize::try_from(outcome.answers)? + in_flight;
    }
    let (floor, decided) = (report::medians(&floor), report::medians(&decided));
    report::heading(&format!(
        "Check of a user for the first time, {in_flight} under way, {} rounds of {} s, {} users; CPU of services and broker",
        run.rounds,
        run.seconds,
        next - first
    ));
    report::line("floor: raw NATS, same bytes", floor, floor);
    report::line("authz: Check, not kept", decided, floor);
    Ok(next)
}

/// Decisions from what is kept, by turns with the raw round trip of the same bytes.
async fn from_what_is_kept(bed: &Bed, run: &Run, raw: &Floor, ours: &Arc<Asker>, in_flight: usize) -> Result<()> {
    let raw_pids = raw.pids(bed)?;
    let our_pids = bed.pids(&["authz"])?;
    for asker in [&raw.asker, ours] {
        asker.warm(in_flight, Duration::from_secs(1)).await.context("warming up")?;
    }

    let round = async |asker: &Arc<Asker>, pids: &[u32]| -> Result<Round> {
        let before = cost::cpu_us(pids)?;
        let outcome = asker.warm(in_flight, run.duration()).await?;
        Ok(Round::of(&outcome, cost::cpu_us(pids)? - before))
    };
    let (mut floor, mut decided, mut control) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..run.rounds {
        floor.push(round(&raw.asker, &raw_pids).await?);
        decided.push(round(ours, &our_pids).await?);
        control.push(round(&raw.asker, &raw_pids).await?);
    }
    let (floor, decided, control) = (report::medians(&floor), report::medians(&decided), report::medians(&control));
    report::heading(&format!(
        "Check from what is kept, {in_flight} under way, {} rounds of {} s; CPU of service and broker",
        run.rounds, run.seconds
    ));
    report::line("floor: raw NATS, same bytes", floor, floor);
    report::line("floor again (control)", control, floor);
    report::line("authz: Check, kept", decided, floor);
    Ok(())
}

/// How often authz is asked while the gateway passes on requests that need a permission.
async fn through_the_gateway(bed: &Bed, run: &Run, token: &str) -> Result<()> {
    let shot = Shot {
        method: http::Method::GET,
        path: "/api/v1/users?pageSize=1".to_owned(),
        token: Some(token.to_owned()),
        body: Bytes::new(),
    };
    load::run(bed.gateway, &shot, 1, Duration::from_millis(200)).await.context("warming up")?;
    let before = asked(bed).await?;
    let outcome = load::run(bed.gateway, &shot, 16, run.duration()).await?;
    report::say(&format!(
        "\nGET /api/v1/users through gateway and identity: {} requests behind a permission, for which authz was asked {} times",
        outcome.answers,
        asked(bed).await? - before
    ));
    Ok(())
}

/// Calls of `Authorize` by identity so far.
async fn asked(bed: &Bed) -> Result<f64> {
    let url = bed.deployment.process("identity", 1)?.state().status.admin_url.context("identity has an admin port")?;
    let text = reqwest::get(format!("{url}/metrics")).await?.text().await?;
    let calls = text.lines().filter(|line| !line.starts_with('#') && line.contains("svc.authz.v1.authorize"));
    Ok(calls.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
}

/// Runs the oracle's rates where this is a clone of the repository, else says how.
async fn in_process(run: &Run, size: Size) -> Result<()> {
    let numbers = [size.users, size.roles, size.permissions].map(|number| number.to_string());
    let seconds = run.seconds.to_string();
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let manifest =
        package.iter().flat_map(|package| package.ancestors()).map(|folder| folder.join("oracle/Cargo.toml"));
    let Some(manifest) = manifest.into_iter().find(|manifest| manifest.is_file()) else {
        report::say(&format!(
            "\nin process: cargo run --release --manifest-path oracle/Cargo.toml --example rates -- {} {seconds}",
            numbers.join(" ")
        ));
        return Ok(());
    };
    report::say("");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["run", "--quiet", "--release", "--manifest-path"]).arg(manifest).args(["--example", "rates", "--"]);
    // Its build has other features than ours and must not take the place of it.
    command.env_remove("CARGO_TARGET_DIR");
    let status = command.args(numbers).arg(seconds).status().await.context("running cargo")?;
    ensure!(status.success(), "the rates in process could not be measured");
    Ok(())
}

/// The raw responder's answer.
pub(super) fn reply() -> Bytes {
    CheckReply { allowed: true }.encode_to_vec().into()
}
