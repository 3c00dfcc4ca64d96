//! The outbox as the relay sees it: a session with a lock, what is unsent, and what has been acknowledged.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use sqlx::{Connection as _, FromRow, PgConnection};
use uuid::Uuid;

use super::super::database::Database;
use super::super::outbox::Stream;

/// First half of the advisory lock's key; the second is the schema's oid.
pub const LOCK_CLASS: i32 = 0x7472_6c79;

/// Messages of one stream in a round: what an atomic batch may hold (ADR-50).
pub(super) const ROUND_MESSAGES_MAX: i32 = 1_000;

/// Bytes of one stream's bodies in a round. One message more may be read, the one that crosses the bound.
const ROUND_BYTES_MAX: i64 = 4 * 1024 * 1024;

/// How long the lock is waited for. Whoever holds it that long is busy sending, ours too.
const LOCK_WAIT_MS: u32 = 500;

/// Unsent messages are counted up to here; a longer queue shows as this.
const DEPTH_MAX: i64 = 100_000;

/// Acknowledged rows are kept this long, to be published again if the broker loses them.
const OUTBOX_KEPT: &str = "24 hours";

/// Longer than a stream keeps messages (7 days), so that no message outlives the memory of its effect.
const INBOX_KEPT: &str = "8 days";

/// Rows forgotten in one step.
const FORGET_MAX: i64 = 1_000;

/// A session on the outbox.
#[derive(Debug)]
pub(super) struct Ledger {
    session: PgConnection,
    streams: Vec<Stream>,
    locked: bool,
}

/// A message that waits.
#[derive(Debug, FromRow)]
pub(super) struct Unsent {
    pub(super) id: i64,
    pub(super) event_id: Uuid,
    pub(super) stream: String,
    pub(super) subject: String,
    pub(super) headers: Json<BTreeMap<String, String>>,
    pub(super) payload: Vec<u8>,
    /// Whether it has been sent with an unknown outcome.
    pub(super) attempted: bool,
}

/// What the broker said of messages of one stream.
#[derive(Debug)]
pub(super) struct Acknowledged {
    pub(super) stream: &'static str,
    pub(super) created: DateTime<Utc>,
    /// Row and place in the stream.
    pub(super) places: Vec<(i64, u64)>,
}

/// The state of the outbox.
#[derive(Clone, Copy, Debug, FromRow)]
pub(super) struct Report {
    pub(super) depth: i64,
    #[sqlx(try_from = "i64")]
    pub(super) oldest_unsent_age_ms: u64,
}

impl Ledger {
    pub(super) async fn open(database: &Database) -> Result<Self, sqlx::Error> {
        let mut session = database.session("relay").await?;
        // A note that is lost in a crash costs a message sent again under its id, so no note waits for the disk.
        let settings = format!("SET lock_timeout = {LOCK_WAIT_MS}; SET synchronous_commit = off");
        sqlx::raw_sql(sqlx::AssertSqlSafe(settings)).execute(&mut session).await?;
        Ok(Self { session, streams: Stream::of(database.service()), locked: false })
    }

    /// The streams that the outbox is for, in the order in which a round sends them.
    pub(super) fn streams(&self) -> &[Stream] {
        &self.streams
    }

    pub(super) async fn close(self) {
        // The lock ends with the session.
        if let Err(error) = self.session.close().await {
            tracing::debug!(%error, "The relay's session did not end cleanly.");
        }
    }

    /// Takes the lock unless it is held already. False when another instance is busy with it.
    pub(super) async fn lock(&mut self) -> Result<bool, sqlx::Error> {
        if self.locked {
            return Ok(true);
        }
        let lock = "SELECT pg_advisory_lock($1, current_schema()::regnamespace::oid::int)";
        match sqlx::query(lock).bind(LOCK_CLASS).execute(&mut self.session).await {
            Ok(_) => self.locked = true,
            // 55P03 lock_not_available
            Err(error) if error.as_database_error().is_some_and(|error| error.code().as_deref() == Some("55P03")) => {}
            Err(error) => return Err(error),
        }
        Ok(self.locked)
    }

    pub(super) async fn release(&mut self) -> Result<(), sqlx::Error> {
        if self.locked {
            let unlock = "SELECT pg_advisory_unlock($1, current_schema()::regnamespace::oid::int)";
            sqlx::query(unlock).bind(LOCK_CLASS).execute(&mut self.session).await?;
            self.locked = false;
        }
        Ok(())
    }

    /// The first messages of each stream that are not acknowledged, in the order of their numbers.
    pub(super) async fn unsent(&mut self) -> Result<Vec<Unsent>, sqlx::Error> {
        sqlx::query_as(
            "SELECT message.id, event_id, message.stream, subject, headers, payload, attempted \
             FROM unnest($1::text[]) AS of (stream) CROSS JOIN LATERAL ( \
                 SELECT *, sum(octet_length(payload)) OVER (ORDER BY id) - octet_length(payload) AS bytes_before \
                 FROM (SELECT *, attempted_at IS NOT NULL AS attempted FROM outbox \
                       WHERE stream = of.stream AND acked_at IS NULL ORDER BY id LIMIT $2) AS first \
             ) AS message WHERE bytes_before < $3 ORDER BY message.id",
        )
        .bind(self.stream_names())
        .bind(ROUND_MESSAGES_MAX)
        .bind(ROUND_BYTES_MAX)
        .fetch_all(&mut self.session)
        .await
    }

    /// Notes the acknowledgement on the rows.
    pub(super) async fn acknowledge(&mut self, acknowledged: &Acknowledged) -> Result<(), sqlx::Error> {
        let (ids, sequences): (Vec<i64>, Vec<i64>) = acknowledged
            .places
            .iter()
            .map(|(id, sequence)| (*id, i64::try_from(*sequence).unwrap_or(i64::MAX)))
            .unzip();
        sqlx::query(
            "UPDATE outbox SET acked_at = clock_timestamp(), ack_stream = $3, ack_stream_created = $4, \
             ack_sequence = place.sequence FROM unnest($1::bigint[], $2::bigint[]) AS place (id, sequence) \
             WHERE outbox.id = place.id",
        )
        .bind(ids)
        .bind(sequences)
        .bind(acknowledged.stream)
        .bind(acknowledged.created)
        .execute(&mut self.session)
        .await?;
        Ok(())
    }

    /// Notes that the rows may have been stored, so that a later answer "duplicate" is no surprise.
    pub(super) async fn note_attempt(&mut self, ids: &[i64]) -> Result<(), sqlx::Error> {
        let note = "UPDATE outbox SET attempted_at = clock_timestamp() WHERE id = ANY ($1)";
        sqlx::query(note).bind(ids).execute(&mut self.session).await?;
        Ok(())
    }

    fn stream_names(&self) -> Vec<&'static str> {
        self.streams.iter().map(|stream| stream.name()).collect()
    }

    pub(super) async fn report(&mut self) -> Result<Report, sqlx::Error> {
        sqlx::query_as(
            "SELECT (SELECT count(*) FROM (SELECT FROM outbox WHERE acked_at IS NULL LIMIT $2) AS unsent) AS depth, \
             coalesce((SELECT greatest(0, extract(epoch FROM clock_timestamp() - min(created_at)) * 1000)::bigint \
                 FROM unnest($1::text[]) AS of (stream) CROSS JOIN LATERAL (SELECT created_at FROM outbox \
                     WHERE stream = of.stream AND acked_at IS NULL ORDER BY id LIMIT 1) AS oldest), 0) \
             AS oldest_unsent_age_ms",
        )
        .bind(self.stream_names())
        .bind(DEPTH_MAX)
        .fetch_one(&mut self.session)
        .await
    }

    /// Deletes some of what need not be kept, oldest first. True when there may be more.
    pub(super) async fn forget(&mut self) -> Result<bool, sqlx::Error> {
        // Looks at the first rows only: a search by age would read the whole table each time it found nothing.
        let outbox = "DELETE FROM outbox WHERE id IN ( \
                SELECT id FROM (SELECT id, acked_at FROM outbox ORDER BY id LIMIT $1) AS first \
                WHERE acked_at < clock_timestamp() - $2::interval)";
        let outbox = sqlx::query(outbox).bind(FORGET_MAX).bind(OUTBOX_KEPT).execute(&mut self.session).await?;
        let inbox = "DELETE FROM inbox WHERE ctid IN ( \
                SELECT ctid FROM inbox WHERE processed_at < clock_timestamp() - $2::interval LIMIT $1)";
        let inbox = sqlx::query(inbox).bind(FORGET_MAX).bind(INBOX_KEPT).execute(&mut self.session).await?;
        Ok([outbox, inbox].iter().any(|done| i64::try_from(done.rows_affected()).is_ok_and(|rows| rows >= FORGET_MAX)))
    }
}
