//! Schedules, and what was decided at their times.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{number, unexpected, unsigned};
use crate::domain::{CatchUp, Outcome, Overlap, Plan, Schedule};

/// Held by whoever gives times to the broker, so that two instances do not do the same.
const PLANNING: i64 = 0x7363_6865_6475;

struct ScheduleRow {
    id: String,
    name: String,
    service: Option<String>,
    cron: String,
    time_zone: String,
    queue: String,
    kind: String,
    args: String,
    overlap: String,
    catch_up: String,
    catch_up_max: i32,
    jitter_ms: i32,
    max_attempts: i32,
    timeout_ms: i32,
    paused: bool,
    active_since: DateTime<Utc>,
    planned_until: DateTime<Utc>,
    queued_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    revision: i64,
}

impl TryFrom<ScheduleRow> for Schedule {
    type Error = sqlx::Error;

    fn try_from(row: ScheduleRow) -> Result<Self, sqlx::Error> {
        let plan = Plan {
            name: row.name,
            cron: row.cron,
            time_zone: row.time_zone,
            queue: row.queue,
            kind: row.kind,
            args: row.args,
            overlap: Overlap::parse(&row.overlap).ok_or_else(|| unexpected("jobs.schedules.overlap"))?,
            catch_up: CatchUp::parse(&row.catch_up).ok_or_else(|| unexpected("jobs.schedules.catch_up"))?,
            catch_up_max: unsigned(row.catch_up_max),
            jitter_ms: unsigned(row.jitter_ms),
            max_attempts: unsigned(row.max_attempts),
            timeout_ms: unsigned(row.timeout_ms),
        };
        Ok(Self {
            id: row.id,
            plan,
            service: row.service,
            paused: row.paused,
            active_since: row.active_since,
            planned_until: row.planned_until,
            queued_at: row.queued_at,
            created_at: row.created_at,
            updated_at: row.updated_at,
            revision: row.revision,
        })
    }
}

/// What was decided last at a time of a schedule, and the job it submitted last.
#[derive(Clone, Debug, Default)]
pub(crate) struct LastTick {
    pub due_at: Option<DateTime<Utc>>,
    pub outcome: Option<Outcome>,
    pub job_id: Option<String>,
}

/// Schedules behind a name, in its order, at most `limit`.
pub(crate) async fn list_schedules(
    connection: &mut PgConnection,
    queue: Option<&str>,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<Schedule>, sqlx::Error> {
    let rows = sqlx::query_as!(
        ScheduleRow,
        "SELECT id, name, service, cron, time_zone, queue, kind, args, overlap, catch_up, catch_up_max, jitter_ms, \
         max_attempts, timeout_ms, paused, active_since, planned_until, queued_at, created_at, updated_at, revision \
         FROM jobs.schedules WHERE ($1::text IS NULL OR queue = $1) AND ($2::text IS NULL OR name > $2) \
         ORDER BY name LIMIT $3",
        queue,
        after,
        limit,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(Schedule::try_from).collect()
}

/// One schedule, kept as it is until the transaction ends.
pub(crate) async fn find_schedule(connection: &mut PgConnection, id: &str) -> Result<Option<Schedule>, sqlx::Error> {
    let row = sqlx::query_as!(
        ScheduleRow,
        "SELECT id, name, service, cron, time_zone, queue, kind, args, overlap, catch_up, catch_up_max, jitter_ms, \
         max_attempts, timeout_ms, paused, active_since, planned_until, queued_at, created_at, updated_at, revision \
         FROM jobs.schedules WHERE id = $1 FOR UPDATE",
        id,
    )
    .fetch_optional(connection)
    .await?;
    row.map(Schedule::try_from).transpose()
}

/// The schedule that a service declared under this name, kept as it is until the transaction ends.
pub(crate) async fn find_declared(connection: &mut PgConnection, name: &str) -> Result<Option<Schedule>, sqlx::Error> {
    let row = sqlx::query_as!(
        ScheduleRow,
        "SELECT id, name, service, cron, time_zone, queue, kind, args, overlap, catch_up, catch_up_max, jitter_ms, \
         max_attempts, timeout_ms, paused, active_since, planned_until, queued_at, created_at, updated_at, revision \
         FROM jobs.schedules WHERE name = $1 AND service IS NOT NULL FOR UPDATE",
        name,
    )
    .fetch_optional(connection)
    .await?;
    row.map(Schedule::try_from).transpose()
}

/// How many schedules there are over the API, counted one after the other until the transaction ends.
pub(crate) async fn count_schedules(connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended('jobs.schedules', 0))")
        .execute(&mut *connection)
        .await?;
    let count = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM jobs.schedules WHERE service IS NULL"#)
        .fetch_one(connection)
        .await?;
    Ok(u64::try_from(count).unwrap_or_default())
}

/// Inserts a schedule or changes all that may change of it, and notes its new revision. False where another has the name.
pub(crate) async fn put_schedule(connection: &mut PgConnection, schedule: &mut Schedule) -> Result<bool, sqlx::Error> {
    let plan = &schedule.plan;
    let put = sqlx::query_scalar!(
        "INSERT INTO jobs.schedules (id, name, service, cron, time_zone, queue, kind, args, overlap, catch_up, catch_up_max, \
         jitter_ms, max_attempts, timeout_ms, paused, active_since, planned_until, queued_at, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20) \
         ON CONFLICT (id) DO UPDATE SET name = excluded.name, service = excluded.service, cron = excluded.cron, \
         time_zone = excluded.time_zone, queue = excluded.queue, kind = excluded.kind, args = excluded.args, \
         overlap = excluded.overlap, catch_up = excluded.catch_up, catch_up_max = excluded.catch_up_max, \
         jitter_ms = excluded.jitter_ms, max_attempts = excluded.max_attempts, timeout_ms = excluded.timeout_ms, \
         paused = excluded.paused, active_since = excluded.active_since, planned_until = excluded.planned_until, \
         queued_at = excluded.queued_at, updated_at = excluded.updated_at, \
         revision = DEFAULT RETURNING revision",
        schedule.id,
        plan.name,
        schedule.service,
        plan.cron,
        plan.time_zone,
        plan.queue,
        plan.kind,
        plan.args,
        plan.overlap.as_str(),
        plan.catch_up.as_str(),
        number(plan.catch_up_max),
        number(plan.jitter_ms),
        number(plan.max_attempts),
        number(plan.timeout_ms),
        schedule.paused,
        schedule.active_since,
        schedule.planned_until,
        schedule.queued_at,
        schedule.created_at,
        schedule.updated_at,
    )
    .fetch_one(connection)
    .await;
    match put {
        Ok(revision) => {
            schedule.revision = revision;
            Ok(true)
        }
        Err(sqlx::Error::Database(error)) if error.constraint() == Some("schedules_name_key") => Ok(false),
        Err(error) => Err(error),
    }
}

/// Deletes a schedule.
pub(crate) async fn delete_schedule(connection: &mut PgConnection, id: &str) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM jobs.schedules WHERE id = $1", id).execute(connection).await?;
    Ok(())
}

/// Deletes what services declared and do not declare any more, by their names. Not what was touched since: another version of
/// this service, which is being started or replaced, may declare more.
pub(crate) async fn delete_undeclared(
    connection: &mut PgConnection,
    declared: &[String],
    untouched_since: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "DELETE FROM jobs.schedules WHERE service IS NOT NULL AND name <> ALL($1::text[]) AND updated_at < $2",
        declared,
        untouched_since,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Whether nobody else gives times to the broker until the transaction ends.
pub(crate) async fn may_plan(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(r#"SELECT pg_try_advisory_xact_lock($1) AS "may!""#, PLANNING).fetch_one(connection).await
}

/// Notes in which store the times of schedules are. Where it is another than before, what was not decided yet is to be given
/// to it again: from the last time that was decided on, and what may have come later than that one by its jitter. What was
/// decided is not decided again.
pub(crate) async fn note_store(connection: &mut PgConnection, created_at: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE jobs.schedules SET store = $1, planned_until = least(planned_until, greatest(active_since, \
         (SELECT max(due_at) FROM jobs.ticks WHERE schedule_id = id AND due_at = date_trunc('second', due_at)) \
         - make_interval(secs => 60 + jitter_ms / 1000.0))) WHERE store IS DISTINCT FROM $1",
        created_at,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Waits no longer for jobs of schedules that were in a work queue whose store was lost before they ended.
pub(crate) async fn close_lost(connection: &mut PgConnection, created_at: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE jobs.ticks SET is_open = false FROM jobs.schedules AS schedule \
         WHERE is_open AND schedule.id = schedule_id AND EXISTS (SELECT FROM jobs.jobs AS job WHERE job.id = job_id \
         AND job.queue = schedule.queue AND job.kind = schedule.kind AND job.finished_at IS NULL AND job.created_at < $1)",
        created_at,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Notes up to when the times of schedules were given to the broker; not where a schedule has changed meanwhile.
pub(crate) async fn note_planned(
    connection: &mut PgConnection,
    planned: &[(&Schedule, DateTime<Utc>)],
) -> Result<(), sqlx::Error> {
    let ids: Vec<String> = planned.iter().map(|(schedule, _)| schedule.id.clone()).collect();
    let before: Vec<DateTime<Utc>> = planned.iter().map(|(schedule, _)| schedule.planned_until).collect();
    let until: Vec<DateTime<Utc>> = planned.iter().map(|(_, until)| *until).collect();
    sqlx::query!(
        "UPDATE jobs.schedules SET planned_until = given.until \
         FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[]) AS given (id, before, until) \
         WHERE schedules.id = given.id AND planned_until = given.before",
        &ids,
        &before,
        &until,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Notes what was decided. False where it had been decided before.
pub(crate) async fn insert_tick(
    connection: &mut PgConnection,
    schedule_id: &str,
    due_at: DateTime<Utc>,
    outcome: Outcome,
    job_id: Option<&str>,
) -> Result<bool, sqlx::Error> {
    let inserted = sqlx::query!(
        "INSERT INTO jobs.ticks (schedule_id, due_at, outcome, job_id, is_open) VALUES ($1, $2, $3, $4::text, $4::text IS NOT NULL) \
         ON CONFLICT (schedule_id, due_at) DO NOTHING",
        schedule_id,
        due_at,
        outcome.as_str(),
        job_id,
    )
    .execute(connection)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

/// Notes that a time which had to wait for others has its job now. It may have waited for longer than it is known what was decided.
pub(crate) async fn start_queued(
    connection: &mut PgConnection,
    schedule_id: &str,
    due_at: DateTime<Utc>,
    job_id: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO jobs.ticks (schedule_id, due_at, outcome, job_id, is_open) VALUES ($1, $2, 'STARTED', $3, true) \
         ON CONFLICT (schedule_id, due_at) DO UPDATE SET outcome = 'STARTED', job_id = excluded.job_id, is_open = true",
        schedule_id,
        due_at,
        job_id,
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!("UPDATE jobs.schedules SET queued_at = NULL WHERE id = $1", schedule_id).execute(connection).await?;
    Ok(())
}

/// Has a time wait until the others' jobs have ended.
pub(crate) async fn queue_tick(
    connection: &mut PgConnection,
    schedule_id: &str,
    due_at: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!("UPDATE jobs.schedules SET queued_at = $2 WHERE id = $1", schedule_id, due_at)
        .execute(connection)
        .await?;
    Ok(())
}

/// How many jobs of a schedule have not ended, as far as the history knows. Others may have jobs of these ids in queues of
/// theirs, so only those count that are in its own.
pub(crate) async fn count_open(connection: &mut PgConnection, schedule: &Schedule) -> Result<u64, sqlx::Error> {
    sqlx::query!(
        "UPDATE jobs.ticks SET is_open = false WHERE schedule_id = $1 AND is_open AND NOT EXISTS \
         (SELECT FROM jobs.jobs WHERE queue = $2 AND kind = $3 AND jobs.id = ticks.job_id AND finished_at IS NULL)",
        schedule.id,
        schedule.plan.queue,
        schedule.plan.kind,
    )
    .execute(&mut *connection)
    .await?;
    let open = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM jobs.ticks WHERE schedule_id = $1 AND is_open"#,
        schedule.id,
    )
    .fetch_one(connection)
    .await?;
    Ok(u64::try_from(open).unwrap_or_default())
}

/// The schedules with a time that waits for one of these jobs to end; all such schedules where no jobs are given. In the order
/// of their ids.
pub(crate) async fn list_queued(
    connection: &mut PgConnection,
    job_ids: Option<&[String]>,
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT id FROM jobs.schedules WHERE queued_at IS NOT NULL AND ($1::text[] IS NULL OR EXISTS \
         (SELECT FROM jobs.ticks WHERE schedule_id = schedules.id AND is_open AND job_id = ANY($1))) ORDER BY id",
        job_ids,
    )
    .fetch_all(connection)
    .await
}

/// What was decided last, by schedule in the order that is given.
pub(crate) async fn last_ticks(connection: &mut PgConnection, ids: &[String]) -> Result<Vec<LastTick>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"
        SELECT last.due_at AS "due_at?", last.outcome AS "outcome?", started.job_id AS "job_id?"
        FROM unnest($1::text[]) WITH ORDINALITY AS given (id, place)
        LEFT JOIN LATERAL (SELECT due_at, outcome FROM jobs.ticks WHERE schedule_id = given.id ORDER BY due_at DESC LIMIT 1)
            AS last ON true
        LEFT JOIN LATERAL (SELECT job_id FROM jobs.ticks WHERE schedule_id = given.id AND job_id IS NOT NULL
                           ORDER BY due_at DESC LIMIT 1) AS started ON true
        ORDER BY place
        "#,
        ids,
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| LastTick {
            due_at: row.due_at,
            outcome: row.outcome.as_deref().and_then(Outcome::parse),
            job_id: row.job_id,
        })
        .collect())
}

/// Forgets what was decided before this time, at most so many rows, and says how many.
pub(crate) async fn delete_ticks(
    connection: &mut PgConnection,
    before: DateTime<Utc>,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    sqlx::query!(
        "UPDATE jobs.ticks SET is_open = false FROM jobs.schedules AS schedule \
         WHERE is_open AND due_at < $1 AND schedule.id = schedule_id AND NOT EXISTS (SELECT FROM jobs.jobs AS job \
         WHERE job.queue = schedule.queue AND job.kind = schedule.kind AND job.id = job_id AND job.finished_at IS NULL)",
        before,
    )
    .execute(&mut *connection)
    .await?;
    let deleted = sqlx::query!(
        "DELETE FROM jobs.ticks WHERE (schedule_id, due_at) IN (SELECT schedule_id, due_at FROM jobs.ticks AS old \
         WHERE NOT is_open AND due_at < $1 AND EXISTS (SELECT FROM jobs.ticks AS later \
         WHERE later.schedule_id = old.schedule_id AND later.due_at > old.due_at) LIMIT $2)",
        before,
        limit,
    )
    .execute(connection)
    .await?;
    Ok(deleted.rows_affected())
}
