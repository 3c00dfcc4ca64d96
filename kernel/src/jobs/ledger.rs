//! What a runner remembers of single jobs: which began again and again without an end, and which ids were there before.

use std::error::Error as _;

use chrono::{DateTime, Utc};

use super::engine::Engine;
use super::job::{Delivery, Job};
use crate::{Database, Error, Result};

/// What is known of a job that came back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Past {
    /// How often it began without an end, before it begins now.
    pub(super) in_vain: u32,
    /// Whether that is noted. Else its first runner said nothing of it: it may have died with it, or never have had it.
    pub(super) is_known: bool,
}

impl Engine {
    /// Notes that a job which came back begins again, alone, and says how often it did so in vain.
    pub(super) async fn note_begin(&self, job: &Job) -> Result<Past> {
        let Some(database) = self.database() else { return Ok(Past { in_vain: 0, is_known: true }) };
        let begun = sqlx::query_as::<_, (i32, bool)>(
            "WITH known AS (SELECT FROM job_ledger WHERE queue = $1 AND kind = $2 AND job_id = $3 AND round = $4 AND attempt = $5) \
             INSERT INTO job_ledger (queue, kind, job_id, round, attempt, begun) VALUES ($1, $2, $3, $4, $5, 1) \
             ON CONFLICT (queue, kind, job_id, round, attempt) \
             DO UPDATE SET begun = job_ledger.begun + 1, begun_at = clock_timestamp() \
             RETURNING begun, EXISTS (SELECT FROM known)",
        );
        let begun = begun.bind(job.place.queue.to_string()).bind(job.place.kind.to_string()).bind(job.ledger_id());
        let begun = begun.bind(number(job.round)).bind(number(job.attempt));
        let (begun, is_known) = begun.fetch_one(database.pool()).await?;
        // The first run, which none of these is, counts as one too.
        Ok(Past { in_vain: u32::try_from(begun).unwrap_or_default(), is_known })
    }

    /// Notes that a job runs for the first time, which is supposed of it anyway when it comes back.
    pub(super) async fn note_first(&self, job: &Job) -> Result<()> {
        self.note_start(job, 0).await
    }

    /// Notes that a job goes back which came for the first time and has not begun.
    pub(super) async fn note_unbegun(&self, job: &Job) -> Result<()> {
        self.note_start(job, -1).await
    }

    async fn note_start(&self, job: &Job, begun: i32) -> Result<()> {
        let Some(database) = self.database() else { return Ok(()) };
        let noted = sqlx::query(
            "INSERT INTO job_ledger (queue, kind, job_id, round, attempt, begun) VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT (queue, kind, job_id, round, attempt) DO NOTHING",
        );
        let noted = noted.bind(job.place.queue.to_string()).bind(job.place.kind.to_string()).bind(job.ledger_id());
        let noted = noted.bind(number(job.round)).bind(number(job.attempt)).bind(begun);
        noted.execute(database.pool()).await?;
        Ok(())
    }

    /// Whether another message was this job before: the first that was taken is it. What has not ended and was lost with its
    /// stream, or with the stream's last messages, gives way.
    pub(super) async fn is_duplicate(&self, database: &Database, job: &Job, delivery: &Delivery) -> Result<bool> {
        let (queue, kind, id) = (job.place.queue.to_string(), job.place.kind.to_string(), job.id.to_string());
        // To the microsecond, which is what the database keeps.
        let published = DateTime::from_timestamp_micros(delivery.published.timestamp_micros()).unwrap_or_default();
        let sequence = i64::try_from(delivery.sequence).unwrap_or(i64::MAX);
        let inserted = sqlx::query(
            "INSERT INTO job_ids (queue, kind, job_id, published_at, sequence) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (queue, kind, job_id) DO NOTHING",
        );
        let inserted = inserted.bind(&queue).bind(&kind).bind(&id).bind(published).bind(sequence);
        if inserted.execute(database.pool()).await?.rows_affected() > 0 {
            return Ok(false);
        }
        let known = sqlx::query_as::<_, (DateTime<Utc>, i64, bool)>(
            "SELECT published_at, sequence, ended_at IS NOT NULL FROM job_ids \
             WHERE queue = $1 AND kind = $2 AND job_id = $3",
        );
        let known = known.bind(&queue).bind(&kind).bind(&id).fetch_optional(database.pool()).await?;
        let Some((known_at, known_sequence, has_ended)) = known else { return Ok(false) };
        if (known_at, known_sequence) == (published, sequence) {
            return Ok(false);
        }
        // A later message in an earlier place: the stream has lost its end, and with it the one that is noted.
        let is_behind_end = published > known_at && sequence <= known_sequence;
        if has_ended || (!is_behind_end && known_at >= self.broker().queue_created_at().await?) {
            return Ok(true);
        }
        let taken_over = sqlx::query(
            "UPDATE job_ids SET published_at = $4, sequence = $5, noted_at = clock_timestamp() \
             WHERE queue = $1 AND kind = $2 AND job_id = $3 AND published_at = $6",
        );
        let taken_over = taken_over.bind(&queue).bind(&kind).bind(&id).bind(published).bind(sequence).bind(known_at);
        Ok(taken_over.execute(database.pool()).await?.rows_affected() == 0)
    }

    /// Notes that a job has ended whose id is to stay unique.
    pub(super) async fn note_end(&self, database: &Database, job: &Job) -> Result<()> {
        sqlx::query("UPDATE job_ids SET ended_at = clock_timestamp() WHERE queue = $1 AND kind = $2 AND job_id = $3")
            .bind(job.place.queue.to_string())
            .bind(job.place.kind.to_string())
            .bind(job.id.to_string())
            .execute(database.pool())
            .await?;
        Ok(())
    }
}

/// Whether the database will never take what it was given: SQLSTATE classes 22 (data) and 23 (constraints).
pub(super) fn is_refused(error: &Error) -> bool {
    let database = error.source().and_then(|source| source.downcast_ref::<sqlx::Error>()?.as_database_error()?.code());
    database.is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
}

fn number(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
