//! Jobs that were given up.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use sqlx::types::Json;
use subjects::job::Lane;

use super::{number, unexpected, unsigned};
use crate::domain::{DeadLetter, Reason};

/// Which letters.
#[derive(Debug, Default)]
pub(crate) struct LetterFilter {
    pub queue: Option<String>,
    pub kind: Option<String>,
    pub reason: Option<Reason>,
    /// When it was given up; of those that are put back.
    pub failed_before: Option<DateTime<Utc>>,
}

struct LetterRow {
    number: i64,
    queue: String,
    kind: String,
    id: String,
    round: i32,
    reason: String,
    error: String,
    lane: String,
    headers: Json<Headers>,
    body: Vec<u8>,
    attempt: i32,
    max_attempts: i32,
    created_at: DateTime<Utc>,
    failed_at: DateTime<Utc>,
}

/// Pairs in their order; an object in what earlier versions wrote.
#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum Headers {
    Pairs(Vec<(String, String)>),
    Object(BTreeMap<String, String>),
}

impl From<Headers> for Vec<(String, String)> {
    fn from(headers: Headers) -> Self {
        match headers {
            Headers::Pairs(pairs) => pairs,
            Headers::Object(object) => object.into_iter().collect(),
        }
    }
}

impl TryFrom<LetterRow> for DeadLetter {
    type Error = sqlx::Error;

    fn try_from(row: LetterRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            number: row.number,
            queue: row.queue,
            kind: row.kind,
            id: row.id,
            round: unsigned(row.round),
            reason: Reason::parse(&row.reason).ok_or_else(|| unexpected("jobs.dead_letters.reason"))?,
            error: row.error,
            lane: Lane::parse(&row.lane).ok_or_else(|| unexpected("jobs.dead_letters.lane"))?,
            headers: row.headers.0.into(),
            body: Bytes::from(row.body),
            attempt: unsigned(row.attempt),
            max_attempts: unsigned(row.max_attempts),
            created_at: row.created_at,
            failed_at: row.failed_at,
        })
    }
}

fn to_letters(rows: Vec<LetterRow>) -> Result<Vec<DeadLetter>, sqlx::Error> {
    rows.into_iter().map(DeadLetter::try_from).collect()
}

/// Keeps a letter; false where it is known.
pub(crate) async fn insert_letter(connection: &mut PgConnection, letter: &DeadLetter) -> Result<bool, sqlx::Error> {
    let headers = Headers::Pairs(letter.headers.clone());
    let inserted = sqlx::query!(
        "INSERT INTO jobs.dead_letters \
         (queue, kind, id, round, reason, error, lane, headers, body, attempt, max_attempts, created_at, failed_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT ON CONSTRAINT dead_letters_job_key DO NOTHING",
        letter.queue,
        letter.kind,
        letter.id,
        number(letter.round),
        letter.reason.as_str(),
        letter.error,
        letter.lane.name(),
        Json(headers) as Json<Headers>,
        letter.body.as_ref(),
        number(letter.attempt),
        number(letter.max_attempts),
        letter.created_at,
        letter.failed_at,
    )
    .execute(connection)
    .await?;
    Ok(inserted.rows_affected() > 0)
}

/// Letters that pass the filter and were not replayed, the newest first, at most `limit`, from the one before `before`. Without
/// bodies and headers.
pub(crate) async fn list_letters(
    connection: &mut PgConnection,
    filter: &LetterFilter,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<DeadLetter>, sqlx::Error> {
    let rows = sqlx::query_as!(
        LetterRow,
        r#"
        SELECT number, queue, kind, id, round, reason, error, lane, '[]'::jsonb AS "headers!: Json<Headers>",
               ''::bytea AS "body!", attempt, max_attempts, created_at, failed_at
        FROM jobs.dead_letters
        WHERE replayed_at IS NULL AND ($1::bigint IS NULL OR number < $1) AND ($2::text IS NULL OR queue = $2)
          AND ($3::text IS NULL OR kind = $3) AND ($4::text IS NULL OR reason = $4)
        ORDER BY number DESC LIMIT $5
        "#,
        before,
        filter.queue,
        filter.kind,
        filter.reason.map(Reason::as_str),
        limit,
    )
    .fetch_all(connection)
    .await?;
    to_letters(rows)
}

/// Letters of this id that were not replayed, one of each queue and kind, kept as they are until the transaction ends.
pub(crate) async fn find_letters(
    connection: &mut PgConnection,
    id: &str,
    queue: Option<&str>,
    kind: Option<&str>,
) -> Result<Vec<DeadLetter>, sqlx::Error> {
    let rows = sqlx::query_as!(
        LetterRow,
        r#"
        SELECT number, queue, kind, id, round, reason, error, lane, headers AS "headers: Json<Headers>", body,
               attempt, max_attempts, created_at, failed_at
        FROM jobs.dead_letters
        WHERE replayed_at IS NULL AND id = $1 AND ($2::text IS NULL OR queue = $2) AND ($3::text IS NULL OR kind = $3)
        ORDER BY number DESC LIMIT 20 FOR UPDATE
        "#,
        id,
        queue,
        kind,
    )
    .fetch_all(connection)
    .await?;
    let mut letters = to_letters(rows)?;
    letters.sort_by(|a, b| (&a.queue, &a.kind, b.number).cmp(&(&b.queue, &b.kind, a.number)));
    letters.dedup_by(|later, first| later.queue == first.queue && later.kind == first.kind);
    Ok(letters)
}

/// The oldest letters of a queue, kind and time that were not replayed.
pub(crate) async fn list_oldest_letters(
    connection: &mut PgConnection,
    filter: &LetterFilter,
    limit: i64,
) -> Result<Vec<DeadLetter>, sqlx::Error> {
    let rows = sqlx::query_as!(
        LetterRow,
        r#"
        SELECT number, queue, kind, id, round, reason, error, lane, headers AS "headers: Json<Headers>", body,
               attempt, max_attempts, created_at, failed_at
        FROM jobs.dead_letters
        WHERE replayed_at IS NULL AND ($1::text IS NULL OR queue = $1) AND ($2::text IS NULL OR kind = $2)
          AND ($3::timestamptz IS NULL OR failed_at < $3)
        ORDER BY number LIMIT $4 FOR UPDATE SKIP LOCKED
        "#,
        filter.queue,
        filter.kind,
        filter.failed_before,
        limit,
    )
    .fetch_all(connection)
    .await?;
    to_letters(rows)
}

/// How many letters of a queue, kind and time were not replayed.
pub(crate) async fn count_letters(connection: &mut PgConnection, filter: &LetterFilter) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM jobs.dead_letters
           WHERE replayed_at IS NULL AND ($1::text IS NULL OR queue = $1) AND ($2::text IS NULL OR kind = $2)
             AND ($3::timestamptz IS NULL OR failed_at < $3)"#,
        filter.queue,
        filter.kind,
        filter.failed_before,
    )
    .fetch_one(connection)
    .await
}

/// Notes that a letter was put back.
pub(crate) async fn mark_replayed(
    connection: &mut PgConnection,
    letter: &DeadLetter,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!("UPDATE jobs.dead_letters SET replayed_at = $2 WHERE number = $1", letter.number, now)
        .execute(connection)
        .await?;
    Ok(())
}

/// Notes of jobs by queue, kind and id that they have come to a round, and so that the letters of earlier ones were put back, also
/// where who did it died before it could note that.
pub(crate) async fn mark_overtaken(
    connection: &mut PgConnection,
    jobs: &[(&str, &str, &str, u32)],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let texts = |of: fn(&(&str, &str, &str, u32)) -> String| jobs.iter().map(of).collect::<Vec<_>>();
    let rounds: Vec<i32> = jobs.iter().map(|(.., round)| number(*round)).collect();
    sqlx::query!(
        "UPDATE jobs.dead_letters AS letter SET replayed_at = $5 \
         FROM unnest($1::text[], $2::text[], $3::text[], $4::int[]) AS job (queue, kind, id, round) \
         WHERE letter.id = job.id AND letter.queue = job.queue AND letter.kind = job.kind AND letter.round < job.round \
         AND letter.replayed_at IS NULL",
        &texts(|job| job.0.to_owned()),
        &texts(|job| job.1.to_owned()),
        &texts(|job| job.2.to_owned()),
        &rounds,
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Deletes the letters of a queue and kind, and says how many.
pub(crate) async fn delete_letters(connection: &mut PgConnection, filter: &LetterFilter) -> Result<u64, sqlx::Error> {
    let deleted = sqlx::query!(
        "DELETE FROM jobs.dead_letters WHERE ($1::text IS NULL OR queue = $1) AND ($2::text IS NULL OR kind = $2)",
        filter.queue,
        filter.kind,
    )
    .execute(connection)
    .await?;
    Ok(deleted.rows_affected())
}

/// Deletes letters from before a time, some at once, and says how many.
pub(crate) async fn delete_letters_before(
    connection: &mut PgConnection,
    before: DateTime<Utc>,
    rows_max: i64,
) -> Result<u64, sqlx::Error> {
    let deleted = sqlx::query!(
        "DELETE FROM jobs.dead_letters WHERE number IN \
         (SELECT number FROM jobs.dead_letters WHERE failed_at < $1 ORDER BY failed_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
        before,
        rows_max,
    )
    .execute(connection)
    .await?;
    Ok(deleted.rows_affected())
}
