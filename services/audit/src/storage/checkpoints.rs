//! Signed checkpoints.

use chrono::{DateTime, Utc};
use proof::{Checkpoint, PublicKey};
use sqlx::PgConnection;

use super::{hash_from_bytes, unexpected};
use crate::domain::hashed_time;

pub(crate) async fn insert_checkpoint(
    connection: &mut PgConnection,
    checkpoint: &Checkpoint,
    time: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        INSERT INTO audit.checkpoints (sequence, hash, time, key_id, signature, public_key)
        VALUES ($1, $2, $3, $4, $5, $6)
        "#,
        checkpoint.sequence,
        &checkpoint.hash.0,
        time,
        checkpoint.key_id,
        checkpoint.signature,
        &checkpoint.public_key.0,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The first that covers the entry with this sequence.
pub(crate) async fn find_covering_checkpoint(
    connection: &mut PgConnection,
    sequence: i64,
) -> Result<Option<Checkpoint>, sqlx::Error> {
    let row = sqlx::query_as!(
        CheckpointRow,
        r#"
        SELECT sequence, hash, time, key_id, signature, public_key
        FROM audit.checkpoints WHERE sequence >= $1 ORDER BY sequence LIMIT 1
        "#,
        sequence,
    )
    .fetch_optional(connection)
    .await?;
    row.map(Checkpoint::try_from).transpose()
}

/// The last.
pub(crate) async fn find_last_checkpoint(connection: &mut PgConnection) -> Result<Option<Checkpoint>, sqlx::Error> {
    Ok(list_checkpoints(connection, None, 1).await?.pop())
}

/// Sequence and time of the last.
pub(crate) async fn find_last_checkpoint_time(
    connection: &mut PgConnection,
) -> Result<Option<(i64, DateTime<Utc>)>, sqlx::Error> {
    let row = sqlx::query!("SELECT sequence, time FROM audit.checkpoints ORDER BY sequence DESC LIMIT 1")
        .fetch_optional(connection)
        .await?;
    Ok(row.map(|row| (row.sequence, row.time)))
}

/// The first there is.
pub(crate) async fn find_first_checkpoint(connection: &mut PgConnection) -> Result<Option<Checkpoint>, sqlx::Error> {
    find_covering_checkpoint(connection, 0).await
}

/// Newest first, at most `limit`, from the one before `before`.
pub(crate) async fn list_checkpoints(
    connection: &mut PgConnection,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<Checkpoint>, sqlx::Error> {
    let rows = sqlx::query_as!(
        CheckpointRow,
        r#"
        SELECT sequence, hash, time, key_id, signature, public_key
        FROM audit.checkpoints WHERE $1::bigint IS NULL OR sequence < $1 ORDER BY sequence DESC LIMIT $2
        "#,
        before,
        limit,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(Checkpoint::try_from).collect()
}

/// Those from `first` to `last`, both included, in their order.
pub(crate) async fn list_checkpoints_between(
    connection: &mut PgConnection,
    first: i64,
    last: i64,
) -> Result<Vec<Checkpoint>, sqlx::Error> {
    let rows = sqlx::query_as!(
        CheckpointRow,
        r#"
        SELECT sequence, hash, time, key_id, signature, public_key
        FROM audit.checkpoints WHERE sequence BETWEEN $1 AND $2 ORDER BY sequence
        "#,
        first,
        last,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(Checkpoint::try_from).collect()
}

struct CheckpointRow {
    sequence: i64,
    hash: Vec<u8>,
    time: DateTime<Utc>,
    key_id: String,
    signature: Vec<u8>,
    public_key: Vec<u8>,
}

impl TryFrom<CheckpointRow> for Checkpoint {
    type Error = sqlx::Error;

    fn try_from(row: CheckpointRow) -> Result<Self, sqlx::Error> {
        let public_key = row.public_key.try_into().map_err(|_| unexpected("audit.checkpoints.public_key"))?;
        Ok(Self {
            sequence: row.sequence,
            hash: hash_from_bytes(&row.hash)?,
            time: hashed_time(row.time),
            key_id: row.key_id,
            signature: row.signature,
            public_key: PublicKey(public_key),
        })
    }
}
