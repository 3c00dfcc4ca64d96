//! Moves what comes from the broker to the feed's reader, and watches over it.

use std::time::Duration;

use async_nats::{Message, SubscribeError, Subscriber};
use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use futures::stream::{SelectAll, select_all};
use futures::{FutureExt as _, StreamExt as _};
use subjects::{WatchContract, subject};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::beats::{Beat, Beats};
use super::live::Live;
use super::measures::Measures;
use super::outlet::{Belief, Outlet, Place};
use super::tracker::{Tracker, Verdict};
use super::{Freshness, Loss, PATIENCE, StoredMessage, StreamReader};
use crate::nats::{Connection, Disturbances, Requester};

/// How often the feed looks around without being told.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// How long the broker may take to show that the subscription is in force.
const PROOF_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause before the broker is asked again.
const PROOF_PAUSE: Duration = Duration::from_millis(500);

/// Messages after which others of the process are let run.
const MESSAGES_AT_ONCE: u32 = 32;

/// Where what is watched ends, once the subscription is in force; `None` where the broker did not answer.
type Proof = BoxFuture<'static, Option<Place>>;

pub(super) struct Pump {
    connection: Connection,
    requester: Requester,
    reader: StreamReader,
    watched: &'static WatchContract,
    outlet: Outlet,
    freshness: watch::Sender<Freshness>,
    belief: Belief,
    measures: Measures,
    live: Live,
    heartbeats: SelectAll<Subscriber>,
    disturbances: watch::Receiver<Disturbances>,
    /// What of the connection was noticed last.
    noticed: Disturbances,
    tracker: Tracker,
    beats: Beats,
    /// When the stream was made, once the subscription is proven to be in force on the present connection.
    proven: Option<DateTime<Utc>>,
    /// Proofs that failed since the last that did not.
    failures: u32,
    /// Whether the reader has lost and not yet begun anew.
    overrun: bool,
}

impl Pump {
    pub(super) async fn open(
        connection: &Connection,
        requester: Requester,
        watch: &'static WatchContract,
        reader: StreamReader,
        outlet: Outlet,
        freshness: watch::Sender<Freshness>,
        measures: Measures,
    ) -> Result<Self, SubscribeError> {
        let client = connection.client();
        let (mut live, mut heartbeats) = (Vec::new(), Vec::new());
        for stored in watch.subjects {
            live.push(client.subscribe(subject::live(stored)).await?);
        }
        for publisher in watch.publishers() {
            heartbeats.push(client.subscribe(subject::beat(publisher.name)).await?);
        }
        Ok(Self {
            connection: connection.clone(),
            requester,
            reader,
            watched: watch,
            outlet,
            freshness,
            belief: Belief::none(),
            measures,
            live: Live::new(live),
            heartbeats: select_all(heartbeats),
            noticed: connection.now(),
            disturbances: connection.disturbances(),
            tracker: Tracker::new(is_whole(watch)),
            beats: Beats::new(watch.publishers().map(|publisher| publisher.name)),
            proven: None,
            failures: 0,
            overrun: false,
        })
    }

    /// For who has to know at each moment whether the feed is believed.
    pub(super) fn belief(&self) -> Belief {
        self.belief.clone()
    }

    /// Runs until `stopping`.
    pub(super) async fn run(mut self, stopping: CancellationToken) {
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut disturbances = self.disturbances.clone();
        let mut proof: Option<Proof> = None;
        let mut taken: u32 = 0;
        loop {
            // What is rare stands before what may come without a pause.
            tokio::select! {
                biased;
                () = stopping.cancelled() => break,
                changed = disturbances.changed() => if changed.is_err() { break },
                _ = looks.tick() => {}
                Some(message) = self.heartbeats.next() => self.hear(&message),
                proven = async { proof.as_mut().expect("guarded").await }, if proof.is_some() => {
                    proof = None;
                    self.prove(proven);
                }
                message = self.live.next() => match message {
                    Some(message) => {
                        self.take(message);
                        taken = taken.wrapping_add(1);
                    }
                    None => break,
                },
            }
            if self.look_around() {
                proof = None;
            }
            if self.proven.is_none() && proof.is_none() && self.connection.is_connected() {
                proof = Some(self.seek_proof());
            }
            self.settle();
            if self.outlet.is_crowded() || taken >= MESSAGES_AT_ONCE {
                // The reader may live on the same thread.
                tokio::task::yield_now().await;
                taken = 0;
            }
        }
        self.belief.end();
        self.outlet.close();
    }

    /// Looks at the connection and at who is silent. Says whether a proof that is under way proves nothing any more.
    fn look_around(&mut self) -> bool {
        let now = self.connection.now();
        let before = std::mem::replace(&mut self.noticed, now);
        let lost_connection = now.connections != before.connections || now.disconnections != before.disconnections;
        let dropped = now.slow != before.slow;
        // The first connection of all is no loss.
        if lost_connection && before.connections + before.disconnections > 0 {
            self.lose(Loss::Disconnected);
            self.beats.forget();
        }
        if dropped {
            self.lose(Loss::SlowConsumer);
        }
        if lost_connection || dropped {
            self.tracker.forget();
            self.proven = None;
        }
        if self.connection.is_connected()
            && let Some(loss) = self.beats.look()
        {
            self.lose(loss);
        }
        lost_connection || dropped
    }

    /// Asks the broker for something on the same connection, whose answer proves that what was subscribed before is in
    /// force, and where the stream ends.
    fn seek_proof(&self) -> Proof {
        let (requester, reader, is_first) = (self.requester.clone(), self.reader.clone(), self.failures == 0);
        let watched = self.watched;
        async move {
            requester.round_trip(PROOF_TIMEOUT).await.ok()?;
            match reader.end(if is_whole(watched) { &[">"] } else { watched.subjects }).await {
                Ok(end) => Some(end),
                Err(error) => {
                    if is_first {
                        tracing::warn!(%error, "The end of a watched stream is not known yet.");
                    }
                    tokio::time::sleep(PROOF_PAUSE).await;
                    None
                }
            }
        }
        .boxed()
    }

    fn prove(&mut self, end: Option<Place>) {
        let Some(end) = end else {
            self.failures = self.failures.saturating_add(1);
            return;
        };
        self.failures = 0;
        self.tracker.begin(end.sequence);
        self.proven = Some(end.created);
    }

    fn hear(&mut self, message: &Message) {
        let loss = Beat::read(&message.payload).and_then(|beat| self.beats.hear(&beat));
        if let Some(loss) = loss {
            self.lose(loss);
        }
    }

    fn take(&mut self, message: StoredMessage) {
        match self.tracker.note(&message.subject, message.sequence, message.previous().unwrap_or(0)) {
            Verdict::Repeated => return,
            Verdict::Sound => {}
            Verdict::Gap => self.lose(Loss::Gap),
            Verdict::Anew => {
                self.lose(Loss::StreamAnew);
                self.proven = None;
            }
        }
        self.measures.events.inc();
        if !self.overrun && !self.outlet.event(message) {
            self.overrun = true;
            self.go_stale(Loss::SlowReader);
        }
    }

    fn lose(&mut self, loss: Loss) {
        if !self.overrun && !self.outlet.lost(loss) {
            self.overrun = true;
        }
        self.go_stale(loss);
    }

    fn go_stale(&mut self, loss: Loss) {
        self.belief.end();
        self.measures.lost(loss);
        let became_stale = self.freshness.send_if_modified(|freshness| {
            let is_new = *freshness == Freshness::Fresh;
            if is_new {
                *freshness = Freshness::Stale { since: Instant::now(), loss };
            }
            is_new
        });
        if became_stale {
            tracing::info!(reason = %loss, "A feed is not believed any more.");
        }
    }

    /// Says that the feed can be believed where everything speaks for it, and shows how long it has not been.
    fn settle(&mut self) {
        let Freshness::Stale { since, .. } = *self.freshness.borrow() else {
            self.believe();
            return;
        };
        if self.overrun && self.outlet.is_empty() {
            self.overrun = false;
        }
        let sound = self.connection.is_connected() && self.beats.are_sound();
        if let Some(created) = self.proven.filter(|_| sound && !self.overrun) {
            self.overrun = !self.outlet.fresh(Place { created, sequence: self.tracker.position() });
            if !self.overrun {
                self.freshness.send_replace(Freshness::Fresh);
                self.believe();
                self.measures.stale_seconds.set(0.0);
                tracing::info!("A feed is believed.");
                return;
            }
        }
        self.measures.stale_seconds.set(since.elapsed().as_secs_f64());
    }

    fn believe(&self) {
        // Where nobody publishes what is watched, nobody has to be heard.
        let always = Instant::now() + PATIENCE;
        self.belief.until(self.beats.sound_until().unwrap_or(always));
    }
}

/// Whether every message of the stream comes.
fn is_whole(watch: &WatchContract) -> bool {
    watch.subjects == ["evt.>"]
}
