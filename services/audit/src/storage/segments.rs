//! Segments of the log, made and dropped by functions of the schema's owner.

use chrono::{DateTime, Utc};
use proof::Hash;
use sqlx::PgConnection;

use super::hash_from_bytes;

/// What is left of a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dropped {
    pub first: i64,
    pub last: i64,
    pub previous_hash: Hash,
    pub last_hash: Hash,
}

/// Makes segments of `size` entries until there is room for `room` more.
pub(crate) async fn make_segments(connection: &mut PgConnection, size: u32, room: i64) -> Result<(), sqlx::Error> {
    sqlx::query!("SELECT audit.make_segments($1, $2)::text", i64::from(size), room).fetch_one(connection).await?;
    Ok(())
}

/// The last sequence of the oldest segment.
pub(crate) async fn find_oldest_segment_end(connection: &mut PgConnection) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar!("SELECT last_sequence FROM audit.segments ORDER BY first_sequence LIMIT 1")
        .fetch_optional(connection)
        .await
}

/// Drops the oldest segment if it lies under a checkpoint signed before `older_than`. Whether it did.
pub(crate) async fn drop_segments(
    connection: &mut PgConnection,
    older_than: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let dropped = sqlx::query_scalar!(r#"SELECT audit.drop_segments($1, 1) AS "dropped!""#, older_than)
        .fetch_one(connection)
        .await?;
    Ok(dropped > 0)
}

/// What is left of dropped segments, in their order.
pub(crate) async fn list_dropped(connection: &mut PgConnection) -> Result<Vec<Dropped>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT first_sequence, last_sequence, previous_hash, last_hash FROM audit.dropped_segments ORDER BY first_sequence"
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Dropped {
                first: row.first_sequence,
                last: row.last_sequence,
                previous_hash: hash_from_bytes(&row.previous_hash)?,
                last_hash: hash_from_bytes(&row.last_hash)?,
            })
        })
        .collect()
}
