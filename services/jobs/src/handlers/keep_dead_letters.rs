//! Jobs that were given up are kept, to be shown and put back.
//!
//! Safe to run twice: a letter is known by its job and round.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use kernel::{Message, Result, Transaction};
use subjects::job::{Lane, Place, header};
use subjects::jobs::v1::JobDeadLettered;

use crate::Jobs;
use crate::domain::{DeadLetter, Reason};
use crate::storage;

pub(crate) async fn keep_dead_letters(jobs: &Jobs, tx: &mut Transaction, messages: &[Message]) -> Result<()> {
    for message in messages {
        let letter = read(message, jobs.clock.now());
        if storage::insert_letter(tx, &letter).await? {
            let event = JobDeadLettered {
                job_id: letter.id,
                queue: letter.queue,
                kind: letter.kind,
                reason: letter.reason.as_str().to_owned(),
                error: letter.error,
                attempt: letter.attempt,
            };
            tx.publish(&event).await?;
        }
    }
    Ok(())
}

/// Only the runner of a queue may publish its letters, so what they say of themselves is believed; what is missing is made up.
fn read(message: &Message, now: DateTime<Utc>) -> DeadLetter {
    let mut tokens = message.subject().split('.').skip(2);
    let mut token = || tokens.next().unwrap_or_default().to_owned();
    let (queue, kind) = (token(), token());
    let text = |name: &str| message.header(name).unwrap_or_default().to_owned();
    let number = |name: &str| text(name).parse().unwrap_or_default();
    let time = |name: &str| DateTime::parse_from_rfc3339(&text(name)).map_or(now, |time| time.to_utc());
    let own: Vec<(String, String)> = message
        .headers()
        .filter(|(name, _)| !name.starts_with(header::DEAD_PREFIX) && !name.to_ascii_lowercase().starts_with("nats-"))
        .filter(|(name, _)| *name != header::CREATED_AT)
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    DeadLetter {
        number: 0,
        queue,
        kind,
        id: text(header::DEAD_ID),
        round: number(header::DEAD_ROUND),
        reason: Reason::parse(&text(header::REASON)).unwrap_or(Reason::Undecodable),
        error: text(header::ERROR),
        lane: Place::parse(&text(header::ORIGINAL_SUBJECT)).map_or(Lane::Normal, |place| place.lane),
        headers: own,
        body: Bytes::copy_from_slice(message.payload()),
        attempt: number(header::ATTEMPTS),
        max_attempts: number(header::ATTEMPTS_ALLOWED),
        created_at: time(header::CREATED_AT),
        failed_at: time(header::FAILED_AT),
    }
}
