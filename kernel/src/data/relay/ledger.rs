//! The outbox as the relay sees it: a session with a lock, what is unsent, and what has been acknowledged.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use sqlx::{Connection as _, FromRow, PgConnection};
use uuid::Uuid;

use super::super::database::Database;
use super::super::outbox::Stream;
use super::{RelayError, step};

/// First half of the advisory lock's key; the second is the schema's oid.
pub const LOCK_CLASS: i32 = 0x7472_6c79;

/// Messages of one stream in a round: two batches, so that the one is noted while the other is sent. With more, events would wait
/// long behind jobs.
const ROUND_MESSAGES_MAX: i32 = 2_000;

/// Bytes of one stream's bodies in a round. One message more may be read, the one that crosses the bound.
const ROUND_BYTES_MAX: i64 = 4 * 1024 * 1024;

/// How long the lock is waited for. Whoever holds it that long is busy sending, ours too.
const LOCK_WAIT_MS: u32 = 500;

/// Unsent messages are counted up to here; a longer queue shows as this.
const DEPTH_MAX: i64 = 100_000;

/// Longer than a stream keeps messages (7 days), so that no message outlives the memory of its effect.
const INBOX_KEPT: &str = "8 days";

/// Rows of the inbox forgotten in one step. It is not partitioned as the outbox is: an id must be known once whatever day it
/// came on, and PostgreSQL keeps no uniqueness across partitions that are not part of the key.
const FORGET_MAX: i64 = 10_000;

/// Keys of a bucket are many, and one service writes them: one mark stands for them all, `$KV.<bucket>.>`, and so for jobs that
/// are due later, each of which has a subject of its own. A regular expression of PostgreSQL's.
const MANY_PREFIX: &str = r"^(\$KV\.[^.]+\.|schedules\.job\.).*$";

/// Numbers looked through in one step of setting back.
const SET_BACK_STEP: i64 = 10_000;

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
    /// Names the partition that the row lies in.
    pub(super) created_at: DateTime<Utc>,
    pub(super) event_id: Uuid,
    pub(super) stream: String,
    pub(super) subject: String,
    pub(super) headers: Json<BTreeMap<String, String>>,
    pub(super) payload: Vec<u8>,
    /// Whether it has been sent with an unknown outcome.
    pub(super) attempted: bool,
    /// Whether the broker lost it after its acknowledgement.
    pub(super) lost: bool,
}

/// The last place that messages of one subject were given.
#[derive(Debug, FromRow)]
pub(super) struct Mark {
    pub(super) subject: String,
    /// When the stream was made in which that was.
    pub(super) created: DateTime<Utc>,
    #[sqlx(try_from = "i64")]
    pub(super) sequence: u64,
}

/// Whether a round took only the first of a stream's messages.
pub(super) fn is_cut(messages: &[Unsent]) -> bool {
    let bytes: usize = messages.iter().map(|message| message.payload.len()).sum();
    messages.len() >= ROUND_MESSAGES_MAX.unsigned_abs() as usize || bytes as u64 >= ROUND_BYTES_MAX.unsigned_abs()
}

impl Mark {
    /// Whether it stands for all keys of a bucket.
    pub(super) fn is_bucket(&self) -> bool {
        self.subject.starts_with("$KV.")
    }
}

/// What a stream lost of one subject.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) subject: String,
    /// When the stream was made in which it was.
    pub(super) created: DateTime<Utc>,
    /// The last place that it still holds; 0 where it holds nothing.
    pub(super) kept: u64,
    /// Whether that stream is no more.
    pub(super) forget: bool,
}

/// What the broker said of messages of one stream.
#[derive(Debug)]
pub(super) struct Acknowledged {
    pub(super) stream: &'static str,
    pub(super) created: DateTime<Utc>,
    pub(super) places: Vec<Place>,
}

/// A row, and the place of its message in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) id: i64,
    pub(super) created_at: DateTime<Utc>,
    pub(super) sequence: u64,
}

/// The state of the outbox.
#[derive(Clone, Copy, Debug, FromRow)]
pub(super) struct Report {
    pub(super) depth: i64,
    #[sqlx(try_from = "i64")]
    pub(super) oldest_unsent_age_ms: u64,
    /// The same without jobs: their queue may be full, and who reads feeds misses nothing by that.
    #[sqlx(try_from = "i64")]
    pub(super) oldest_told_age_ms: u64,
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
            "SELECT message.id, created_at, event_id, message.stream, subject, headers, payload, attempted, lost \
             FROM unnest($1::text[]) AS of (stream) CROSS JOIN LATERAL ( \
                 SELECT *, sum(octet_length(payload)) OVER (ORDER BY id) - octet_length(payload) AS bytes_before \
                 FROM (SELECT *, attempted_at IS NOT NULL AS attempted, lost_at IS NOT NULL AS lost FROM outbox \
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
        let places = &acknowledged.places;
        let ids: Vec<i64> = places.iter().map(|place| place.id).collect();
        let sequences: Vec<i64> =
            places.iter().map(|place| i64::try_from(place.sequence).unwrap_or(i64::MAX)).collect();
        let created: Vec<DateTime<Utc>> = places.iter().map(|place| place.created_at).collect();
        sqlx::query(
            "WITH noted AS ( \
                 UPDATE outbox SET acked_at = clock_timestamp(), ack_stream = $3, ack_stream_created = $4, \
                 ack_sequence = place.sequence \
                 FROM unnest($1::bigint[], $2::bigint[], $5::timestamptz[]) AS place (id, sequence, created_at) \
                 WHERE outbox.id = place.id AND outbox.created_at = place.created_at \
                 AND outbox.created_at BETWEEN $7 AND $8 \
                 RETURNING subject, ack_sequence, outbox.created_at), \
             late AS ( \
                 INSERT INTO outbox_late AS late (day, acked_at) \
                 SELECT DISTINCT (created_at AT TIME ZONE 'UTC')::date, clock_timestamp() FROM noted \
                 WHERE created_at < clock_timestamp() - interval '1 hour' \
                 ON CONFLICT (day) DO UPDATE SET acked_at = excluded.acked_at) \
             INSERT INTO outbox_marks AS mark (stream, subject, stream_created, sequence) \
             SELECT $3, regexp_replace(subject, $6, '\\1>') AS mark_subject, $4, max(last) \
             FROM (SELECT subject, max(ack_sequence) AS last FROM noted GROUP BY subject) AS subjects \
             GROUP BY mark_subject \
             ON CONFLICT (stream, subject, stream_created) \
             DO UPDATE SET sequence = greatest(mark.sequence, excluded.sequence)",
        )
        .bind(ids)
        .bind(sequences)
        .bind(acknowledged.stream)
        .bind(acknowledged.created)
        .bind(created)
        .bind(MANY_PREFIX)
        // Says which partitions need not be looked into.
        .bind(places.iter().map(|place| place.created_at).min())
        .bind(places.iter().map(|place| place.created_at).max())
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

    /// How far the messages of each subject reach in a stream.
    pub(super) async fn marks(&mut self, stream: &str) -> Result<Vec<Mark>, sqlx::Error> {
        let marks = "SELECT subject, stream_created AS created, sequence FROM outbox_marks WHERE stream = $1";
        sqlx::query_as(marks).bind(stream).fetch_all(&mut self.session).await
    }

    /// Makes what a stream lost unsent again, as if it had never been sent, and says how many messages that were. Broken
    /// off, it begins anew, since the marks change last.
    pub(super) async fn set_back(&mut self, stream: &str, lost: &[Lost]) -> Result<u64, RelayError> {
        let subjects: Vec<&str> = lost.iter().map(|lost| lost.subject.as_str()).collect();
        let created: Vec<DateTime<Utc>> = lost.iter().map(|lost| lost.created).collect();
        let kept: Vec<i64> = lost.iter().map(|lost| i64::try_from(lost.kept).unwrap_or(i64::MAX)).collect();
        let forget: Vec<bool> = lost.iter().map(|lost| lost.forget).collect();

        let ends = sqlx::query_as("SELECT coalesce(min(id), 0), coalesce(max(id), -1) FROM outbox");
        let (first, last): (i64, i64) = step(ends.fetch_one(&mut self.session)).await?;
        let set_back = "UPDATE outbox SET acked_at = NULL, ack_stream = NULL, ack_stream_created = NULL, \
             ack_sequence = NULL, attempted_at = NULL, lost_at = clock_timestamp() \
             FROM unnest($2::text[], $3::timestamptz[], $4::bigint[]) AS lost (subject, created, kept) \
             WHERE id >= $5 AND id < $6 AND stream = $1 AND (outbox.subject = lost.subject OR lost.subject ~ $7) \
             AND ack_stream_created = lost.created AND ack_sequence > lost.kept";
        let mut messages = 0;
        for from in (first..=last).step_by(usize::try_from(SET_BACK_STEP).expect("it is positive")) {
            let query = sqlx::query(set_back).bind(stream).bind(&subjects).bind(&created).bind(&kept);
            let query = query.bind(from).bind(from.saturating_add(SET_BACK_STEP)).bind(MANY_PREFIX);
            messages += step(query.execute(&mut self.session)).await?.rows_affected();
        }
        let marks = "WITH lost AS (SELECT * FROM \
                 unnest($2::text[], $3::timestamptz[], $4::bigint[], $5::boolean[]) AS lost (subject, created, kept, forget)), \
             gone AS (DELETE FROM outbox_marks AS mark USING lost WHERE forget \
                 AND (mark.stream, mark.subject, mark.stream_created) = ($1, lost.subject, lost.created)) \
             UPDATE outbox_marks AS mark SET sequence = kept FROM lost WHERE NOT forget \
             AND (mark.stream, mark.subject, mark.stream_created) = ($1, lost.subject, lost.created)";
        let query = sqlx::query(marks).bind(stream).bind(&subjects).bind(&created).bind(&kept).bind(&forget);
        step(query.execute(&mut self.session)).await?;
        Ok(messages)
    }

    fn stream_names(&self) -> Vec<&'static str> {
        self.streams.iter().map(|stream| stream.name()).collect()
    }

    pub(super) async fn report(&mut self) -> Result<Report, sqlx::Error> {
        sqlx::query_as(
            "SELECT (SELECT count(*) FROM (SELECT FROM outbox WHERE acked_at IS NULL LIMIT $2) AS unsent) AS depth, \
             coalesce(max(age), 0) AS oldest_unsent_age_ms, \
             coalesce(max(age) FILTER (WHERE stream <> ALL ($3)), 0) AS oldest_told_age_ms \
             FROM (SELECT of.stream, greatest(0, extract(epoch FROM clock_timestamp() - created_at) * 1000)::bigint AS age \
                 FROM unnest($1::text[]) AS of (stream) CROSS JOIN LATERAL (SELECT created_at FROM outbox \
                     WHERE stream = of.stream AND acked_at IS NULL ORDER BY id LIMIT 1) AS oldest) AS ages",
        )
        .bind(self.stream_names())
        .bind(DEPTH_MAX)
        .bind(vec![Stream::Jobs.name(), Stream::Schedules.name()])
        .fetch_one(&mut self.session)
        .await
    }

    /// Makes the outbox's partitions of the next days, drops what need not be kept of the past, and deletes some of what the
    /// inbox need not know any more. True when there may be more of that.
    pub(super) async fn forget(&mut self) -> Result<bool, sqlx::Error> {
        sqlx::query(super::super::outbox::KEEP_PARTITIONS).execute(&mut self.session).await?;
        let inbox = "DELETE FROM inbox WHERE ctid IN ( \
                SELECT ctid FROM inbox WHERE processed_at < clock_timestamp() - $2::interval LIMIT $1)";
        let forgotten = sqlx::query(inbox).bind(FORGET_MAX).bind(INBOX_KEPT).execute(&mut self.session).await?;
        Ok(i64::try_from(forgotten.rows_affected()).is_ok_and(|rows| rows >= FORGET_MAX))
    }
}
