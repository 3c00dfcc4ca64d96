//! Checks the store, a part at each call: first the chain from its beginning, or from what is left of dropped segments,
//! against the checkpoints in the store; then every checkpoint in the bucket against the chain.
//!
//! What is written meanwhile is not looked at: the end is where the log ended at the first call.

use std::collections::HashMap;
use std::time::Duration;

use kernel::{Context, Error, Result};
use proof::{Checkpoint, Findings, Kind, Place, PublicKey, Walk};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use subjects::audit::v1::{Finding, VerifyReply, VerifyRequest, finding};
use tokio::time::Instant;

use super::wire::read_action;
use crate::Audit;
use crate::storage::{self, Part};

/// How long a call works before it leaves the rest to the next. A step more is done, which takes well under a second.
const WORK_MAX: Duration = Duration::from_secs(3);

/// Entries of a step.
const STEP_ENTRIES: i64 = 1_000;

/// Checkpoints of the bucket in a step.
const STEP_CHECKPOINTS: usize = 500;

/// How long a step may wait for the bucket.
const BUCKET_TIMEOUT: Duration = Duration::from_secs(3);

/// Whose cursors these are.
const LIST: &str = "verify";

/// What has been checked, and what is left.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Progress {
    /// How far along the chain.
    place: Place,
    /// Where the log ended when the check began.
    last: i64,
    /// The lowest sequence at which something was found, which explains differences behind it.
    found: Option<i64>,
    /// Where to go on in the bucket, once the chain is done.
    bucket: Option<u64>,
}

/// A call's work.
struct Work<'a> {
    audit: &'a Audit,
    trusted: Vec<PublicKey>,
    findings: Findings,
    entries: u64,
    checkpoints: u64,
    until: Instant,
}

pub(crate) async fn verify(audit: &Audit, cx: &Context, request: VerifyRequest) -> Result<VerifyReply> {
    let mut work = Work {
        audit,
        trusted: audit.trusted_keys(),
        findings: Findings::default(),
        entries: 0,
        checkpoints: 0,
        until: Instant::now() + WORK_MAX,
    };
    let progress = match request.page_token.as_str() {
        "" => work.begin().await?,
        token => audit
            .key
            .open(LIST, token)
            .ok_or_else(|| Error::field("/pageToken", "invalid", "is not a token that a verification gave"))?,
    };
    let rest = work.go_on(progress).await?;

    let mut tx = audit.database.begin(cx).await?;
    let (entries, problems) = (work.entries, work.findings.count());
    let details = format!(r#"{{"entries":{entries},"problems":{problems}}}"#).into_bytes();
    tx.record(read_action("audit.log.verified", "audit_log", "", details)).await?;
    tx.commit().await?;
    if problems > 0 {
        tracing::error!(entries, problems, "The audit log does not hold.");
    }
    Ok(VerifyReply {
        valid: problems == 0,
        entries: entries.to_string(),
        checkpoints: work.checkpoints.to_string(),
        problems: work.findings.sorted().into_iter().map(to_wire).collect(),
        next_page_token: rest.map(|rest| audit.key.seal(LIST, &rest)).unwrap_or_default(),
    })
}

impl Work<'_> {
    /// Finds where the log begins and ends.
    async fn begin(&mut self) -> Result<Progress> {
        let mut tx = self.connection().await?;
        let dropped = storage::list_dropped(&mut tx).await?;
        let mut place = Place::START;
        for segment in &dropped {
            let (expected, hash) = (place.stored() + 1, place.hash());
            if segment.first != expected {
                self.findings.add(expected, Kind::Missing, "The proof of a dropped segment is not there.");
            } else if hash.is_some_and(|hash| hash != segment.previous_hash) {
                self.findings.add(segment.first, Kind::Altered, "A dropped segment was not chained to the one before.");
            }
            place = Place::behind(segment.last, segment.last_hash);
        }
        let last = storage::find_head(&mut tx).await?.max(place.stored());
        Ok(Progress { place, last, found: None, bucket: None })
    }

    /// Works until the time is up. None when nothing is left.
    async fn go_on(&mut self, mut progress: Progress) -> Result<Option<Progress>> {
        if progress.bucket.is_none() {
            let (place, is_done) = self.walk(progress).await?;
            progress.place = place;
            progress.found = self.lowest_found(progress.found);
            if !is_done {
                return Ok(Some(progress));
            }
            self.check_end(progress).await?;
            progress.bucket = Some(1);
        }
        while let Some(place) = progress.bucket {
            progress.bucket = self.check_bucket(progress, place).await?;
            progress.found = self.lowest_found(progress.found);
            if progress.bucket.is_some() && Instant::now() >= self.until {
                return Ok(Some(progress));
            }
        }
        Ok(None)
    }

    fn lowest_found(&self, before: Option<i64>) -> Option<i64> {
        self.findings.as_slice().iter().map(|finding| finding.sequence).chain(before).min()
    }

    /// Along the chain. Says whether it came to the end.
    async fn walk(&mut self, progress: Progress) -> Result<(Place, bool)> {
        let mut connection = self.connection().await?;
        let (mut walk, mut encoded) = (Walk::new(progress.place), Vec::new());
        let mut behind = progress.place.stored();
        while behind < progress.last && (Instant::now() < self.until || walk.is_holding()) {
            let part = Part { behind, last: progress.last, limit: STEP_ENTRIES };
            let page = storage::read_entries(&mut connection, part).await?;
            let Some(last) = page.entries.last().map(|last| last.sequence) else {
                behind = progress.last;
                break;
            };
            let checkpoints = self.checkpoints_between(&mut connection, behind + 1, last).await?;
            for entry in &page.entries {
                let salt = entry.salt.map(|salt| salt.to_string());
                let personal = salt.as_deref().map(|salt| entry.record.personal(salt));
                walk.entry(entry.to_proof().link(&mut encoded), personal.as_ref(), entry.personal_digest);
                if let Some(checkpoint) = checkpoints.get(&walk.position()) {
                    walk.checkpoint(checkpoint.sequence, checkpoint.hash);
                }
            }
            behind = last;
            // Others are served between two steps.
            tokio::task::yield_now().await;
        }
        let (findings, entries, place) = walk.finish();
        self.entries += entries;
        for finding in findings.sorted() {
            self.findings.add(finding.sequence, finding.kind, finding.detail);
        }
        Ok((place, behind >= progress.last))
    }

    /// Those of the store whose signature counts, by sequence.
    async fn checkpoints_between(
        &mut self,
        connection: &mut PgConnection,
        first: i64,
        last: i64,
    ) -> Result<HashMap<i64, Checkpoint>> {
        let checkpoints = storage::list_checkpoints_between(connection, first, last).await?;
        self.checkpoints += checkpoints.len() as u64;
        Ok(checkpoints
            .into_iter()
            .filter(|checkpoint| self.check_signature(checkpoint))
            .map(|checkpoint| (checkpoint.sequence, checkpoint))
            .collect())
    }

    fn check_signature(&mut self, checkpoint: &Checkpoint) -> bool {
        let outcome = checkpoint.verify(&self.trusted);
        if let Err(fault) = outcome {
            let detail = format!("The checkpoint does not count: {fault}.");
            self.find_once(checkpoint.sequence, Kind::BadSignature, detail);
        }
        outcome.is_ok()
    }

    /// What was signed behind the end of the log is not there any more.
    async fn check_end(&mut self, progress: Progress) -> Result<()> {
        let mut connection = self.connection().await?;
        let last = storage::find_last_checkpoint(&mut connection).await?;
        if let Some(last) = last.filter(|last| last.sequence > progress.last && self.check_signature(last)) {
            self.check_truncation(progress, last.sequence, &mut connection).await?;
        }
        Ok(())
    }

    /// A checkpoint beyond where the log ended at the beginning: the log has grown since, or was cut.
    async fn check_truncation(&mut self, progress: Progress, signed: i64, connection: &mut PgConnection) -> Result<()> {
        let head = storage::find_head(connection).await?;
        if head < signed && !self.findings.as_slice().iter().any(|finding| finding.kind == Kind::Truncated) {
            let first = progress.last.min(head) + 1;
            let detail = format!("{first} to {signed} are not there, and {signed} was signed.");
            self.findings.add(first, Kind::Truncated, detail);
        }
        Ok(())
    }

    /// Compares a part of the bucket with the log. Where to go on; none at its end.
    async fn check_bucket(&mut self, progress: Progress, place: u64) -> Result<Option<u64>> {
        let stored = self.audit.bucket.read(place, STEP_CHECKPOINTS, BUCKET_TIMEOUT).await?;
        let Some(last) = stored.last() else { return Ok(None) };
        let next = last.place + 1;
        let mut checkpoints = Vec::with_capacity(stored.len());
        for stored in &stored {
            self.checkpoints += 1;
            let checkpoint = Checkpoint::from_json(&stored.value);
            match checkpoint.filter(|checkpoint| checkpoint.sequence.to_string() == stored.key) {
                Some(checkpoint) if self.check_signature(&checkpoint) => checkpoints.push(checkpoint),
                Some(_) => {}
                None => {
                    let sequence = stored.key.parse().unwrap_or(0);
                    self.find_once(sequence, Kind::BadSignature, "What the bucket holds under it is no checkpoint.");
                }
            }
        }
        self.compare(progress, &checkpoints).await?;
        Ok(Some(next))
    }

    async fn compare(&mut self, progress: Progress, checkpoints: &[Checkpoint]) -> Result<()> {
        let mut connection = self.connection().await?;
        let sequences: Vec<i64> = checkpoints.iter().map(|checkpoint| checkpoint.sequence).collect();
        let hashes: HashMap<i64, _> = storage::list_hashes(&mut connection, &sequences).await?.into_iter().collect();
        for checkpoint in checkpoints {
            let Checkpoint { sequence, hash, .. } = checkpoint;
            match hashes.get(sequence) {
                Some(found) if found == hash => {}
                // What was found before it explains the difference.
                Some(_) if self.lowest_found(progress.found).is_some_and(|found| found <= *sequence) => {}
                Some(_) => {
                    let detail = "The log up to here is not the one that was signed: it was made anew.";
                    self.findings.add(*sequence, Kind::Altered, detail);
                }
                None if *sequence > progress.last => {
                    self.check_truncation(progress, *sequence, &mut connection).await?;
                }
                // Dropped with its segment, or found to be missing on the way along the chain.
                None => {}
            }
        }
        Ok(())
    }

    fn find_once(&mut self, sequence: i64, kind: Kind, detail: impl Into<String>) {
        let known = |finding: &proof::Finding| finding.sequence == sequence && finding.kind == kind;
        if !self.findings.as_slice().iter().any(known) {
            self.findings.add(sequence, kind, detail);
        }
    }

    async fn connection(&self) -> Result<sqlx::pool::PoolConnection<sqlx::Postgres>> {
        Ok(self.audit.database.pool().acquire().await?)
    }
}

fn to_wire(found: proof::Finding) -> Finding {
    let kind = match found.kind {
        Kind::Altered => finding::Kind::Altered,
        Kind::Missing => finding::Kind::Missing,
        Kind::Inserted => finding::Kind::Inserted,
        Kind::Reordered => finding::Kind::Reordered,
        Kind::Truncated => finding::Kind::Truncated,
        Kind::BadSignature => finding::Kind::BadSignature,
    };
    Finding { sequence: found.sequence.to_string(), kind: kind.into(), detail: found.detail }
}
