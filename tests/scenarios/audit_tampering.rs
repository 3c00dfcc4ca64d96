//! Whoever tampers with the database behind the service's back is found out, by the service and by anybody who has an
//! export and the public key; erasing what is personal is not tampering.

use platform_tests::{Platform, Setup, Signal, http::Http, people::Person, wait};
use proof::{Checkpoint, Kind, PublicKey};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgConnection};

type Found = Vec<(i64, String)>;

#[tokio::test]
async fn each_change_behind_the_services_back_is_found_where_it_is() {
    let platform = signed_often().start().await;
    let admin = platform.admin().await;
    log_of(&platform, 60).await;
    let mut superuser = Tamperer::new(&platform).await;
    assert_eq!(found(&admin).await, []);
    let key = public_key(&admin).await;

    let mut expected: Found = Vec::new();
    for (statements, findings) in [
        ("UPDATE audit.entries SET outcome = 'DENIED' WHERE sequence = 5", vec![(5, "ALTERED")]),
        ("UPDATE audit.personal SET ip_address = '203.0.113.9' WHERE sequence = 8", vec![(8, "ALTERED")]),
        ("DELETE FROM audit.entries WHERE sequence = 12", vec![(12, "MISSING")]),
        (
            "UPDATE audit.entries SET sequence = 1000000 WHERE sequence = 20;
             UPDATE audit.entries SET sequence = 20 WHERE sequence = 30;
             UPDATE audit.entries SET sequence = 30 WHERE sequence = 1000000",
            vec![(20, "REORDERED"), (30, "REORDERED")],
        ),
        (
            "UPDATE audit.entries SET sequence = 100000 + sequence WHERE sequence >= 40;
             UPDATE audit.entries SET sequence = sequence - 99999 WHERE sequence > 100000;
             UPDATE audit.personal SET sequence = 100000 + sequence WHERE sequence >= 40;
             UPDATE audit.personal SET sequence = sequence - 99999 WHERE sequence > 100000;
             INSERT INTO audit.entries SELECT 40, gen_random_uuid(), time, actor_type, 'mallory', action, target_type,
                    target_id, outcome, request_id, trace_id, details, personal_digest, previous_hash, hash
             FROM audit.entries WHERE sequence = 41",
            vec![(40, "INSERTED")],
        ),
    ] {
        superuser.tamper(statements).await;

        expected.extend(findings.into_iter().map(|(sequence, kind)| (sequence, kind.to_owned())));
        expected.sort();
        assert_eq!(found(&admin).await, expected, "by the service, after {statements}");
        assert_eq!(found_offline(&export(&admin, "").await, key), expected, "offline, after {statements}");
    }
}

#[tokio::test]
async fn tail_that_is_cut_off_is_found_by_the_bucket_also_when_the_log_grows_again() {
    let platform = signed_often().start().await;
    let admin = platform.admin().await;
    log_of(&platform, 30).await;
    let head = signed_head(&platform).await;
    let whole = export(&admin, "").await;
    platform.settled().await;
    let audit = platform.process("audit", 1);
    audit.stop().await.unwrap();

    let mut superuser = Tamperer::new(&platform).await;
    let cut = head - 5;
    superuser.tamper(&format!("DELETE FROM audit.entries WHERE sequence > {cut}")).await;
    superuser.tamper(&format!("DELETE FROM audit.checkpoints WHERE sequence > {cut}")).await;
    audit.start().await.unwrap();
    audit.ready(wait::WAIT_MAX).await.unwrap();

    assert_eq!(found(&admin).await, [(cut + 1, "TRUNCATED".to_owned())]);
    log_of(&platform, head + 20).await;
    let grown = found(&admin).await;
    assert!(matches!(&grown[..], [(sequence, kind)] if *sequence > cut && kind == "ALTERED"), "{grown:?}");

    // Of an export, with its last line and without it.
    let key = public_key(&admin).await;
    let lines: Vec<&str> = whole.lines().collect();
    let (last, entries) = lines.split_last().unwrap();
    let kept = i64::try_from(entries.len()).unwrap() - 5;
    let cut: Vec<&str> = entries[..entries.len() - 5].to_vec();
    assert_eq!(found_offline(&cut.join("\n"), key), [(kept + 1, "TRUNCATED".to_owned())]);
    let with_last = [&cut[..], &[*last]].concat().join("\n");
    assert_eq!(found_offline(&with_last, key), [(kept + 1, "TRUNCATED".to_owned())]);
    assert_eq!(found_offline(&whole, key), []);
}

#[tokio::test]
async fn erasing_what_is_personal_leaves_every_verification_valid() {
    let platform = signed_often().start().await;
    let admin = platform.admin().await;
    log_of(&platform, 20).await;
    let mut audit = platform.role("audit").await;

    let erased = sqlx::raw_sql("DELETE FROM audit.personal WHERE sequence BETWEEN 3 AND 9").execute(&mut audit).await;

    assert_eq!(erased.unwrap().rows_affected(), 7);
    assert_eq!(found(&admin).await, []);
    let export = export(&admin, "").await;
    assert_eq!(found_offline(&export, public_key(&admin).await), []);
    let entry: Value = serde_json::from_str(export.lines().nth(4).unwrap()).unwrap();
    for field in ["/ipAddress", "/userAgent", "/personalSalt", "/actorName", "/targetName"] {
        assert_eq!(entry.pointer(field), Some(&json!("")), "{field}");
    }
    assert_eq!(entry["sequence"], "5");
    let one = admin.get(&format!("/api/v1/audit/entries/{}", entry["id"].as_str().unwrap())).await.json(200);
    assert_eq!(one, entry);
}

#[tokio::test]
async fn checkpoint_that_was_not_signed_with_the_key_is_found() {
    let platform = signed_often().start().await;
    let admin = platform.admin().await;
    log_of(&platform, 20).await;
    let head = signed_head(&platform).await;
    let mut superuser = Tamperer::new(&platform).await;

    let forge = "UPDATE audit.checkpoints SET signature = decode(repeat('00', 64), 'hex') WHERE sequence =";
    superuser.tamper(&format!("{forge} {head}")).await;

    assert_eq!(found(&admin).await, [(head, "BAD_SIGNATURE".to_owned())]);
    let export = export(&admin, "").await;
    let other = PublicKey([7; 32]);
    let report = proof::verify_lines(export.as_bytes(), &[other]).unwrap();
    assert_eq!(report.findings[0].kind, Kind::BadSignature);
}

#[tokio::test]
async fn bucket_that_lost_old_checkpoints_gets_them_back_from_the_table() {
    let platform = signed_often().own_servers().start().await;
    log_of(&platform, 30).await;
    signed_head(&platform).await;
    let audit = platform.process("audit", 1);
    audit.stop().await.unwrap();

    // Made two days ago, as far as anybody can tell: the outbox has nothing of them any more.
    let mut superuser = Tamperer::new(&platform).await;
    superuser.tamper("UPDATE audit.checkpoints SET time = time - interval '2 days'").await;
    superuser.tamper("DELETE FROM audit.outbox WHERE stream = 'KV_checkpoints'").await;
    superuser.tamper("DELETE FROM audit.outbox_marks WHERE stream = 'KV_checkpoints'").await;
    let signed: Vec<String> = sqlx::query_scalar("SELECT sequence::text FROM audit.checkpoints ORDER BY sequence")
        .fetch_all(&mut superuser.0)
        .await
        .unwrap();
    let nats = platform.process("nats-server", 1);
    let starts = nats.state().starts;
    wait::until("the store is deleted", async || std::fs::remove_dir_all(platform.stream_store()).ok()).await;
    nats.signal(Signal::KILL).await.unwrap();
    wait::until("the broker is back", async || (nats.state().starts > starts).then_some(())).await;
    platform.make_streams().await;
    audit.start().await.unwrap();
    audit.ready(wait::WAIT_MAX).await.unwrap();

    assert!(signed.len() > 2, "{signed:?}");
    let ops = platform.user("ops").connect().await;
    wait::until("every checkpoint is in the bucket again", async || {
        let request = json!({ "subjects_filter": "$KV.checkpoints.>" }).to_string();
        let answer = ops.client.request("$JS.API.STREAM.INFO.KV_checkpoints", request.into()).await.ok()?;
        let info: Value = serde_json::from_slice(&answer.payload).unwrap();
        let kept = info["state"]["subjects"].as_object()?;
        signed.iter().all(|sequence| kept.contains_key(&format!("$KV.checkpoints.{sequence}"))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn whole_segments_under_a_checkpoint_are_dropped_and_leave_their_proof() {
    let setup = signed_often().set("audit.segment_entries", "1000").set("audit.retention_s", "1");
    let platform = setup.start().await;
    let admin = platform.admin().await;
    hand_over_many(&platform, 2_500).await;
    let mut superuser = platform.superuser().await;

    let dropped: i64 = wait::until("two segments are dropped", async || {
        let last = sqlx::query_scalar("SELECT max(last_sequence) FROM audit.dropped_segments");
        let last: Option<i64> = last.fetch_one(&mut superuser).await.unwrap();
        last.filter(|last| *last >= 2_000)
    })
    .await;

    let first: i64 =
        sqlx::query_scalar("SELECT min(sequence) FROM audit.entries").fetch_one(&mut superuser).await.unwrap();
    assert_eq!((dropped, first), (2_000, 2_001), "whole ones, and no other");
    assert_eq!(found(&admin).await, []);
    assert_eq!(found_offline(&export(&admin, "").await, public_key(&admin).await), []);
    let mut audit = platform.role("audit").await;
    for refused in
        ["DELETE FROM audit.dropped_segments", "DROP TABLE audit.entries_2001", "DELETE FROM audit.entries_2001"]
    {
        assert!(sqlx::raw_sql(AssertSqlSafe(refused)).execute(&mut audit).await.is_err(), "{refused}");
    }
}

/// Signed soon, so that no test waits for it.
fn signed_often() -> Setup {
    Setup::new().set("audit.checkpoint_entries", "7").set("audit.checkpoint_interval_ms", "200")
}

/// Waits until the log has this many entries and nothing is under way.
async fn log_of(platform: &Platform, entries: i64) {
    let http = platform.http();
    let mut superuser = platform.superuser().await;
    loop {
        platform.settled().await;
        let head = sqlx::query_scalar("SELECT coalesce(max(sequence), 0) FROM audit.entries");
        let head: i64 = head.fetch_one(&mut superuser).await.unwrap();
        if head >= entries {
            return;
        }
        for _ in head..entries {
            Person::registered(&http).await;
        }
    }
}

/// Records as the identity service hands them over, many at once.
async fn hand_over_many(platform: &Platform, number: u32) {
    let broker = platform.user("identity").connect().await;
    let jetstream = async_nats::jetstream::new(broker.client);
    let mut stored = Vec::new();
    for number in 0..number {
        let record = json!({
            "id": format!("0197f000-0000-7000-8000-{number:012}"),
            "time": "2026-01-31T23:59:59Z",
            "actor": { "type": "USER", "id": "ann" },
            "outcome": "SUCCESS",
        });
        stored.push(jetstream.publish("audit.identity.user.created", record.to_string().into()).await.unwrap());
    }
    for stored in stored {
        stored.await.unwrap();
    }
}

/// The end of the log, once it is signed and the checkpoint stands in the bucket.
async fn signed_head(platform: &Platform) -> i64 {
    let mut superuser = platform.superuser().await;
    wait::until("the end is signed", async || {
        platform.settled().await;
        sqlx::query_scalar(
            "SELECT max(sequence) FROM audit.entries HAVING max(sequence) = (SELECT max(sequence) FROM audit.checkpoints)",
        )
        .fetch_optional(&mut superuser)
        .await
        .unwrap()
    })
    .await
}

/// What the service finds.
async fn found(admin: &Http) -> Found {
    let mut found = Found::new();
    let mut page_token = String::new();
    loop {
        let report = admin.post("/api/v1/audit/verify", &json!({ "pageToken": page_token })).await.json(200);
        let problems = report["problems"].as_array().unwrap();
        assert_eq!(report["valid"], problems.is_empty(), "{report}");
        found.extend(problems.iter().map(|problem| {
            let sequence = problem["sequence"].as_str().unwrap().parse().unwrap();
            (sequence, problem["kind"].as_str().unwrap().to_owned())
        }));
        report["nextPageToken"].as_str().unwrap().clone_into(&mut page_token);
        if page_token.is_empty() {
            return found;
        }
    }
}

fn found_offline(export: &str, key: PublicKey) -> Found {
    let report = proof::verify_lines(export.as_bytes(), &[key]).unwrap();
    report.findings.into_iter().map(|finding| (finding.sequence, finding.kind.to_string())).collect()
}

async fn export(admin: &Http, query: &str) -> String {
    let reply = admin.get(&format!("/api/v1/audit/export{query}")).await;
    assert_eq!((reply.status, reply.header("content-type")), (200, "application/x-ndjson"), "{reply:?}");
    reply.body
}

async fn public_key(admin: &Http) -> PublicKey {
    let checkpoints = admin.get("/api/v1/audit/checkpoints?pageSize=1").await.json(200);
    Checkpoint::from_json(checkpoints["items"][0].to_string().as_bytes()).unwrap().public_key
}

/// A superuser with the triggers out of the way.
struct Tamperer(PgConnection);

impl Tamperer {
    async fn new(platform: &Platform) -> Self {
        Self(platform.superuser().await)
    }

    async fn tamper(&mut self, statements: &str) {
        let tables = ["entries", "personal", "checkpoints"];
        let triggers =
            |verb: &str| tables.map(|table| format!("ALTER TABLE audit.{table} {verb} TRIGGER ALL;")).concat();
        let all = format!("BEGIN; {} {statements}; {} COMMIT", triggers("DISABLE"), triggers("ENABLE"));
        sqlx::raw_sql(AssertSqlSafe(all)).execute(&mut self.0).await.unwrap();
    }
}
