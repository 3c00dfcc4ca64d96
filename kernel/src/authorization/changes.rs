//! What this process has heard of changes to who may what: one feed for all who keep something that rests on it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::timeout;
use uuid::Uuid;

use super::ConsistencyToken;
use crate::feed::{Belief, Feeds, Loss, Observe, Place, StoredMessage};
use crate::{Result, StartError};

/// Events whose ids are remembered for those who wait for one that has just come by.
const EVENTS_REMEMBERED: usize = 1_024;

/// How long a change waits for its own event to come by, and an answer until it is as new as it should be: the caller hears
/// of success when other processes have been told, unless the broker takes longer.
pub const WAIT_MAX: Duration = Duration::from_millis(200);

/// What a change concerns. An answer that rests on it is void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// One user: state, roles, groups.
    User(&'a str),
    /// The roles of a group, for all its members.
    Group(&'a str),
    /// What a role permits or inherits, for all who hold it.
    Role(&'a str),
}

/// Hears of changes, one after the other, within the task that reads the feed. It must not block.
pub trait Listen: Send + Sync + 'static {
    /// Something changed.
    fn changed(&self, change: Change<'_>);

    /// Changes may be missed from now on: what is kept does not count any more.
    fn lost(&self);

    /// From now on no change is missed.
    fn fresh(&self);
}

/// The changes of authorisation as they come. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Changes(Arc<Shared>);

struct Shared {
    belief: OnceLock<Belief>,
    /// Up to where everything was heard; `None` while that is not known.
    heard: watch::Sender<Option<Place>>,
    hearing: Mutex<Hearing>,
}

#[derive(Default)]
struct Hearing {
    listeners: Vec<Arc<dyn Listen>>,
    /// The last events, newest last.
    events: VecDeque<(Uuid, Place)>,
}

impl Changes {
    /// Hears nothing yet.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared { belief: OnceLock::new(), heard: watch::Sender::new(None), hearing: Mutex::default() }))
    }

    /// Begins to hear.
    pub(crate) async fn open(&self, feeds: &Feeds) -> Result<(), StartError> {
        let belief = feeds.observe("authorization", &subjects::AUTHORIZATION, Observer(self.clone())).await?;
        self.0.belief.set(belief).map_err(|_| StartError::new("the feed of changes is opened once"))
    }

    /// Tells `listener` of every change from now on. It begins as if changes had been missed, and is told at once where
    /// that is not so.
    pub fn listen(&self, listener: Arc<dyn Listen>) {
        let mut hearing = self.hearing();
        if self.0.heard.borrow().is_some() {
            listener.fresh();
        }
        hearing.listeners.push(listener);
    }

    /// Whether no change is missed at this moment. What is kept may be used only then.
    pub fn are_believed(&self) -> bool {
        self.0.belief.get().is_some_and(Belief::holds)
    }

    /// Up to where everything was heard. An answer that is read after this was asked is at least as new.
    pub fn token(&self) -> Option<ConsistencyToken> {
        self.0.heard.borrow().map(ConsistencyToken::new)
    }

    /// Waits at most `within` until everything up to `token` was heard. False where it was not.
    pub async fn reach(&self, token: ConsistencyToken, within: Duration) -> bool {
        let mut heard = self.0.heard.subscribe();
        let known = *heard.borrow_and_update();
        if known.is_some_and(|place| token.is_reached_by(place)) {
            return true;
        }
        if known.is_some_and(|place| token.is_of_stream_before(place)) {
            return false;
        }
        let reached = heard.wait_for(|place| place.is_some_and(|place| token.is_reached_by(place)));
        matches!(timeout(within, reached).await, Ok(Ok(_)))
    }

    /// Waits at most `within` until the event with this id has come by; gives its place.
    pub(crate) async fn await_event(&self, id: Uuid, within: Duration) -> Option<ConsistencyToken> {
        let mut heard = self.0.heard.subscribe();
        let found = async {
            loop {
                heard.mark_unchanged();
                let place = self.hearing().events.iter().rev().find(|(event, _)| *event == id).map(|(_, place)| *place);
                if place.is_some() || heard.changed().await.is_err() {
                    return place;
                }
            }
        };
        timeout(within, found).await.ok().flatten().map(ConsistencyToken::new)
    }

    /// Every step leaves it whole.
    fn hearing(&self) -> MutexGuard<'_, Hearing> {
        self.0.hearing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("heard", &*self.heard.borrow()).finish_non_exhaustive()
    }
}

struct Observer(Changes);

/// Of an event, what says whom it concerns: the user where it names one, else the group, else the role.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Concerned {
    user_id: String,
    group_id: String,
    role: String,
}

impl Concerned {
    fn change(&self) -> Option<Change<'_>> {
        let named = [Change::User(&self.user_id), Change::Group(&self.group_id), Change::Role(&self.role)];
        named.into_iter().find(|change| match change {
            Change::User(name) | Change::Group(name) | Change::Role(name) => !name.is_empty(),
        })
    }
}

impl Observe for Observer {
    fn event(&mut self, message: &StoredMessage) {
        let mut hearing = self.0.hearing();
        let concerned: Concerned = serde_json::from_slice(&message.payload).unwrap_or_default();
        if let Some(change) = concerned.change() {
            hearing.listeners.iter().for_each(|listener| listener.changed(change));
        } else {
            tracing::warn!(subject = message.subject, "An event does not say whom it concerns; all is read anew.");
            hearing.listeners.iter().for_each(|listener| {
                listener.lost();
                listener.fresh();
            });
        }
        // Where it is not known which stream it is, nothing is known of places in it.
        let Some(known) = *self.0.0.heard.borrow() else { return };
        let place = Place { sequence: message.sequence.max(known.sequence), ..known };
        if let Some(id) = message.header("ce-id").and_then(|id| id.parse().ok()) {
            hearing.events.push_back((id, Place { sequence: message.sequence, ..known }));
            if hearing.events.len() > EVENTS_REMEMBERED {
                hearing.events.pop_front();
            }
        }
        drop(hearing);
        self.0.0.heard.send_replace(Some(place));
    }

    fn lost(&mut self, _loss: Loss) {
        let hearing = self.0.hearing();
        hearing.listeners.iter().for_each(|listener| listener.lost());
        self.0.0.heard.send_replace(None);
    }

    fn fresh(&mut self, place: Place) {
        let hearing = self.0.hearing();
        hearing.listeners.iter().for_each(|listener| listener.fresh());
        self.0.0.heard.send_replace(Some(place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_concerns_the_narrowest_thing_it_names() {
        let concerned: Concerned = serde_json::from_str(r#"{"userId":"u","groupId":"g","role":"r","more":1}"#).unwrap();
        assert_eq!(concerned.change(), Some(Change::User("u")));
        let concerned: Concerned = serde_json::from_str(r#"{"groupId":"g","role":"r"}"#).unwrap();
        assert_eq!(concerned.change(), Some(Change::Group("g")));
        let concerned: Concerned = serde_json::from_str(r#"{"role":"r","permission":"a.b.c"}"#).unwrap();
        assert_eq!(concerned.change(), Some(Change::Role("r")));
        assert_eq!(Concerned::default().change(), None);
    }
}
