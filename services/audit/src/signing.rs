//! Signing the log: with what has come, and after a while also where little has come. Whoever does it holds the lock of the
//! chain, so of several instances one makes each checkpoint.

use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use kernel::{Bucket, Context, Error, Lifecycle, Result, StartError, Transaction};
use proof::Checkpoint;
use secrecy::SecretString;
use tokio::time::{MissedTickBehavior, interval};

use crate::domain::{Chain, SigningKey};
use crate::{Audit, bucket, handlers, storage};

/// How often the log is looked at, where checkpoints are not due more often.
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// How long one look may take, signing included.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// How often segments are looked for that need not be kept.
const RETENTION_INTERVAL: TimeDelta = TimeDelta::minutes(1);

/// How often it is looked whether the bucket still has what was signed.
const COMPARE_INTERVAL: TimeDelta = TimeDelta::minutes(1);

/// Reads the key that lies outside of the database.
pub(crate) fn read_key(file: Option<&Path>) -> Result<SigningKey, StartError> {
    let Some(file) = file else {
        return Err(StartError::new("key_file is not set: checkpoints are signed with the key in it"));
    };
    let text = std::fs::read_to_string(file)
        .map(SecretString::from)
        .map_err(|error| StartError::new("key_file cannot be read").with_source(error))?;
    SigningKey::parse(&text).map_err(|error| StartError::new("key_file holds no key").with_source(error))
}

/// Signs the log with this head, which the transaction has locked, in the store and in the bucket.
pub(crate) async fn sign(audit: &Audit, tx: &mut Transaction, head: Chain) -> Result<Checkpoint> {
    let now = audit.clock.now();
    let checkpoint = audit.key.sign(head, now);
    storage::insert_checkpoint(tx, &checkpoint, now).await?;
    put(tx, &checkpoint).await?;
    Ok(checkpoint)
}

/// Puts a checkpoint into the bucket.
pub(crate) async fn put(tx: &mut Transaction, checkpoint: &Checkpoint) -> Result<()> {
    let value = subjects::json::encode(&handlers::checkpoint_to_wire(checkpoint));
    tx.put(Bucket::Checkpoints, &checkpoint.sequence.to_string(), value).await
}

/// The checkpoint of the log's present end, made unless there is one. The log has an entry.
pub(crate) async fn sign_head(audit: &Audit, tx: &mut Transaction) -> Result<Checkpoint> {
    let head = storage::lock_chain(tx).await?;
    if head.signed < head.chain.sequence {
        return sign(audit, tx, head.chain).await;
    }
    let last = storage::find_last_checkpoint(tx).await?;
    last.ok_or_else(|| Error::internal().with_source("an empty log cannot be signed"))
}

/// Signs what has come within the interval, and drops what need not be kept, until the process stops.
pub(crate) async fn keep(audit: &Audit, life: &Lifecycle) {
    let mut looks = interval(audit.settings.checkpoint_interval().min(LOOK_INTERVAL_MAX));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut retained_at: Option<DateTime<Utc>> = None;
    let mut compared_at: Option<DateTime<Utc>> = None;
    loop {
        tokio::select! {
            biased;
            () = life.stopping() => return,
            _ = looks.tick() => {}
        }
        if let Err(error) = sign_if_due(audit).await {
            tracing::warn!(?error, "The log could not be signed; it is tried again.");
        }
        let now = audit.clock.now();
        if let Some(retention) = audit.settings.retention()
            && retained_at.is_none_or(|at| now - at >= RETENTION_INTERVAL.min(retention))
        {
            retained_at = Some(now);
            if let Err(error) = drop_segment(audit, now - retention).await {
                tracing::warn!(?error, "A segment could not be dropped; it is tried again.");
            }
        }
        if compared_at.is_none_or(|at| now - at >= COMPARE_INTERVAL) {
            compared_at = Some(now);
            if let Err(error) = bucket::restore(audit, now).await {
                tracing::warn!(?error, "The bucket of checkpoints could not be compared; it is tried again.");
            }
        }
    }
}

async fn sign_if_due(audit: &Audit) -> Result<()> {
    let mut connection = audit.database.pool().acquire().await?;
    let head = storage::find_head(&mut connection).await?;
    let last = storage::find_last_checkpoint_time(&mut connection).await?;
    drop(connection);
    if !is_due(audit, head, last) {
        return Ok(());
    }
    let cx = context(audit);
    let mut tx = audit.database.begin(&cx).await?;
    let head = storage::lock_chain(&mut tx).await?;
    // Another instance may have signed while this one waited for the lock.
    if is_due(audit, head.chain.sequence, head.signed_at.map(|time| (head.signed, time))) {
        sign(audit, &mut tx, head.chain).await?;
        tx.commit().await?;
    }
    Ok(())
}

fn is_due(audit: &Audit, head: i64, last: Option<(i64, DateTime<Utc>)>) -> bool {
    let interval = TimeDelta::from_std(audit.settings.checkpoint_interval()).unwrap_or(TimeDelta::MAX);
    match last {
        None => head > 0,
        Some((signed, time)) => head > signed && audit.clock.now() - time >= interval,
    }
}

/// Drops the oldest segment if its checkpoint is old enough and counts.
async fn drop_segment(audit: &Audit, older_than: DateTime<Utc>) -> Result<()> {
    let cx = context(audit);
    let mut tx = audit.database.begin(&cx).await?;
    let Some(last) = storage::find_oldest_segment_end(&mut tx).await? else { return Ok(()) };
    let Some(covering) = storage::find_covering_checkpoint(&mut tx, last).await? else { return Ok(()) };
    if let Err(fault) = covering.verify(&audit.trusted_keys()) {
        let source = format!("checkpoint {} does not count: {fault}", covering.sequence);
        return Err(Error::internal().with_source(source));
    }
    if storage::drop_segments(&mut tx, older_than).await? {
        tx.commit().await?;
        tracing::info!(last, "A segment of the log was dropped; its proof is kept.");
    }
    Ok(())
}

pub(crate) fn context(audit: &Audit) -> Context {
    Context::for_service("audit", &audit.clock, &audit.random, LOOK_TIMEOUT)
}
