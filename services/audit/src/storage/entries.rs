//! Entries as they are read: listed by what is asked for, or in the order of the log.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{hash_from_bytes, unexpected};
use crate::domain::{ActionFilter, ActorType, Entry, Filter, Outcome, Record, Salt};

/// Bytes of entries read at once. One entry more may be read, the one that crosses the bound: together they fit a reply.
const BYTES_MAX: i64 = 640 * 1024;

/// What an entry takes beside its texts.
const OVERHEAD_BYTES: i64 = 700;

/// Entries that were asked for.
#[derive(Debug)]
pub(crate) struct Page {
    pub entries: Vec<Entry>,
    /// Whether there were more within the number asked for, which were left out for their size.
    pub is_cut: bool,
}

/// Which part of the log to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    /// Not this one, but those behind it.
    pub behind: i64,
    /// The last.
    pub last: i64,
    /// How many at most.
    pub limit: i64,
}

/// Entries that pass the filter, newest first, at most `limit`, from the one before `before`.
#[tracing::instrument(name = "storage.entry.list", skip_all)]
pub(crate) async fn list_entries(
    connection: &mut PgConnection,
    filter: &Filter,
    before: Option<i64>,
    limit: i64,
) -> Result<Page, sqlx::Error> {
    let (first, last) = super::find_range(connection, filter).await?;
    let last = before.map_or(last, |before| last.min(before - 1));
    // Planned for the values at hand: which index serves depends on which filters are given.
    sqlx::query!("SET LOCAL plan_cache_mode = force_custom_plan").execute(&mut *connection).await?;
    let rows = sqlx::query_as!(
        EntryRow,
        r#"
        SELECT sequence AS "sequence!", id AS "id!", time AS "time!", actor_type AS "actor_type!",
               actor_id AS "actor_id!", action AS "action!", target_type AS "target_type!", target_id AS "target_id!",
               outcome AS "outcome!", request_id AS "request_id!", trace_id AS "trace_id!", details AS "details!",
               personal_digest AS "personal_digest!", previous_hash AS "previous_hash!", hash AS "hash!",
               salt AS "salt?", ip_address AS "ip_address?", user_agent AS "user_agent?", actor_name AS "actor_name?",
               target_name AS "target_name?", found AS "found!"
        FROM (SELECT *, count(*) OVER () AS found,
                     sum(octet_length(details) + octet_length(actor_id) + octet_length(target_id) + $10::bigint)
                         OVER (ORDER BY sequence DESC) - octet_length(details) AS bytes_before
              FROM (SELECT * FROM audit.entries
                    WHERE sequence BETWEEN $1 AND $2
                      AND ($3::text IS NULL OR actor_id = $3)
                      AND ($4::text IS NULL OR action = $4)
                      AND ($5::text IS NULL OR action LIKE $5)
                      AND ($6::text IS NULL OR target_id = $6)
                      AND ($7::text IS NULL OR outcome = $7)
                      AND ($8::timestamptz IS NULL OR time >= $8)
                      AND ($9::timestamptz IS NULL OR time < $9)
                    ORDER BY sequence DESC
                    LIMIT $11) AS matching) AS sized
        LEFT JOIN audit.personal USING (sequence)
        WHERE bytes_before < $12::bigint
        ORDER BY sequence DESC
        "#,
        first,
        last,
        filter.actor_id,
        filter.action.as_ref().and_then(ActionFilter::exactly),
        filter.action.as_ref().and_then(ActionFilter::pattern),
        filter.target_id,
        filter.outcome.map(Outcome::as_str),
        filter.from,
        filter.to,
        OVERHEAD_BYTES,
        limit,
        BYTES_MAX,
    )
    .fetch_all(connection)
    .await?;
    Page::try_from(rows)
}

/// The entry with this id.
pub(crate) async fn find_entry(connection: &mut PgConnection, id: Uuid) -> Result<Option<Entry>, sqlx::Error> {
    let row = sqlx::query_as!(
        EntryRow,
        r#"
        SELECT sequence, id, time, actor_type, actor_id, action, target_type, target_id, outcome, request_id, trace_id,
               details, personal_digest, previous_hash, hash, salt AS "salt?", ip_address AS "ip_address?",
               user_agent AS "user_agent?", actor_name AS "actor_name?", target_name AS "target_name?", 1::bigint AS "found!"
        FROM audit.entries LEFT JOIN audit.personal USING (sequence)
        WHERE id = $1 ORDER BY sequence LIMIT 1
        "#,
        id,
    )
    .fetch_optional(connection)
    .await?;
    row.map(Entry::try_from).transpose()
}

/// A part of the log in its order.
#[tracing::instrument(name = "storage.entry.read", skip_all)]
pub(crate) async fn read_entries(connection: &mut PgConnection, part: Part) -> Result<Page, sqlx::Error> {
    let rows = sqlx::query_as!(
        EntryRow,
        r#"
        SELECT sequence AS "sequence!", id AS "id!", time AS "time!", actor_type AS "actor_type!",
               actor_id AS "actor_id!", action AS "action!", target_type AS "target_type!", target_id AS "target_id!",
               outcome AS "outcome!", request_id AS "request_id!", trace_id AS "trace_id!", details AS "details!",
               personal_digest AS "personal_digest!", previous_hash AS "previous_hash!", hash AS "hash!",
               salt AS "salt?", ip_address AS "ip_address?", user_agent AS "user_agent?", actor_name AS "actor_name?",
               target_name AS "target_name?", found AS "found!"
        FROM (SELECT *, count(*) OVER () AS found,
                     sum(octet_length(details) + octet_length(actor_id) + octet_length(target_id) + $4::bigint)
                         OVER (ORDER BY sequence) - octet_length(details) AS bytes_before
              FROM (SELECT * FROM audit.entries WHERE sequence > $1 AND sequence <= $2
                    ORDER BY sequence LIMIT $3) AS part) AS sized
        LEFT JOIN audit.personal USING (sequence)
        WHERE bytes_before < $5::bigint
        ORDER BY sequence
        "#,
        part.behind,
        part.last,
        part.limit,
        OVERHEAD_BYTES,
        BYTES_MAX,
    )
    .fetch_all(connection)
    .await?;
    Page::try_from(rows)
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
    request_id: String,
    trace_id: String,
    details: String,
    personal_digest: Vec<u8>,
    previous_hash: Vec<u8>,
    hash: Vec<u8>,
    salt: Option<Vec<u8>>,
    ip_address: Option<String>,
    user_agent: Option<String>,
    actor_name: Option<String>,
    target_name: Option<String>,
    /// How many rows there were before the bound on their size.
    found: i64,
}

impl TryFrom<EntryRow> for Entry {
    type Error = sqlx::Error;

    fn try_from(row: EntryRow) -> Result<Self, sqlx::Error> {
        let record = Record {
            id: row.id,
            time: row.time,
            actor_type: ActorType::parse(&row.actor_type).ok_or_else(|| unexpected("audit.entries.actor_type"))?,
            actor_id: row.actor_id,
            action: row.action,
            target_type: row.target_type,
            target_id: row.target_id,
            outcome: Outcome::parse(&row.outcome).ok_or_else(|| unexpected("audit.entries.outcome"))?,
            ip_address: row.ip_address.unwrap_or_default(),
            user_agent: row.user_agent.unwrap_or_default(),
            actor_name: row.actor_name.unwrap_or_default(),
            target_name: row.target_name.unwrap_or_default(),
            request_id: row.request_id,
            trace_id: row.trace_id,
            details: row.details,
        };
        let salt = match row.salt {
            Some(salt) => Some(Salt(salt.try_into().map_err(|_| unexpected("audit.personal.salt"))?)),
            None => None,
        };
        Ok(Self {
            sequence: row.sequence,
            record,
            salt,
            personal_digest: hash_from_bytes(&row.personal_digest)?,
            previous_hash: hash_from_bytes(&row.previous_hash)?,
            hash: hash_from_bytes(&row.hash)?,
        })
    }
}

impl TryFrom<Vec<EntryRow>> for Page {
    type Error = sqlx::Error;

    fn try_from(rows: Vec<EntryRow>) -> Result<Self, sqlx::Error> {
        let found = rows.first().map_or(0, |row| row.found);
        let entries: Vec<Entry> = rows.into_iter().map(Entry::try_from).collect::<Result<_, _>>()?;
        let is_cut = i64::try_from(entries.len()).is_ok_and(|read| read < found);
        Ok(Self { entries, is_cut })
    }
}
