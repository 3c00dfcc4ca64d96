//! Finds out whether a stream still holds what it acknowledged, and sets back what it lost, so that it is sent again.
//!
//! A store that was wiped shows by the time at which its stream was made; one that was replaced by an older copy by the last
//! place of each subject, which only this service publishes to: the last place of the stream is no sign, since others may
//! have filled it up again. So this must come before the first message on every new connection, and it does. A memory of
//! ids that outlived its messages is dealt with where their "duplicate" arrives.
//!
//! Not seen: a message lost from the middle of a stream. No server does that. Nor, of jobs, what an older copy of their stream
//! lacks once others have filled it up again: a job that is not there may as well have been done. Those of a stream that was
//! made anew are sent again, done or not; their ids are known to who ran them.

use super::super::outbox::Stream;
use super::super::publisher::{PublishError, Publisher};
use super::ledger::{Ledger, Lost};
use super::{RelayError, step};

/// Surveys one stream where that is due. The inner error means that the broker did not say.
pub(super) async fn run(
    ledger: &mut Ledger,
    publisher: &mut Publisher,
    of: Stream,
) -> Result<Result<(), PublishError>, RelayError> {
    let stream = of.name();
    let Some(first) = publisher.survey_due(stream) else { return Ok(Ok(())) };
    let state = match publisher.stream_state(stream).await {
        Ok(state) => state,
        Err(error) => return Ok(Err(error)),
    };
    let marks = step(ledger.marks(stream)).await?;
    let thorough = first || marks.iter().any(|mark| mark.created != state.created || mark.sequence > state.last);
    let mut lost = Vec::new();
    for mark in marks.into_iter().filter(|_| thorough) {
        let kept = if mark.created == state.created && (mark.is_bucket() || of.is_consumed()) {
            // Of jobs nothing that was done is there any more; what lies beyond the end never was, or was lost.
            state.last
        } else if mark.created == state.created {
            match publisher.last_place(stream, &mark.subject).await {
                Ok(place) => place.unwrap_or(0),
                Err(error) => return Ok(Err(error)),
            }
        } else {
            0
        };
        if kept < mark.sequence {
            lost.push(Lost {
                subject: mark.subject,
                created: mark.created,
                kept,
                forget: mark.created != state.created,
            });
        }
    }
    if !lost.is_empty() {
        let messages = ledger.set_back(stream, &lost).await?;
        let made_anew = lost.iter().any(|lost| lost.forget);
        tracing::warn!(
            stream,
            messages,
            made_anew,
            "The broker lost messages it had acknowledged; they are sent again."
        );
    }
    publisher.note_survey(stream, state.created);
    Ok(Ok(()))
}
