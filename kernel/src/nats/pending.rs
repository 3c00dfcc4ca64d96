//! Calls that wait for their replies. A bounded table in which each call has a place and a number that cannot be
//! guessed; a reply finds its call by both, and one that comes late or was never asked for finds nothing.
//!
//! An entry lives exactly as long as the future that waits for it, so that no time-out leaves anything behind.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_nats::{Message, Subject};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::Instant;

use crate::Random;

/// Calls that may wait at once; one more is refused.
pub(super) const PENDING_MAX: usize = 65_536;

/// How long calls to a subject fail at once after the broker has refused one, before it is asked again.
const DENIAL_KEPT: Duration = Duration::from_secs(5);

/// Subjects remembered as denied. They come from the contract, so there are few.
const DENIALS_MAX: usize = 1_024;

/// Bytes of a token before encoding: four of place, eight of chance.
const TOKEN_BYTES: usize = 12;

/// Numbers drawn from the generator at once.
const NONCES_DRAWN: usize = 256;

/// Why no reply will come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The broker does not let this service publish there.
    Denied,
    /// The connection was lost; whether the request arrived is unknown.
    ConnectionLost,
    /// Too many calls wait already.
    Full,
}

/// The table.
#[derive(Debug)]
pub(crate) struct Pending {
    table: Mutex<Table>,
    waiting: Gauge,
}

#[derive(Debug)]
struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    denied: HashMap<String, Instant>,
    nonces: Nonces,
}

#[derive(Debug)]
struct Slot {
    nonce: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Free,
    Waiting { subject: Subject, waker: Option<Waker> },
    Done(Result<Message, Failure>),
}

/// Random numbers, drawn many at a time.
#[derive(Debug)]
struct Nonces {
    random: Random,
    drawn: Box<[u8]>,
    used: usize,
}

impl Pending {
    /// An empty table whose size `waiting` shows.
    pub(crate) fn new(random: Random, waiting: Gauge) -> Arc<Self> {
        let drawn = vec![0; NONCES_DRAWN * 8].into_boxed_slice();
        let used = drawn.len();
        let nonces = Nonces { random, drawn, used };
        let table = Table { slots: Vec::new(), free: Vec::new(), denied: HashMap::new(), nonces };
        Arc::new(Self { table: Mutex::new(table), waiting })
    }

    /// Enters a call to `subject`.
    pub(super) fn enter(&self, subject: &Subject) -> Result<Entry<'_>, Failure> {
        let mut table = self.lock();
        if !table.denied.is_empty() && table.is_denied(subject) {
            return Err(Failure::Denied);
        }
        let nonce = table.nonces.next();
        let slot = Slot { nonce, state: State::Waiting { subject: subject.clone(), waker: None } };
        let place = if let Some(place) = table.free.pop() {
            table.slots[place as usize] = slot;
            place
        } else if table.slots.len() < PENDING_MAX {
            table.slots.push(slot);
            u32::try_from(table.slots.len() - 1).expect("the table is bounded far below")
        } else {
            return Err(Failure::Full);
        };
        self.waiting.inc();
        Ok(Entry { pending: self, token: Token { place, nonce } })
    }

    /// Hands a reply to the call that its token names. Whether that call still waits is not told.
    pub(super) fn complete(&self, token: Token, message: Message) {
        let mut table = self.lock();
        if let Some(slot) = table.slots.get_mut(token.place as usize).filter(|slot| slot.nonce == token.nonce) {
            slot.finish(Ok(message));
        }
    }

    /// Fails all calls that wait.
    pub(super) fn fail_all(&self, failure: Failure) {
        for slot in &mut self.lock().slots {
            slot.finish(Err(failure));
        }
    }

    /// Fails the calls to `subject`, those that wait and for a while those that follow.
    pub(super) fn deny(&self, subject: &str) {
        let mut table = self.lock();
        let now = Instant::now();
        table.denied.retain(|_, until| *until > now);
        if table.denied.len() < DENIALS_MAX {
            table.denied.insert(subject.to_owned(), now + DENIAL_KEPT);
        }
        for slot in &mut table.slots {
            if matches!(&slot.state, State::Waiting { subject: waiting, .. } if waiting.as_str() == subject) {
                slot.finish(Err(Failure::Denied));
            }
        }
    }

    /// Every step leaves the table whole.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn is_denied(&mut self, subject: &Subject) -> bool {
        match self.denied.get(subject.as_str()) {
            Some(until) if *until > Instant::now() => true,
            Some(_) => {
                self.denied.remove(subject.as_str());
                false
            }
            None => false,
        }
    }
}

impl Slot {
    /// The first outcome counts; a place that is free takes none.
    fn finish(&mut self, outcome: Result<Message, Failure>) {
        if let State::Waiting { waker, .. } = &mut self.state {
            let waker = waker.take();
            self.state = State::Done(outcome);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

impl Nonces {
    fn next(&mut self) -> u64 {
        if self.used == self.drawn.len() {
            self.random.fill(&mut self.drawn);
            self.used = 0;
        }
        let bytes = &self.drawn[self.used..self.used + 8];
        self.used += 8;
        u64::from_le_bytes(bytes.try_into().expect("eight bytes were taken"))
    }
}

/// A call's place in the table, and the future of its reply.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pending: &'a Pending,
    token: Token,
}

impl Entry<'_> {
    /// Appends the token that a reply must bear.
    pub(super) fn write_token(&self, reply: &mut String) {
        self.token.write(reply);
    }
}

impl Future for Entry<'_> {
    type Output = Result<Message, Failure>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut table = self.pending.lock();
        let slot = &mut table.slots[self.token.place as usize];
        match &mut slot.state {
            State::Waiting { waker: Some(waker), .. } if waker.will_wake(cx.waker()) => Poll::Pending,
            State::Waiting { waker, .. } => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            State::Done(_) => match std::mem::replace(&mut slot.state, State::Free) {
                State::Done(outcome) => Poll::Ready(outcome),
                State::Free | State::Waiting { .. } => unreachable!("just seen to be done"),
            },
            State::Free => panic!("polled after its end"),
        }
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let mut table = self.pending.lock();
        let slot = &mut table.slots[self.token.place as usize];
        // Zero is as good as any: a free place takes no reply.
        *slot = Slot { nonce: 0, state: State::Free };
        table.free.push(self.token.place);
        drop(table);
        self.pending.waiting.dec();
    }
}

/// What a reply must bear to be taken for a call's: the last part of its subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    place: u32,
    nonce: u64,
}

impl Token {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; TOKEN_BYTES];
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        if length != TOKEN_BYTES {
            return None;
        }
        let place = u32::from_le_bytes(bytes[..4].try_into().expect("four bytes were taken"));
        let nonce = u64::from_le_bytes(bytes[4..].try_into().expect("eight bytes were taken"));
        Some(Self { place, nonce })
    }

    fn write(self, text: &mut String) {
        let mut bytes = [0; TOKEN_BYTES];
        bytes[..4].copy_from_slice(&self.place.to_le_bytes());
        bytes[4..].copy_from_slice(&self.nonce.to_le_bytes());
        URL_SAFE_NO_PAD.encode_string(bytes, text);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn pending() -> Arc<Pending> {
        Pending::new(Random::seeded(1), Gauge::default())
    }

    fn message(payload: &'static str) -> Message {
        Message {
            subject: "_INBOX.x".into(),
            reply: None,
            payload: Bytes::from_static(payload.as_bytes()),
            headers: None,
            status: None,
            description: None,
            length: payload.len(),
        }
    }

    /// As it comes back on the wire.
    fn token(entry: &Entry<'_>) -> Token {
        let mut text = String::new();
        entry.write_token(&mut text);
        Token::parse(&text).unwrap()
    }

    #[tokio::test]
    async fn reply_finds_its_call_and_no_other() {
        let pending = pending();
        let subject = Subject::from_static("svc.a");
        let (one, two) = (pending.enter(&subject).unwrap(), pending.enter(&subject).unwrap());

        pending.complete(token(&two), message("two"));
        pending.complete(token(&two), message("late"));
        pending.complete(token(&one), message("one"));
        pending.complete(Token { place: 0, nonce: 0 }, message("guessed"));
        pending.complete(Token { place: 99, nonce: 0 }, message("guessed"));
        assert_eq!(Token::parse("garbage"), None);

        assert_eq!(one.await.unwrap().payload, "one");
        assert_eq!(two.await.unwrap().payload, "two");
        assert_eq!(pending.waiting.get(), 0);
    }

    #[tokio::test]
    async fn dropped_call_leaves_nothing_and_its_late_reply_finds_nothing() {
        let pending = pending();
        let subject = Subject::from_static("svc.a");
        let late = pending.enter(&subject).map(|entry| token(&entry)).unwrap();
        let next = pending.enter(&subject).unwrap();

        pending.complete(late, message("late"));
        pending.complete(token(&next), message("own"));

        assert_eq!(next.await.unwrap().payload, "own");
        assert_eq!(pending.lock().slots.len(), 1);
    }

    #[tokio::test]
    async fn table_is_bounded() {
        let pending = pending();
        let subject = Subject::from_static("svc.a");
        let entries: Vec<_> = (0..PENDING_MAX).map(|_| pending.enter(&subject).unwrap()).collect();

        assert_eq!(pending.enter(&subject).unwrap_err(), Failure::Full);

        drop(entries);
        assert!(pending.enter(&subject).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn denial_fails_calls_to_its_subject_at_once_and_for_a_while() {
        let pending = pending();
        let (mine, other) = (Subject::from_static("svc.a"), Subject::from_static("svc.b"));
        let (refused, kept) = (pending.enter(&mine).unwrap(), pending.enter(&other).unwrap());

        pending.deny("svc.a");

        assert_eq!(refused.await.unwrap_err(), Failure::Denied);
        assert_eq!(pending.enter(&mine).unwrap_err(), Failure::Denied);
        pending.complete(token(&kept), message("kept"));
        assert!(kept.await.is_ok());
        tokio::time::advance(DENIAL_KEPT).await;
        assert!(pending.enter(&mine).is_ok());
    }
}
