//! The history of jobs.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use kernel::jobs::Envelope;
use sqlx::error::DatabaseError;
use sqlx::types::Json;
use sqlx::{Connection as _, PgConnection};
use subjects::job::Lane;

use super::{number, unexpected, unsigned};
use crate::domain::{Job, JobError, State, is_made_of_place, rank};

/// Errors of a job that are shown.
const ERRORS_MAX: i64 = 100;

/// Kinds that are shown.
const KINDS_MAX: i64 = 1_000;

/// Jobs whose cancellation is looked after at once.
const TO_CANCEL_MAX: i64 = 200;

/// Which jobs are listed.
#[derive(Debug, Default)]
pub(crate) struct JobFilter {
    pub state: Option<State>,
    pub queue: Option<String>,
    pub kind: Option<String>,
}

/// A job that was just submitted.
#[derive(Debug)]
pub(crate) struct NewJob {
    pub queue: String,
    pub kind: String,
    pub id: String,
    pub args: String,
    pub max_attempts: u32,
    pub run_at: Option<DateTime<Utc>>,
}

/// What a runner told of a job.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub queue: String,
    pub kind: String,
    pub id: String,
    pub state: State,
    pub rank: i64,
    pub round: u32,
    pub attempt: u32,
    pub max_attempts: u32,
    pub at: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    pub run_at: Option<DateTime<Utc>>,
    pub started_at: Option<DateTime<Utc>>,
    pub args: Option<String>,
    pub progress: Option<String>,
    pub result: Option<String>,
    pub error: String,
    /// Of one that was cancelled while it ran.
    pub envelope: Option<Envelope>,
}

struct JobRow {
    number: i64,
    queue: String,
    kind: String,
    id: String,
    state: String,
    rank: i64,
    round: i32,
    attempt: i32,
    max_attempts: i32,
    args: Option<String>,
    progress: Option<String>,
    result: Option<String>,
    created_at: DateTime<Utc>,
    run_at: Option<DateTime<Utc>>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    cancel_requested: bool,
    cancel_requested_at: Option<DateTime<Utc>>,
    sequence: Option<i64>,
}

impl TryFrom<JobRow> for Job {
    type Error = sqlx::Error;

    fn try_from(row: JobRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            number: row.number,
            queue: row.queue,
            kind: row.kind,
            id: row.id,
            state: State::parse(&row.state).ok_or_else(|| unexpected("jobs.jobs.state"))?,
            rank: row.rank,
            round: unsigned(row.round),
            attempt: unsigned(row.attempt),
            max_attempts: unsigned(row.max_attempts),
            args: row.args,
            progress: row.progress,
            result: row.result,
            created_at: row.created_at,
            run_at: row.run_at,
            started_at: row.started_at,
            finished_at: row.finished_at,
            cancel_requested: row.cancel_requested,
            cancel_requested_at: row.cancel_requested_at,
            sequence: row.sequence.and_then(|sequence| u64::try_from(sequence).ok()),
        })
    }
}

fn to_jobs(rows: Vec<JobRow>) -> Result<Vec<Job>, sqlx::Error> {
    rows.into_iter().map(Job::try_from).collect()
}

/// Inserts jobs that are not there yet, and says which were not: their places in `jobs`.
#[tracing::instrument(name = "storage.job.insert", skip_all)]
pub(crate) async fn insert_jobs(
    connection: &mut PgConnection,
    jobs: &[&NewJob],
    now: DateTime<Utc>,
) -> Result<Vec<usize>, sqlx::Error> {
    let texts = |of: fn(&NewJob) -> &str| jobs.iter().map(|job| of(job).to_owned()).collect::<Vec<_>>();
    let run_at: Vec<Option<DateTime<Utc>>> = jobs.iter().map(|job| job.run_at).collect();
    let max_attempts: Vec<i32> = jobs.iter().map(|job| number(job.max_attempts)).collect();
    let inserted = sqlx::query!(
        r#"
        INSERT INTO jobs.jobs (queue, kind, id, state, rank, round, attempt, max_attempts, args, created_at, run_at)
        SELECT queue, kind, id, 'PENDING', $7, 0, 0, max_attempts, args, $8, run_at
        FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::text[], $6::timestamptz[])
             WITH ORDINALITY AS new (queue, kind, id, max_attempts, args, run_at, place)
        ORDER BY place
        ON CONFLICT (queue, kind, id) DO NOTHING
        RETURNING queue, kind, id
        "#,
        &texts(|job| &job.queue),
        &texts(|job| &job.kind),
        &texts(|job| &job.id),
        &max_attempts,
        &texts(|job| &job.args),
        &run_at as &[Option<DateTime<Utc>>],
        rank(0, 0, 0, State::Pending),
        now,
    )
    .fetch_all(connection)
    .await?;
    let mut inserted = inserted.into_iter().peekable();
    // In the order in which they were given; the second of two alike is not among them.
    let is_next = |(place, job): (usize, &&NewJob)| {
        inserted.next_if(|row| row.queue == job.queue && row.kind == job.kind && row.id == job.id).map(|_| place)
    };
    Ok(jobs.iter().enumerate().filter_map(is_next).collect())
}

/// Those of these jobs that are known, by queue, kind and id.
pub(crate) async fn find_known(
    connection: &mut PgConnection,
    jobs: &[&NewJob],
) -> Result<BTreeSet<(String, String, String)>, sqlx::Error> {
    if jobs.is_empty() {
        return Ok(BTreeSet::new());
    }
    let texts = |of: fn(&NewJob) -> &str| jobs.iter().map(|job| of(job).to_owned()).collect::<Vec<_>>();
    let known = sqlx::query!(
        "SELECT known.queue, known.kind, known.id FROM jobs.jobs AS known \
         JOIN unnest($1::text[], $2::text[], $3::text[]) AS asked (queue, kind, id) \
         ON known.queue = asked.queue AND known.kind = asked.kind AND known.id = asked.id",
        &texts(|job| &job.queue),
        &texts(|job| &job.kind),
        &texts(|job| &job.id),
    )
    .fetch_all(connection)
    .await?;
    Ok(known.into_iter().map(|row| (row.queue, row.kind, row.id)).collect())
}

/// Inserts many jobs that are about to be stored in a row, due at once, and gives the number of their batch. Where one of them is
/// there already, the others are inserted without a batch.
#[tracing::instrument(name = "storage.job.insert_batch", skip_all)]
pub(crate) async fn insert_batch(
    connection: &mut PgConnection,
    jobs: &[&NewJob],
    now: DateTime<Utc>,
) -> Result<Option<i64>, sqlx::Error> {
    // Looking for each whether it is there would cost as much as half of the rest; nearly always none is.
    let mut savepoint = connection.begin().await?;
    match insert_new(&mut savepoint, jobs, now).await {
        Ok(batch) => {
            savepoint.commit().await?;
            Ok(Some(batch))
        }
        Err(error) if is_overtaken(&error) => {
            savepoint.rollback().await?;
            insert_jobs(connection, jobs, now).await?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

async fn insert_new(connection: &mut PgConnection, jobs: &[&NewJob], now: DateTime<Utc>) -> Result<i64, sqlx::Error> {
    let texts = |of: fn(&NewJob) -> &str| jobs.iter().map(|job| of(job)).collect::<Vec<_>>();
    let max_attempts: Vec<i32> = jobs.iter().map(|job| number(job.max_attempts)).collect();
    sqlx::query_scalar!(
        r#"
        WITH batch AS (INSERT INTO jobs.batches (created_at) VALUES ($7) RETURNING number),
        inserted AS (
            INSERT INTO jobs.jobs
                (queue, kind, id, state, rank, round, attempt, max_attempts, args, created_at, batch, sequence)
            SELECT queue, kind, id, 'PENDING', $6, 0, 0, max_attempts, args, $7, (SELECT number FROM batch), place - 1
            FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::text[])
                 WITH ORDINALITY AS new (queue, kind, id, max_attempts, args, place))
        SELECT number AS "number!" FROM batch
        "#,
        &texts(|job| &job.queue) as &[&str],
        &texts(|job| &job.kind) as &[&str],
        &texts(|job| &job.id) as &[&str],
        &max_attempts,
        &texts(|job| &job.args) as &[&str],
        rank(0, 0, 0, State::Pending),
        now,
    )
    .fetch_one(connection)
    .await
}

/// Whether somebody else inserts, or has inserted, the same: 23505 unique_violation, 40P01 deadlock_detected.
fn is_overtaken(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    code.is_some_and(|code| matches!(&*code, "23505" | "40P01"))
}

/// Notes where the jobs of a batch begin in the work queue.
pub(crate) async fn note_batch(connection: &mut PgConnection, batch: i64, sequence: u64) -> Result<(), sqlx::Error> {
    let sequence = i64::try_from(sequence).unwrap_or(i64::MAX);
    sqlx::query!("UPDATE jobs.batches SET sequence = $2 WHERE number = $1", batch, sequence)
        .execute(connection)
        .await?;
    Ok(())
}

/// Deletes batches from before a time of which no job is left, some at once, and says how many.
pub(crate) async fn delete_batches(
    connection: &mut PgConnection,
    before: DateTime<Utc>,
    rows_max: i64,
) -> Result<u64, sqlx::Error> {
    // Jobs have their numbers nearly in the order in which they come: what is older by far than the first has none left.
    let deleted = sqlx::query!(
        "DELETE FROM jobs.batches WHERE number IN ( \
             SELECT number FROM jobs.batches WHERE created_at < least( \
                 $1, (SELECT created_at FROM jobs.jobs ORDER BY number LIMIT 1) - interval '1 hour') \
             ORDER BY created_at LIMIT $2)",
        before,
        rows_max,
    )
    .execute(connection)
    .await?;
    Ok(deleted.rows_affected())
}

/// Inserts few jobs that were submitted, with their places in the work queue. Of those that a runner has told of meanwhile it
/// knows more.
#[tracing::instrument(name = "storage.job.insert_submitted", skip_all)]
pub(crate) async fn insert_submitted(
    connection: &mut PgConnection,
    jobs: &[(&NewJob, Option<u64>)],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let texts = |of: fn(&NewJob) -> &str| jobs.iter().map(|(job, _)| of(job)).collect::<Vec<_>>();
    let run_at: Vec<Option<DateTime<Utc>>> = jobs.iter().map(|(job, _)| job.run_at).collect();
    let max_attempts: Vec<i32> = jobs.iter().map(|(job, _)| number(job.max_attempts)).collect();
    let sequences: Vec<Option<i64>> =
        jobs.iter().map(|(_, sequence)| sequence.and_then(|sequence| i64::try_from(sequence).ok())).collect();
    sqlx::query!(
        "INSERT INTO jobs.jobs (queue, kind, id, state, rank, round, attempt, max_attempts, args, created_at, run_at, sequence) \
         SELECT queue, kind, id, 'PENDING', $8, 0, 0, max_attempts, args, $9, run_at, sequence \
         FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::text[], $6::timestamptz[], $7::bigint[]) \
         WITH ORDINALITY AS new (queue, kind, id, max_attempts, args, run_at, sequence, place) \
         ORDER BY place ON CONFLICT (queue, kind, id) DO NOTHING",
        &texts(|job| &job.queue) as &[&str],
        &texts(|job| &job.kind) as &[&str],
        &texts(|job| &job.id) as &[&str],
        &max_attempts,
        &texts(|job| &job.args) as &[&str],
        &run_at as &[Option<DateTime<Utc>>],
        &sequences as &[Option<i64>],
        rank(0, 0, 0, State::Pending),
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Notes where jobs are in the work queue.
pub(crate) async fn note_sequences(
    connection: &mut PgConnection,
    places: &[(&NewJob, u64)],
) -> Result<(), sqlx::Error> {
    let texts = |of: fn(&NewJob) -> &str| places.iter().map(|(job, _)| of(job).to_owned()).collect::<Vec<_>>();
    let sequences: Vec<i64> = places.iter().map(|(_, sequence)| i64::try_from(*sequence).unwrap_or(i64::MAX)).collect();
    sqlx::query!(
        "UPDATE jobs.jobs SET sequence = place.sequence, batch = NULL \
         FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) AS place (queue, kind, id, sequence) \
         WHERE jobs.queue = place.queue AND jobs.kind = place.kind AND jobs.id = place.id",
        &texts(|job| &job.queue),
        &texts(|job| &job.kind),
        &texts(|job| &job.id),
        &sequences,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Forgets jobs whose ids another job has now: ids that were made of places in the stream begin anew when its store was lost, and
/// nothing of the former job is the new one's.
async fn delete_former(connection: &mut PgConnection, told: &[Told]) -> Result<(), sqlx::Error> {
    let told: Vec<&Told> = told.iter().filter(|told| is_made_of_place(&told.id)).collect();
    if told.is_empty() {
        return Ok(());
    }
    let texts = |of: fn(&Told) -> &str| told.iter().map(|told| of(told).to_owned()).collect::<Vec<_>>();
    let created_at: Vec<DateTime<Utc>> = told.iter().map(|told| told.created_at).collect();
    sqlx::query!(
        "DELETE FROM jobs.jobs AS known \
         USING unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[]) AS told (queue, kind, id, created_at) \
         WHERE known.queue = told.queue AND known.kind = told.kind AND known.id = told.id \
         AND known.created_at < told.created_at",
        &texts(|told| &told.queue),
        &texts(|told| &told.kind),
        &texts(|told| &told.id),
        &created_at,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Brings jobs to what was told of them, each told of once, and gives those that changed. What comes late changes nothing; of an
/// attempt that runs what comes last counts.
#[tracing::instrument(name = "storage.job.apply", skip_all)]
pub(crate) async fn apply(connection: &mut PgConnection, told: &[Told]) -> Result<Vec<Job>, sqlx::Error> {
    let texts = |of: fn(&Told) -> &str| told.iter().map(|told| of(told).to_owned()).collect::<Vec<_>>();
    let maybe = |of: fn(&Told) -> &Option<String>| told.iter().map(|told| of(told).clone()).collect::<Vec<_>>();
    let numbers = |of: fn(&Told) -> u32| told.iter().map(|told| number(of(told))).collect::<Vec<_>>();
    let times = |of: fn(&Told) -> Option<DateTime<Utc>>| told.iter().map(of).collect::<Vec<Option<DateTime<Utc>>>>();
    let ranks: Vec<i64> = told.iter().map(|told| told.rank).collect();
    let created_at: Vec<DateTime<Utc>> = told.iter().map(|told| told.created_at).collect();
    delete_former(connection, told).await?;
    let rows = sqlx::query_as!(
        JobRow,
        r#"
        INSERT INTO jobs.jobs AS known (queue, kind, id, state, rank, round, attempt, max_attempts, args, progress, result,
                                        created_at, run_at, started_at, finished_at)
        SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::int[], $7::int[], $8::int[],
                             $9::text[], $10::text[], $11::text[], $12::timestamptz[], $13::timestamptz[],
                             $14::timestamptz[], $15::timestamptz[])
        ON CONFLICT (queue, kind, id) DO UPDATE SET
            state = excluded.state, rank = excluded.rank, round = excluded.round, attempt = excluded.attempt,
            max_attempts = excluded.max_attempts, args = coalesce(known.args, excluded.args),
            progress = coalesce(excluded.progress, known.progress), result = excluded.result,
            run_at = excluded.run_at, started_at = coalesce(excluded.started_at, known.started_at),
            finished_at = excluded.finished_at,
            cancel_requested = known.cancel_requested AND excluded.round = known.round
        WHERE excluded.rank > known.rank OR (excluded.rank = known.rank AND known.state = 'RUNNING')
        RETURNING number, queue, kind, id, state, rank, round, attempt, max_attempts, args, progress, result, created_at,
                  run_at, started_at, finished_at, cancel_requested, cancel_requested_at,
                  CASE WHEN batch IS NULL THEN sequence
                       WHEN cancel_requested THEN -- Nobody asks for it of others.
                           sequence + (SELECT sequence FROM jobs.batches WHERE batches.number = known.batch)
                  END AS sequence
        "#,
        &texts(|told| &told.queue),
        &texts(|told| &told.kind),
        &texts(|told| &told.id),
        &texts(|told| told.state.as_str()),
        &ranks,
        &numbers(|told| told.round),
        &numbers(|told| told.attempt),
        &numbers(|told| told.max_attempts),
        &maybe(|told| &told.args) as &[Option<String>],
        &maybe(|told| &told.progress) as &[Option<String>],
        &maybe(|told| &told.result) as &[Option<String>],
        &created_at,
        &times(|told| told.run_at) as &[Option<DateTime<Utc>>],
        &times(|told| told.started_at) as &[Option<DateTime<Utc>>],
        &times(|told| told.state.has_ended().then_some(told.at)) as &[Option<DateTime<Utc>>],
    )
    .fetch_all(&mut *connection)
    .await?;
    insert_errors(connection, told).await?;
    to_jobs(rows)
}

/// Keeps what went wrong in each attempt.
pub(crate) async fn insert_errors(connection: &mut PgConnection, told: &[Told]) -> Result<(), sqlx::Error> {
    let failed: Vec<&Told> = told.iter().filter(|told| !told.error.is_empty()).collect();
    if failed.is_empty() {
        return Ok(());
    }
    let texts = |of: fn(&Told) -> &str| failed.iter().map(|told| of(told).to_owned()).collect::<Vec<_>>();
    let numbers = |of: fn(&Told) -> u32| failed.iter().map(|told| number(of(told))).collect::<Vec<_>>();
    let at: Vec<DateTime<Utc>> = failed.iter().map(|told| told.at).collect();
    sqlx::query!(
        "INSERT INTO jobs.errors (queue, kind, id, round, attempt, at, message) \
         SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::int[], $6::timestamptz[], $7::text[]) \
         ON CONFLICT (queue, kind, id, round, attempt) DO NOTHING",
        &texts(|told| &told.queue),
        &texts(|told| &told.kind),
        &texts(|told| &told.id),
        &numbers(|told| told.round),
        &numbers(|told| told.attempt),
        &at,
        &texts(|told| &told.error),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Jobs of this id, in any queue and kind unless they are given, and kept as they are until the transaction ends.
pub(crate) async fn find_jobs(
    connection: &mut PgConnection,
    id: &str,
    queue: Option<&str>,
    kind: Option<&str>,
) -> Result<Vec<Job>, sqlx::Error> {
    let rows = sqlx::query_as!(
        JobRow,
        "SELECT number, queue, kind, id, state, rank, round, attempt, max_attempts, args, progress, result, created_at, run_at, \
         started_at, finished_at, cancel_requested, cancel_requested_at, sequence + CASE WHEN batch IS NULL THEN 0 ELSE \
         (SELECT sequence FROM jobs.batches WHERE batches.number = jobs.batch) END AS sequence FROM jobs.jobs \
         WHERE id = $1 AND ($2::text IS NULL OR queue = $2) AND ($3::text IS NULL OR kind = $3) \
         ORDER BY queue, kind LIMIT 20 FOR UPDATE",
        id,
        queue,
        kind,
    )
    .fetch_all(connection)
    .await?;
    to_jobs(rows)
}

/// Jobs that pass the filter, the newest first, at most `limit`, from the one before `before`. Without arguments and results.
#[tracing::instrument(name = "storage.job.list", skip_all)]
pub(crate) async fn list_jobs(
    connection: &mut PgConnection,
    filter: &JobFilter,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<Job>, sqlx::Error> {
    // Planned for the filters at hand: one plan for all would look through every queue for the jobs of one.
    sqlx::query!("SET LOCAL plan_cache_mode = force_custom_plan").execute(&mut *connection).await?;
    let rows = sqlx::query_as!(
        JobRow,
        "SELECT number, queue, kind, id, state, rank, round, attempt, max_attempts, NULL::text AS args, progress, \
         NULL::text AS result, created_at, run_at, started_at, finished_at, cancel_requested, cancel_requested_at, \
         NULL::bigint AS sequence FROM jobs.jobs \
         WHERE ($1::bigint IS NULL OR number < $1) AND ($2::text IS NULL OR state = $2) \
         AND ($3::text IS NULL OR queue = $3) AND ($4::text IS NULL OR kind = $4) \
         ORDER BY number DESC LIMIT $5",
        before,
        filter.state.map(State::as_str),
        filter.queue,
        filter.kind,
        limit,
    )
    .fetch_all(connection)
    .await?;
    to_jobs(rows)
}

/// What went wrong with a job, from its first attempt on.
pub(crate) async fn list_errors(connection: &mut PgConnection, job: &Job) -> Result<Vec<JobError>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT attempt, at, message FROM jobs.errors WHERE queue = $1 AND kind = $2 AND id = $3 \
         ORDER BY round, attempt LIMIT $4",
        job.queue,
        job.kind,
        job.id,
        ERRORS_MAX,
    )
    .fetch_all(connection)
    .await?;
    let error = |attempt, at, message| JobError { attempt: unsigned(attempt), at, message };
    Ok(rows.into_iter().map(|row| error(row.attempt, row.at, row.message)).collect())
}

/// Queues and kinds that were seen, in order.
pub(crate) async fn list_kinds(connection: &mut PgConnection) -> Result<Vec<(String, String)>, sqlx::Error> {
    // From one to the next: there are few of them and many jobs of each.
    let rows = sqlx::query!(
        r#"
        WITH RECURSIVE seen AS (
            (SELECT queue, kind FROM jobs.jobs ORDER BY queue, kind LIMIT 1)
            UNION ALL
            SELECT next.queue, next.kind FROM seen, LATERAL (
                SELECT queue, kind FROM jobs.jobs WHERE (queue, kind) > (seen.queue, seen.kind)
                ORDER BY queue, kind LIMIT 1
            ) AS next
        )
        SELECT queue AS "queue!", kind AS "kind!" FROM seen LIMIT $1
        "#,
        KINDS_MAX
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.queue, row.kind)).collect())
}

/// Notes that a job is to be cancelled.
pub(crate) async fn request_cancellation(
    connection: &mut PgConnection,
    job: &Job,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE jobs.jobs SET cancel_requested = true, \
         cancel_requested_at = CASE WHEN cancel_requested THEN coalesce(cancel_requested_at, $2) ELSE $2 END \
         WHERE number = $1",
        job.number,
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Keeps what a job was stored with, for when it is put back: its message goes, or is gone. Not of another round than it is in.
pub(crate) async fn keep_envelope(
    connection: &mut PgConnection,
    (queue, kind, id): (&str, &str, &str),
    round: u32,
    envelope: &Envelope,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE jobs.jobs SET headers = $5, lane = $6 WHERE queue = $1 AND kind = $2 AND id = $3 AND round = $4",
        queue,
        kind,
        id,
        number(round),
        Json(&envelope.headers) as Json<&Vec<(String, String)>>,
        envelope.lane.name(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// What was kept of a job; nothing where its runner never told.
pub(crate) async fn find_envelope(connection: &mut PgConnection, job: &Job) -> Result<Envelope, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT headers AS "headers: Json<Vec<(String, String)>>", lane FROM jobs.jobs WHERE number = $1"#,
        job.number,
    )
    .fetch_one(connection)
    .await?;
    Ok(Envelope {
        lane: row.lane.as_deref().and_then(Lane::parse).unwrap_or_default(),
        headers: row.headers.map(|headers| headers.0).unwrap_or_default(),
    })
}

/// Notes that a job is cancelled that did not run.
pub(crate) async fn set_cancelled(
    connection: &mut PgConnection,
    job: &Job,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    // Behind everything that was told of the attempt; what is told of a later one counts.
    let rank = job.rank - job.rank % 10 + rank(0, 0, 0, State::Cancelled);
    sqlx::query!(
        "UPDATE jobs.jobs SET state = 'CANCELLED', rank = $2, cancel_requested = true, run_at = NULL, finished_at = $3 \
         WHERE number = $1",
        job.number,
        rank,
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Jobs that are to be cancelled and have not ended.
pub(crate) async fn list_to_cancel(connection: &mut PgConnection) -> Result<Vec<Job>, sqlx::Error> {
    let rows = sqlx::query_as!(
        JobRow,
        "SELECT number, queue, kind, id, state, rank, round, attempt, max_attempts, NULL::text AS args, progress, \
         NULL::text AS result, created_at, run_at, started_at, finished_at, cancel_requested, cancel_requested_at, \
         sequence + CASE WHEN batch IS NULL THEN 0 ELSE \
         (SELECT sequence FROM jobs.batches WHERE batches.number = jobs.batch) END AS sequence FROM jobs.jobs \
         WHERE cancel_requested AND finished_at IS NULL ORDER BY number LIMIT $1 FOR UPDATE SKIP LOCKED",
        TO_CANCEL_MAX,
    )
    .fetch_all(connection)
    .await?;
    to_jobs(rows)
}

/// A job begins anew, in the next round. `None` where it has come as far already.
pub(crate) async fn put_back(
    connection: &mut PgConnection,
    job: &NewJob,
    round: u32,
    created_at: DateTime<Utc>,
) -> Result<Option<Job>, sqlx::Error> {
    let row = sqlx::query_as!(
        JobRow,
        "INSERT INTO jobs.jobs AS known \
         (queue, kind, id, state, rank, round, attempt, max_attempts, args, created_at, run_at) \
         VALUES ($1, $2, $3, 'PENDING', $4, $5, 0, $6, $7, $8, $9) \
         ON CONFLICT (queue, kind, id) DO UPDATE SET state = 'PENDING', rank = excluded.rank, round = excluded.round, \
         attempt = 0, progress = NULL, result = NULL, run_at = excluded.run_at, started_at = NULL, finished_at = NULL, \
         cancel_requested = false, cancel_requested_at = NULL, sequence = NULL, batch = NULL, headers = NULL, lane = NULL \
         WHERE known.rank < excluded.rank \
         RETURNING number, queue, kind, id, state, rank, round, attempt, max_attempts, args, progress, result, created_at, \
         run_at, started_at, finished_at, cancel_requested, cancel_requested_at, sequence",
        job.queue,
        job.kind,
        job.id,
        rank(round, 0, 0, State::Pending),
        number(round),
        number(job.max_attempts),
        job.args,
        created_at,
        job.run_at,
    )
    .fetch_optional(connection)
    .await?;
    row.map(Job::try_from).transpose()
}

/// Deletes jobs that ended before a time, some at once, and says how many.
pub(crate) async fn delete_ended(
    connection: &mut PgConnection,
    before: DateTime<Utc>,
    rows_max: i64,
) -> Result<u64, sqlx::Error> {
    let deleted = sqlx::query!(
        "DELETE FROM jobs.jobs WHERE number IN \
         (SELECT number FROM jobs.jobs WHERE finished_at < $1 ORDER BY finished_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
        before,
        rows_max,
    )
    .execute(connection)
    .await?;
    Ok(deleted.rows_affected())
}
