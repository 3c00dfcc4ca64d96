//! Records that acting services handed over are given their place in the log.
//!
//! Safe to run twice: what is in the log by its id is passed over, however long ago it came.

use std::collections::HashSet;

use kernel::{Error, Message, Result, Transaction};
use subjects::audit::v1::{self as wire};
use uuid::Uuid;

use crate::domain::{ActorType, Faulty, Outcome, Record, Salt};
use crate::{Audit, signing, storage};

/// What the subject of every record begins with; the rest is its action, whose first word is the acting service. Only that
/// service may publish there, so who acted is taken from here and never from the body.
const SUBJECT_PREFIX: &str = "audit.";

/// Entries for which there is room at least before more segments are made.
const ROOM_MIN: i64 = 100_000;

/// All of a batch in one transaction, in the order of the stream, under the lock of the chain. The log is signed with it
/// when enough has come since it was signed last.
pub(crate) async fn append_records(audit: &Audit, tx: &mut Transaction, messages: &[Message]) -> Result<()> {
    let records = messages.iter().map(read).collect::<Result<Vec<_>>>()?;

    let head = storage::lock_chain(tx).await?;
    let room = i64::from(audit.settings.segment_entries / 2);
    if head.room_until - head.chain.sequence < room.min(ROOM_MIN).max(records.len().try_into().unwrap_or(i64::MAX)) {
        storage::make_segments(tx, audit.settings.segment_entries, room).await?;
    }
    if head.was_cut {
        // Verification finds what is gone; what comes must not be kept waiting by what is left of it.
        tracing::error!(sequence = head.chain.sequence, "Somebody has cut the end of the log off.");
        storage::delete_personal_behind(tx, head.chain.sequence).await?;
    }
    let ids: Vec<Uuid> = records.iter().map(|record| record.id).collect();
    let mut known: HashSet<Uuid> = storage::list_known_ids(tx, &ids).await?.into_iter().collect();
    let fresh = records.into_iter().filter(|record| known.insert(record.id));
    let mut chain = head.chain;
    let entries: Vec<_> = fresh.map(|record| chain.append(record, Salt(audit.random.bytes()))).collect();
    storage::insert_entries(tx, &entries).await?;
    storage::insert_stretches(tx, head.chain.sequence, chain.sequence).await?;
    if chain.sequence - head.signed >= i64::from(audit.settings.checkpoint_entries) {
        signing::sign(audit, tx, chain).await?;
    }
    Ok(())
}

fn read(message: &Message) -> Result<Record> {
    let body: wire::Record = message.decode()?;
    to_domain(message.subject(), body).map_err(|fault| {
        Error::new(422, "undecodable", "The message is not a record that can be kept.").with_source(fault)
    })
}

fn to_domain(subject: &str, body: wire::Record) -> Result<Record, Faulty> {
    let action = subject.strip_prefix(SUBJECT_PREFIX).filter(|action| action.contains('.')).ok_or(Faulty::Subject)?;
    let actor = body.actor.unwrap_or_default();
    let actor_type = match actor.r#type() {
        wire::actor::Type::User => ActorType::User,
        wire::actor::Type::Service => ActorType::Service,
        wire::actor::Type::ApiKey => ActorType::ApiKey,
        wire::actor::Type::Anonymous | wire::actor::Type::Unspecified => ActorType::Anonymous,
    };
    let outcome = match wire::Outcome::try_from(body.outcome) {
        Ok(wire::Outcome::Success) => Outcome::Success,
        Ok(wire::Outcome::Denied) => Outcome::Denied,
        Ok(wire::Outcome::Failure) => Outcome::Failure,
        Ok(wire::Outcome::Unspecified) | Err(_) => return Err(Faulty::Outcome),
    };
    let time = body.time.and_then(|time| time.try_into().ok()).ok_or(Faulty::Time)?;
    let target = body.target.unwrap_or_default();
    let record = Record {
        id: Uuid::try_parse(&body.id).map_err(|_| Faulty::Id)?,
        time,
        actor_type,
        actor_id: actor.id,
        action: action.to_owned(),
        target_type: target.r#type,
        target_id: target.id,
        outcome,
        ip_address: body.ip_address,
        user_agent: body.user_agent,
        actor_name: body.actor_name,
        target_name: body.target_name,
        request_id: body.request_id,
        trace_id: body.trace_id,
        details: body.details.unwrap_or_default().text,
    };
    record.keepable()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body() -> wire::Record {
        wire::Record {
            id: "01932c07-20c3-7c31-a3f5-000000000001".to_owned(),
            time: Some(subjects::Timestamp { seconds: 1_700_000_000, nanos: 0 }),
            actor: Some(wire::Actor { r#type: wire::actor::Type::User.into(), id: "ann".to_owned() }),
            outcome: wire::Outcome::Success.into(),
            ..wire::Record::default()
        }
    }

    #[test]
    fn action_and_so_the_service_is_what_the_subject_says() {
        let record = to_domain("audit.identity.user.created", body()).unwrap();

        assert_eq!((record.action.as_str(), record.details.as_str()), ("identity.user.created", "{}"));
        assert_eq!(to_domain("audit.identity", body()), Err(Faulty::Subject));
        assert_eq!(to_domain("evt.identity.user.created", body()), Err(Faulty::Subject));
    }

    #[test]
    fn what_cannot_be_kept_is_faulty() {
        let subject = "audit.identity.user.created";
        let faulty = |alter: fn(&mut wire::Record)| {
            let mut body = body();
            alter(&mut body);
            to_domain(subject, body).unwrap_err()
        };

        assert_eq!(faulty(|body| body.id = "1".to_owned()), Faulty::Id);
        assert_eq!(faulty(|body| body.time = None), Faulty::Time);
        assert_eq!(faulty(|body| body.outcome = 0), Faulty::Outcome);
        assert_eq!(
            faulty(|body| body.details = Some(subjects::free::v1::RawJson { text: "{".to_owned() })),
            Faulty::Details
        );
    }
}
