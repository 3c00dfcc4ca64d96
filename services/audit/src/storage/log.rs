//! Where the log begins and ends, and how it grows.

use chrono::{DateTime, Utc};
use proof::Hash;
use sqlx::PgConnection;
use uuid::Uuid;

use super::hash_from_bytes;
use crate::domain::{Chain, Entry, Filter, Record};

/// Entries of a stretch, whose times are known together.
const STRETCH_ENTRIES: i64 = 1_000;

/// The end of the log, while nobody else adds to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub chain: Chain,
    /// Sequence of the last checkpoint; 0 where there is none.
    pub signed: i64,
    /// When that was signed.
    pub signed_at: Option<DateTime<Utc>>,
    /// The last sequence for which there is a segment.
    pub room_until: i64,
    /// Whether there are personal fields of entries behind the end, which only somebody with rights to cut it can leave.
    pub was_cut: bool,
}

/// Lets one transaction at a time add to the log until it ends, and says where the log ends. An advisory lock, since the
/// service may not lock rows of a table that it may not update.
#[tracing::instrument(name = "storage.chain.lock", skip_all)]
pub(crate) async fn lock_chain(connection: &mut PgConnection) -> Result<Head, sqlx::Error> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended('audit.entries', 0))")
        .execute(&mut *connection)
        .await?;
    // A statement of its own: it sees what was committed while this one waited for the lock.
    let row = sqlx::query!(
        r#"
        SELECT head.sequence AS "sequence?", head.hash AS "hash?",
               signed.sequence AS "signed?", signed.time AS "signed_at?",
               (SELECT coalesce(max(last_sequence), 0) FROM audit.segments) AS "room_until!",
               (SELECT coalesce(max(sequence), 0) FROM audit.personal) AS "personal_until!"
        FROM (SELECT) AS one
        LEFT JOIN LATERAL (
            SELECT * FROM (
                (SELECT sequence, hash FROM audit.entries ORDER BY sequence DESC LIMIT 1)
                UNION ALL
                (SELECT last_sequence, last_hash FROM audit.dropped_segments ORDER BY last_sequence DESC LIMIT 1)
            ) AS last ORDER BY sequence DESC LIMIT 1) AS head ON true
        LEFT JOIN LATERAL (SELECT sequence, time FROM audit.checkpoints ORDER BY sequence DESC LIMIT 1) AS signed ON true
        "#
    )
    .fetch_one(connection)
    .await?;
    let chain = match (row.sequence, row.hash) {
        (Some(sequence), Some(hash)) => Chain { sequence, hash: hash_from_bytes(&hash)? },
        _ => Chain::EMPTY,
    };
    Ok(Head {
        chain,
        signed: row.signed.unwrap_or(0),
        signed_at: row.signed_at,
        room_until: row.room_until,
        was_cut: row.personal_until > chain.sequence,
    })
}

/// Those of `ids` that are in the log already.
pub(crate) async fn list_known_ids(connection: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!("SELECT id FROM audit.entries WHERE id = ANY($1)", ids).fetch_all(connection).await
}

/// Adds entries, in two statements however many.
#[tracing::instrument(name = "storage.entry.insert", skip_all, fields(entries = entries.len()))]
pub(crate) async fn insert_entries(connection: &mut PgConnection, entries: &[Entry]) -> Result<(), sqlx::Error> {
    fn column<T>(entries: &[Entry], value: impl Fn(&Entry) -> T) -> Vec<T> {
        entries.iter().map(value).collect()
    }
    let text = |value: fn(&Record) -> &str| column(entries, |entry| value(&entry.record).to_owned());
    sqlx::query!(
        r#"
        INSERT INTO audit.entries
            (sequence, id, time, actor_type, actor_id, action, target_type, target_id, outcome, request_id, trace_id,
             details, personal_digest, previous_hash, hash)
        SELECT * FROM unnest(
            $1::bigint[], $2::uuid[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
            $9::text[], $10::text[], $11::text[], $12::text[], $13::bytea[], $14::bytea[], $15::bytea[])
        "#,
        &column(entries, |entry| entry.sequence),
        &column(entries, |entry| entry.record.id),
        &column(entries, |entry| entry.record.time),
        &text(|record| record.actor_type.as_str()),
        &text(|record| &record.actor_id),
        &text(|record| &record.action),
        &text(|record| &record.target_type),
        &text(|record| &record.target_id),
        &text(|record| record.outcome.as_str()),
        &text(|record| &record.request_id),
        &text(|record| &record.trace_id),
        &text(|record| &record.details),
        &column(entries, |entry| entry.personal_digest.0.to_vec()),
        &column(entries, |entry| entry.previous_hash.0.to_vec()),
        &column(entries, |entry| entry.hash.0.to_vec()),
    )
    .execute(&mut *connection)
    .await?;
    let salted: Vec<Entry> = entries.iter().filter(|entry| entry.salt.is_some()).cloned().collect();
    let text = |value: fn(&Record) -> &str| column(&salted, |entry| value(&entry.record).to_owned());
    sqlx::query!(
        r#"
        INSERT INTO audit.personal (sequence, salt, ip_address, user_agent, actor_name, target_name)
        SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::text[], $4::text[], $5::text[], $6::text[])
        "#,
        &column(&salted, |entry| entry.sequence),
        &column(&salted, |entry| entry.salt.map(|salt| salt.0.to_vec()).unwrap_or_default()),
        &text(|record| &record.ip_address),
        &text(|record| &record.user_agent),
        &text(|record| &record.actor_name),
        &text(|record| &record.target_name),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Erases personal fields of which there is no entry.
pub(crate) async fn delete_personal_behind(connection: &mut PgConnection, head: i64) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM audit.personal WHERE sequence > $1", head).execute(connection).await?;
    Ok(())
}

/// Notes the times of the stretches that have become full with the entries from behind `before` to `head`.
pub(crate) async fn insert_stretches(connection: &mut PgConnection, before: i64, head: i64) -> Result<(), sqlx::Error> {
    for number in before / STRETCH_ENTRIES..head / STRETCH_ENTRIES {
        let (first, last) = (number * STRETCH_ENTRIES + 1, (number + 1) * STRETCH_ENTRIES);
        sqlx::query!(
            r#"
            INSERT INTO audit.stretches (first_sequence, last_sequence, earliest, latest)
            SELECT $1, $2, min(time), max(time) FROM audit.entries WHERE sequence BETWEEN $1 AND $2
            HAVING count(*) > 0
            ON CONFLICT DO NOTHING
            "#,
            first,
            last,
        )
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// The sequences between which all entries lie that are of the filter's time, both included; not all that lie between them
/// are.
pub(crate) async fn find_range(connection: &mut PgConnection, filter: &Filter) -> Result<(i64, i64), sqlx::Error> {
    if filter.from.is_none() && filter.to.is_none() {
        return Ok((1, i64::MAX));
    }
    let row = sqlx::query!(
        r#"
        WITH tail AS (SELECT coalesce(max(last_sequence), 0) AS begins_behind FROM audit.stretches)
        SELECT coalesce((SELECT min(first_sequence) FROM audit.stretches WHERE latest >= coalesce($1::timestamptz, '-infinity')),
                        begins_behind + 1) AS "first!",
               CASE WHEN EXISTS (SELECT FROM audit.entries WHERE sequence > begins_behind AND time < coalesce($2::timestamptz, 'infinity'))
                    THEN 9223372036854775807
                    ELSE coalesce((SELECT max(last_sequence) FROM audit.stretches WHERE earliest < coalesce($2::timestamptz, 'infinity')), 0)
               END AS "last!"
        FROM tail
        "#,
        filter.from,
        filter.to,
    )
    .fetch_one(connection)
    .await?;
    Ok((row.first, row.last))
}

/// The first and the last sequence of entries of the filter's time; none where there are none.
pub(crate) async fn find_ends(
    connection: &mut PgConnection,
    filter: &Filter,
) -> Result<Option<(i64, i64)>, sqlx::Error> {
    let (first, last) = find_range(connection, filter).await?;
    let row = sqlx::query!(
        r#"
        SELECT (SELECT sequence FROM audit.entries
                WHERE sequence BETWEEN $1 AND $2
                  AND ($3::timestamptz IS NULL OR time >= $3) AND ($4::timestamptz IS NULL OR time < $4)
                ORDER BY sequence LIMIT 1) AS first,
               (SELECT sequence FROM audit.entries
                WHERE sequence BETWEEN $1 AND $2
                  AND ($3::timestamptz IS NULL OR time >= $3) AND ($4::timestamptz IS NULL OR time < $4)
                ORDER BY sequence DESC LIMIT 1) AS last
        "#,
        first,
        last,
        filter.from,
        filter.to,
    )
    .fetch_one(connection)
    .await?;
    Ok(row.first.zip(row.last))
}

/// The hashes of those of `sequences` that are in the log, in no order.
pub(crate) async fn list_hashes(
    connection: &mut PgConnection,
    sequences: &[i64],
) -> Result<Vec<(i64, Hash)>, sqlx::Error> {
    let rows = sqlx::query!("SELECT sequence, hash FROM audit.entries WHERE sequence = ANY($1)", sequences)
        .fetch_all(connection)
        .await?;
    rows.into_iter().map(|row| Ok((row.sequence, hash_from_bytes(&row.hash)?))).collect()
}

/// The sequence of the last entry; 0 in an empty log.
pub(crate) async fn find_head(connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(r#"SELECT coalesce(max(sequence), 0) AS "head!" FROM audit.entries"#)
        .fetch_one(connection)
        .await
}
