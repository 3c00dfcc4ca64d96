//! The log. The only place that knows SQL; domain types in and out.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::{ActorType, Chain, Entry, EntryHash, Filter, Outcome, Record};

/// Lets one transaction at a time add to the log until it ends, and says where the log ends. An advisory lock, since the
/// service may not lock rows of a table that it may not update.
#[tracing::instrument(name = "storage.chain.lock", skip_all)]
pub(crate) async fn lock_chain(connection: &mut PgConnection) -> Result<Chain, sqlx::Error> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended('audit.entries', 0))")
        .execute(&mut *connection)
        .await?;
    // A statement of its own: it sees what was committed while this one waited for the lock.
    let head = sqlx::query!("SELECT sequence, hash FROM audit.entries ORDER BY sequence DESC LIMIT 1")
        .fetch_optional(connection)
        .await?;
    head.map_or(Ok(Chain::EMPTY), |head| Ok(Chain::from_head(head.sequence, hash_from_bytes(&head.hash)?)))
}

/// Those of `ids` that are in the log already.
pub(crate) async fn list_known_ids(connection: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!("SELECT id FROM audit.entries WHERE id = ANY($1)", ids).fetch_all(connection).await
}

/// Adds entries, in one statement however many.
#[tracing::instrument(name = "storage.entry.insert", skip_all, fields(entries = entries.len()))]
pub(crate) async fn insert_entries(connection: &mut PgConnection, entries: &[Entry]) -> Result<(), sqlx::Error> {
    fn column<T>(entries: &[Entry], value: impl Fn(&Entry) -> T) -> Vec<T> {
        entries.iter().map(value).collect()
    }
    let text = |value: fn(&Record) -> &str| column(entries, |entry| value(&entry.record).to_owned());
    sqlx::query!(
        r#"
        INSERT INTO audit.entries
            (sequence, id, time, actor_type, actor_id, action, target_type, target_id, outcome, ip_address, user_agent,
             request_id, trace_id, details, previous_hash, hash)
        SELECT * FROM unnest(
            $1::bigint[], $2::uuid[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
            $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::bytea[], $16::bytea[])
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
        &text(|record| &record.ip_address),
        &text(|record| &record.user_agent),
        &text(|record| &record.request_id),
        &text(|record| &record.trace_id),
        &text(|record| &record.details),
        &column(entries, |entry| entry.previous_hash.0.to_vec()),
        &column(entries, |entry| entry.hash.0.to_vec()),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Entries that pass the filter, newest first, at most `limit`, from the one before `before`.
#[tracing::instrument(name = "storage.entry.list", skip_all)]
pub(crate) async fn list_entries(
    connection: &mut PgConnection,
    filter: &Filter,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<Entry>, sqlx::Error> {
    // Planned for the values at hand: which index serves depends on which filters are given.
    sqlx::query!("SET LOCAL plan_cache_mode = force_custom_plan").execute(&mut *connection).await?;
    let rows = sqlx::query_as!(
        EntryRow,
        r#"
        SELECT sequence, id, time, actor_type, actor_id, action, target_type, target_id, outcome, ip_address,
               user_agent, request_id, trace_id, details, previous_hash, hash
        FROM audit.entries
        WHERE ($1::text IS NULL OR actor_id = $1)
          AND ($2::text IS NULL OR action LIKE $2)
          AND ($3::text IS NULL OR target_id = $3)
          AND ($4::text IS NULL OR outcome = $4)
          AND ($5::timestamptz IS NULL OR time >= $5)
          AND ($6::timestamptz IS NULL OR time < $6)
          AND ($7::bigint IS NULL OR sequence < $7)
        ORDER BY sequence DESC
        LIMIT $8
        "#,
        filter.actor_id,
        filter.action.as_ref().map(crate::domain::ActionFilter::pattern),
        filter.target_id,
        filter.outcome.map(Outcome::as_str),
        filter.from,
        filter.to,
        before,
        limit,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(Entry::try_from).collect()
}

struct EntryRow {
    sequence: i64,
    id: Uuid,
    time: DateTime<Utc>,
    actor_type: String,
    actor_id: String,
    action: String,
    target_type: String,
    target_id: String,
    outcome: String,
    ip_address: String,
    user_agent: String,
    request_id: String,
    trace_id: String,
    details: String,
    previous_hash: Vec<u8>,
    hash: Vec<u8>,
}

impl TryFrom<EntryRow> for Entry {
    type Error = sqlx::Error;

    fn try_from(row: EntryRow) -> Result<Self, sqlx::Error> {
        let record = Record {
            id: row.id,
            time: row.time,
            actor_type: ActorType::parse(&row.actor_type).ok_or_else(|| unexpected("actor_type"))?,
            actor_id: row.actor_id,
            action: row.action,
            target_type: row.target_type,
            target_id: row.target_id,
            outcome: Outcome::parse(&row.outcome).ok_or_else(|| unexpected("outcome"))?,
            ip_address: row.ip_address,
            user_agent: row.user_agent,
            request_id: row.request_id,
            trace_id: row.trace_id,
            details: row.details,
        };
        let (previous_hash, hash) = (hash_from_bytes(&row.previous_hash)?, hash_from_bytes(&row.hash)?);
        Ok(Self { sequence: row.sequence, record, previous_hash, hash })
    }
}

fn hash_from_bytes(bytes: &[u8]) -> Result<EntryHash, sqlx::Error> {
    bytes.try_into().map(EntryHash).map_err(|_| unexpected("hash"))
}

fn unexpected(column: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("audit.entries.{column} holds what this version does not know").into())
}
