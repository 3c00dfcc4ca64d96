//! The audit log: how fast it takes a backlog in, how fast an export of it is verified, and what a page of a filtered list
//! costs in a log of a million entries.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use async_nats::jetstream;
use futures::StreamExt as _;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::bed::Bed;
use super::load::{self, Shot};
use super::{Run, report};
use crate::platform::database::DATABASE;
use crate::platform::nats::client;
use crate::platform::supervisor::Process;

/// Publications whose acknowledgement is awaited at once.
const PUBLISHED_MAX: usize = 256;

/// How often the log is looked at while it grows.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// The longest a backlog may take.
const INGEST_MAX: Duration = Duration::from_mins(10);

pub(super) async fn measure(run: &Run, records: u32, entries: u32) -> Result<()> {
    let bed = Bed::start(run, &["auth", "authz", "audit", "identity", "gateway"]).await?;
    let token = bed.sign_in().await?.access_token;
    let mut database = PgConnection::connect(bed.servers.databases().superuser_url(DATABASE).expose()).await?;
    report::say(&format!("audit log, JetStream sync {}", run.sync.name()));

    let audit = bed.deployment.process("audit", 1)?;
    let rate = ingest(&bed, audit, records, &mut database).await?;
    report::say(&format!("ingest of a backlog of {records} records: {rate:.0} entries/s"));

    let file = bed.servers.data().join("export.ndjson");
    let began = Instant::now();
    export(&bed, &token, &file).await?;
    let took = began.elapsed().as_secs_f64();
    let megabytes = std::fs::metadata(&file)?.len() as f64 / 1e6;
    report::say(&format!("export over HTTP: {megabytes:.0} MB in {took:.1} s"));
    let mut rates = Vec::new();
    for _ in 0..run.rounds {
        let began = Instant::now();
        let lines = std::io::BufReader::with_capacity(1 << 20, std::fs::File::open(&file)?);
        let checked = proof::verify_lines(lines, &[])?;
        if !checked.findings.is_empty() {
            bail!("the export does not hold: {:?}", checked.findings.first());
        }
        rates.push(checked.entries as f64 / began.elapsed().as_secs_f64());
    }
    report::say(&format!("verified offline: {:.0} entries/s (median of {})", report::median(rates), run.rounds));

    fill(&mut database, entries).await?;
    report::say(&format!("\npages of 50 with {entries} entries, one connection, {} s each", run.seconds));
    for filter in FILTERS {
        let path = format!("/api/v1/audit/entries?{filter}");
        let shot = Shot { method: http::Method::GET, path, token: Some(token.clone()), body: bytes::Bytes::new() };
        let outcome = load::run(bed.gateway, &shot, 1, run.duration()).await?;
        let at = |quantile: f64| outcome.latency.value_at_quantile(quantile) as f64 / 1e3;
        let what = if filter.is_empty() { "(no filter)" } else { filter };
        report::say(&format!("{what:<72} p50 {:>7.2} ms  p99 {:>7.2} ms", at(0.5), at(0.99)));
    }
    bed.stop().await
}

/// Common and rare values, alone and together, and times from end to end.
const FILTERS: &[&str] = &[
    "",
    "actor=actor-7",
    "actor=actor-common",
    "action=bench.thing.done",
    "action=bench.rare.*",
    "action=bench.thing.*",
    "target=target-4711",
    "outcome=DENIED",
    "outcome=FAILURE&actor=actor-common",
    "actor=actor-7&action=bench.rare.done",
    "actor=actor-common&action=bench.rare.done&outcome=DENIED",
    "from=2020-01-01T00:00:00Z&to=2020-01-01T01:00:00Z",
    "from=2020-01-06T00:00:00Z&to=2020-01-07T00:00:00Z",
    "to=2020-01-06T00:00:00Z&outcome=FAILURE",
    "from=2020-01-03T00:00:00Z&to=2020-01-03T00:10:00Z&actor=actor-common",
    "actor=nobody",
];

/// Lets a backlog gather while audit is away, and says how many entries a second it becomes.
async fn ingest(bed: &Bed, audit: &Process, records: u32, database: &mut PgConnection) -> Result<f64> {
    audit.stop().await?;
    let account = &bed.deployment.options().account;
    let client = client::connect(bed.servers.nats_url(), &account.key_file("identity"), "identity").await?;
    let jetstream = jetstream::new(client);
    let mut stored = futures::stream::iter(0..records)
        .map(|number| {
            let jetstream = jetstream.clone();
            async move {
                let (id, body) = record(number);
                let mut headers = async_nats::HeaderMap::new();
                headers.append(async_nats::header::NATS_MESSAGE_ID, id.parse::<async_nats::HeaderValue>()?);
                let subject = "audit.identity.user.updated";
                jetstream.publish_with_headers(subject, headers, body.into()).await?.await?;
                anyhow::Ok(())
            }
        })
        .buffer_unordered(PUBLISHED_MAX);
    while let Some(stored) = stored.next().await {
        stored.context("publishing a record")?;
    }

    let before = head(database).await?;
    audit.start().await?;
    let (mut began, mut first) = (None, before);
    let given_up = Instant::now() + INGEST_MAX;
    loop {
        let head = head(database).await?;
        if began.is_none() && head > before {
            (began, first) = (Some(Instant::now()), head);
        }
        if let Some(began) = began.filter(|_| head >= before + i64::from(records)) {
            return Ok((head - first) as f64 / began.elapsed().as_secs_f64());
        }
        if Instant::now() > given_up {
            bail!("the backlog was not taken in within {INGEST_MAX:?}");
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn record(number: u32) -> (String, String) {
    let id = format!("0197f000-0000-7000-8000-{number:012}");
    let body = serde_json::json!({
        "id": id,
        "time": "2026-01-31T23:59:59.123456Z",
        "actor": { "type": "USER", "id": format!("0197f000-0000-7000-8000-{:012}", number % 1_000) },
        "target": { "type": "user", "id": format!("0197f000-0000-7000-8000-{:012}", number % 10_000) },
        "outcome": "SUCCESS",
        "ipAddress": "192.0.2.1",
        "userAgent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        "requestId": format!("0197f000-0000-7000-8000-{number:012}"),
        "traceId": "0af7651916cd43dd8448eb211c80319c",
        "details": { "userId": format!("0197f000-0000-7000-8000-{:012}", number % 10_000), "roles": ["auditor"] },
    });
    (id, body.to_string())
}

async fn head(database: &mut PgConnection) -> Result<i64> {
    let head = sqlx::query_scalar("SELECT coalesce(max(sequence), 0) FROM audit.entries").fetch_one(database);
    head.await.context("looking at the log")
}

async fn export(bed: &Bed, token: &str, file: &std::path::Path) -> Result<()> {
    let url = format!("http://{}/api/v1/audit/export", bed.gateway);
    let mut answer = reqwest::Client::new().get(url).bearer_auth(token).send().await?.error_for_status()?;
    let mut file = std::io::BufWriter::new(std::fs::File::create(file)?);
    while let Some(chunk) = answer.chunk().await? {
        std::io::Write::write_all(&mut file, &chunk)?;
    }
    std::io::Write::flush(&mut file)?;
    Ok(())
}

/// Puts so many entries behind the head: rows as the service writes them, but for their hashes, which no list looks at.
/// Times go from the first of 2020 on, a second each; one actor in two is common, one action in a thousand rare.
async fn fill(database: &mut PgConnection, entries: u32) -> Result<()> {
    let head = head(database).await?;
    let last = head + i64::from(entries);
    for statement in [
        format!("SELECT audit.make_segments(1000000, {entries} + 100000)"),
        format!(
            "INSERT INTO audit.entries
             SELECT {head} + i, gen_random_uuid(), timestamptz '2020-01-01T00:00:00Z' + i * interval '1 second', 'USER',
                    CASE WHEN i % 2 = 0 THEN 'actor-common' ELSE 'actor-' || i % 1000 END,
                    CASE WHEN i % 1000 = 7 THEN 'bench.rare.done' WHEN i % 3 = 0 THEN 'bench.thing.done'
                         ELSE 'bench.thing.seen' END,
                    'thing', 'target-' || i % 100000,
                    CASE WHEN i % 5000 = 0 THEN 'FAILURE' WHEN i % 2000 = 1 THEN 'DENIED' ELSE 'SUCCESS' END,
                    gen_random_uuid()::text, '0af7651916cd43dd8448eb211c80319c',
                    '{{\"userId\":\"0197f000-0000-7000-8000-000000000001\",\"roles\":[\"auditor\"]}}',
                    sha256('personal'), sha256('before'), sha256('entry')
             FROM generate_series(1, {entries}) AS i"
        ),
        format!(
            "INSERT INTO audit.personal
             SELECT {head} + i, substr(sha256('salt'), 1, 16), '192.0.2.1', 'Mozilla/5.0', '', ''
             FROM generate_series(1, {entries}) AS i"
        ),
        format!(
            "INSERT INTO audit.stretches
             SELECT min(sequence), max(sequence), min(time), max(time) FROM audit.entries
             WHERE (sequence - 1) / 1000 >= {head} / 1000 AND sequence <= {last} / 1000 * 1000
             GROUP BY (sequence - 1) / 1000"
        ),
        "VACUUM ANALYZE audit.entries, audit.personal".to_owned(),
    ] {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *database).await.context("filling the log")?;
    }
    Ok(())
}
