//! What a runner remembers of single jobs: which began again and again without an end, and which ids were there before.

use chrono::{DateTime, Utc};

use super::engine::Engine;
use super::job::{Delivery, Job};
use crate::{Database, Result};

impl Engine {
    /// Notes that a job which came back begins again, alone, and says how often it did so in vain.
    pub(super) async fn note_begin(&self, job: &Job) -> Result<u32> {
        let Some(database) = self.database() else { return Ok(0) };
        let begun: i32 = sqlx::query_scalar(
            "INSERT INTO job_ledger (queue, kind, job_id, round, attempt, begun) VALUES ($1, $2, $3, $4, $5, 1) \
             ON CONFLICT (queue, kind, job_id, round, attempt) \
             DO UPDATE SET begun = job_ledger.begun + 1, begun_at = clock_timestamp() RETURNING begun",
        )
        .bind(job.place.queue.to_string())
        .bind(job.place.kind.to_string())
        .bind(job.ledger_id())
        .bind(number(job.round))
        .bind(number(job.attempt))
        .fetch_one(database.pool())
        .await?;
        // The first run, among others, was one too.
        Ok(u32::try_from(begun).unwrap_or(1))
    }

    /// Whether another message was this job before: the first that was taken is it. What has not ended and was lost with its
    /// stream gives way.
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
        if has_ended || known_at >= self.broker().queue_created_at().await? {
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

fn number(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
