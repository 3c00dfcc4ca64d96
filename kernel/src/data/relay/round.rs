//! One round of the relay: each stream is asked what it holds where that is due, its first unsent messages are sent, and
//! what the broker says of them is noted.
//!
//! Streams are independent: one that is full does not keep the other's messages. Within a stream nothing is sent before
//! what stands in front of it has been acknowledged or is part of the same atomic batch.

use async_nats::HeaderMap;
use bytes::Bytes;
use tracing::Span;

use super::super::measures::{ByStream, RelayMeasures};
use super::super::outbox::Stream;
use super::super::publisher::{Ack, Outgoing, PublishError, Publisher, append};
use super::ledger::{Acknowledged, Ledger, Place, Unsent, is_cut};
use super::{RelayError, step, survey};
use crate::TraceContext;
use crate::telemetry::{self, Kind};

/// Fewer messages go one by one: an atomic batch costs the server a file of its own, which takes as long as some 10 single
/// messages that are synchronised to disk, or 30 that are not.
const BATCH_MESSAGES_MIN: usize = 16;

/// What an atomic batch may hold (ADR-50).
const BATCH_MESSAGES_MAX: usize = 1_000;

/// How a round ended.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Whether there may be more to send.
    pub(super) more: bool,
    /// Why a stream's messages could not all be sent.
    pub(super) stuck: Option<String>,
}

/// What became of messages of one stream.
#[derive(Debug, Default)]
struct Sent {
    places: Vec<Place>,
    /// Rows whose outcome is unknown.
    unknown: Vec<i64>,
    stuck: Option<PublishError>,
}

/// What is to be noted of one stream's messages.
#[derive(Debug)]
struct Notes {
    acknowledged: Option<Acknowledged>,
    unknown: Vec<i64>,
    /// Held until it is noted: that is how long it took.
    _spans: Vec<Span>,
}

pub(super) async fn run(
    ledger: &mut Ledger,
    publisher: &mut Publisher,
    measures: &RelayMeasures,
) -> Result<Outcome, RelayError> {
    if let Err(error) = publisher.check() {
        return Ok(Outcome { more: true, stuck: Some(error.to_string()) });
    }
    if !step(ledger.lock()).await? {
        return Ok(Outcome { more: false, stuck: None });
    }
    let (mut more, mut stuck) = (false, None);
    let mut asked = Vec::new();
    for stream in ledger.streams().to_vec() {
        match survey::run(ledger, publisher, stream).await? {
            Ok(()) => asked.push(stream),
            Err(error) => stuck = stuck.or_else(|| Some(format!("{}: {error}", stream.name()))),
        }
    }
    let mut unsent = step(ledger.unsent()).await?;
    let mut notes = None;
    for stream in asked {
        let messages: Vec<Unsent> = unsent.extract_if(.., |message| message.stream == stream.name()).collect();
        if messages.is_empty() {
            continue;
        }
        more |= is_cut(&messages);
        for messages in messages.chunks(BATCH_MESSAGES_MAX) {
            // The database notes what the broker said of some messages while the broker stores the next ones.
            let noting = note(ledger, notes.take());
            let (noted, sent) = tokio::join!(noting, relay(publisher, measures, stream, messages));
            noted?;
            let problem;
            (notes, problem) = sent;
            if let Some(error) = problem {
                stuck = stuck.or_else(|| Some(format!("{}: {error}", stream.name())));
                break;
            }
        }
    }
    note(ledger, notes).await?;
    if !more && stuck.is_none() {
        step(ledger.release()).await?;
    }
    Ok(Outcome { more, stuck })
}

/// Sends one stream's messages, and says what is to be noted of them.
async fn relay(
    publisher: &mut Publisher,
    measures: &RelayMeasures,
    of: Stream,
    messages: &[Unsent],
) -> (Option<Notes>, Option<PublishError>) {
    let stream = of.name();
    // Known beforehand, so that what is stored can also be noted.
    match publisher.stream_created(stream).await {
        Ok(created) if publisher.is_surveyed(stream, created) => {}
        Ok(_) => return (None, Some(PublishError::NotSent("the stream was made anew".to_owned()))),
        Err(error) => return (None, Some(error)),
    }
    let spans = messages.iter().map(publish_span).collect();
    let Sent { places, mut unknown, mut stuck } = send(publisher, measures, of, messages).await;
    let mut acknowledged = None;
    if !places.is_empty() {
        match publisher.stream_created(stream).await {
            Ok(created) => acknowledged = Some(Acknowledged { stream, created, places }),
            Err(error) => {
                unknown.extend(places.iter().map(|place| place.id));
                stuck = stuck.or(Some(error));
            }
        }
    }
    if stuck.is_some() {
        publisher.forget_streams();
    }
    (Some(Notes { acknowledged, unknown, _spans: spans }), stuck)
}

async fn note(ledger: &mut Ledger, notes: Option<Notes>) -> Result<(), RelayError> {
    let Some(notes) = notes else { return Ok(()) };
    if let Some(acknowledged) = &notes.acknowledged {
        step(ledger.acknowledge(acknowledged)).await?;
    }
    if !notes.unknown.is_empty() {
        step(ledger.note_attempt(&notes.unknown)).await?;
    }
    Ok(())
}

/// Belongs to the trace of the request that wrote the message.
fn publish_span(message: &Unsent) -> Span {
    let trace = message.headers.get("traceparent").and_then(|header| TraceContext::parse(header));
    match trace.filter(|trace| trace.sampled) {
        Some(trace) => telemetry::span(Kind::Producer, "outbox.message.publish", Some(trace)),
        None => Span::none(),
    }
}

async fn send(publisher: &mut Publisher, measures: &RelayMeasures, of: Stream, messages: &[Unsent]) -> Sent {
    let stream = of.name();
    let fresh = messages.iter().all(|message| !message.attempted);
    if fresh && messages.len() >= BATCH_MESSAGES_MIN {
        match publisher.publish_batch(stream, messages.iter().map(outgoing).collect()).await {
            Ok(ack) => {
                let lost = messages.iter().filter(|message| message.lost).count() as u64;
                measures.published.get_or_create(&ByStream { stream }).inc_by(messages.len() as u64);
                measures.republished.get_or_create(&ByStream { stream }).inc_by(lost);
                return Sent { places: places(&ack, messages), ..Sent::default() };
            }
            // Refused as a batch only; each message by itself may still be taken.
            Err(PublishError::Refused { code, description }) if !is_of_stream(code) => {
                tracing::warn!(stream, code, description, "A batch was refused; its messages are sent one by one.");
            }
            Err(PublishError::Unknown) => {
                let unknown = messages.iter().map(|message| message.id).collect();
                return Sent { unknown, stuck: Some(PublishError::Unknown), ..Sent::default() };
            }
            Err(error) => return Sent { stuck: Some(error), ..Sent::default() },
        }
    }
    let mut sent = Sent::default();
    for message in messages {
        match publish(publisher, of, message).await {
            Ok(ack) => {
                count(measures, of, message, &ack);
                sent.places.push(place(message, ack.sequence));
            }
            Err(error) => {
                if error == PublishError::Unknown {
                    sent.unknown.push(message.id);
                }
                sent.stuck = Some(error);
                break;
            }
        }
    }
    sent
}

/// Publishes one message. One that the stream lost may meet a memory of ids that outlived it; then it is not stored until
/// the broker has forgotten its id, two minutes after the first time.
async fn publish(publisher: &mut Publisher, of: Stream, message: &Unsent) -> Result<Ack, PublishError> {
    let stream = of.name();
    let ack = publisher.publish(stream, outgoing(message)).await?;
    // A job that is known and not there has been done since it was sent again.
    if of.is_consumed() {
        return Ok(ack);
    }
    // Nothing on this subject was sent since the stream was asked what it holds: what is behind its last place is not there.
    if message.lost && ack.duplicate && publisher.last_place(stream, &message.subject).await? < Some(ack.sequence) {
        return Err(PublishError::NotSent("the stream remembers the id of a message that it lost".to_owned()));
    }
    Ok(ack)
}

fn outgoing(message: &Unsent) -> Outgoing<'_> {
    let mut headers = HeaderMap::new();
    for (name, value) in &*message.headers {
        append(&mut headers, name, value);
    }
    Outgoing { subject: &message.subject, headers, payload: Bytes::copy_from_slice(&message.payload) }
}

/// A batch's messages lie one behind the other, the last one at the place of the acknowledgement.
fn places(ack: &Ack, messages: &[Unsent]) -> Vec<Place> {
    let before_last = (0..messages.len() as u64).rev();
    messages
        .iter()
        .zip(before_last)
        .map(|(message, before)| place(message, ack.sequence.saturating_sub(before)))
        .collect()
}

fn place(message: &Unsent, sequence: u64) -> Place {
    Place { id: message.id, created_at: message.created_at, sequence }
}

/// "Duplicate" to a message that was never sent before means that somebody else stored something under its id, or that a
/// relay was killed before it could note the acknowledgement. Of jobs it says nothing: whose id it is may submit it twice.
fn count(measures: &RelayMeasures, of: Stream, message: &Unsent, ack: &Ack) {
    let stream = of.name();
    if !ack.duplicate {
        measures.published.get_or_create(&ByStream { stream }).inc();
        measures.republished.get_or_create(&ByStream { stream }).inc_by(message.lost.into());
    } else if message.attempted || message.lost || of.is_consumed() {
        measures.duplicates.get_or_create(&ByStream { stream }).inc();
    } else {
        measures.suspicious_duplicates.get_or_create(&ByStream { stream }).inc();
        tracing::warn!(
            stream, event.id = %message.event_id, sequence = ack.sequence,
            "A message was stored already although it is not known to have been sent."
        );
    }
}

/// Whether a refusal concerns the stream as a whole, so that nothing is gained by sending singly: 10077 (store failed,
/// as when the stream is full), 10023 (resources), 10060 (another stream took it).
fn is_of_stream(code: u64) -> bool {
    matches!(code, 10_077 | 10_023 | 10_060)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chrono::DateTime;
    use sqlx::types::Json;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn places_of_a_batch_count_back_from_its_last_message() {
        let message = |id| Unsent {
            id,
            created_at: DateTime::UNIX_EPOCH,
            event_id: Uuid::nil(),
            stream: "EVENTS".into(),
            subject: "evt.identity.user.registered".into(),
            headers: Json(BTreeMap::new()),
            payload: Vec::new(),
            attempted: false,
            lost: false,
        };
        let ack: Ack = serde_json::from_str(r#"{"stream":"EVENTS","seq":12,"batch":"b","count":3}"#).unwrap();

        let places = places(&ack, &[message(3), message(5), message(9)]);
        let places: Vec<_> = places.iter().map(|place| (place.id, place.sequence)).collect();
        assert_eq!(places, [(3, 10), (5, 11), (9, 12)]);
    }
}
