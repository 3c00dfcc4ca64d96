//! Moves what comes from the broker to the feed's reader, and watches over it.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, SubscribeError, Subscriber};
use futures::future::BoxFuture;
use futures::stream::{SelectAll, select_all};
use futures::{FutureExt as _, StreamExt as _};
use subjects::{WatchContract, subject};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::beats::{Beat, Beats};
use super::measures::Measures;
use super::queue::Queue;
use super::tracker::{Tracker, Verdict};
use super::{Freshness, Loss, Signal, StoredMessage, StreamReader};
use crate::nats::{Connection, Disturbances, Requester};

/// How often the feed looks around without being told.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// How long the broker may take to show that the subscription is in force.
const PROOF_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause before the broker is asked again.
const PROOF_PAUSE: Duration = Duration::from_millis(500);

/// The stream's last sequence, once the subscription is in force; `None` where the broker did not answer.
type Proof = BoxFuture<'static, Option<u64>>;

pub(super) struct Pump {
    connection: Connection,
    requester: Requester,
    reader: StreamReader,
    queue: Arc<Queue>,
    freshness: watch::Sender<Freshness>,
    measures: Measures,
    live: SelectAll<Subscriber>,
    heartbeats: SelectAll<Subscriber>,
    disturbances: watch::Receiver<Disturbances>,
    /// What of the connection was noticed last.
    noticed: Disturbances,
    tracker: Tracker,
    beats: Beats,
    /// Whether the subscription is in force on the present connection.
    proven: bool,
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
        queue: Arc<Queue>,
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
            queue,
            freshness,
            measures,
            live: select_all(live),
            heartbeats: select_all(heartbeats),
            noticed: connection.now(),
            disturbances: connection.disturbances(),
            tracker: Tracker::new(watch.subjects == ["evt.>"]),
            beats: Beats::new(watch.publishers().map(|publisher| publisher.name)),
            proven: false,
            failures: 0,
            overrun: false,
        })
    }

    /// Runs until `stopping`.
    pub(super) async fn run(mut self, stopping: CancellationToken) {
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut disturbances = self.disturbances.clone();
        let mut proof: Option<Proof> = None;
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
                    Some(message) => self.take(message),
                    None => break,
                },
            }
            if self.look_around() {
                proof = None;
            }
            if !self.proven && proof.is_none() && self.connection.is_connected() {
                proof = Some(self.seek_proof());
            }
            self.settle();
            if self.queue.is_crowded() {
                // The reader may live on the same thread.
                tokio::task::yield_now().await;
            }
        }
        self.queue.close();
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
            self.proven = false;
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
        async move {
            requester.round_trip(PROOF_TIMEOUT).await.ok()?;
            match reader.last_sequence().await {
                Ok(last) => Some(last.unwrap_or(0)),
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

    fn prove(&mut self, last: Option<u64>) {
        let Some(last) = last else {
            self.failures = self.failures.saturating_add(1);
            return;
        };
        self.failures = 0;
        self.tracker.begin(last);
        self.proven = true;
    }

    fn hear(&mut self, message: &Message) {
        let loss = Beat::read(&message.payload).and_then(|beat| self.beats.hear(&beat));
        if let Some(loss) = loss {
            self.lose(loss);
        }
    }

    fn take(&mut self, message: Message) {
        let Some(message) = StoredMessage::read(message) else {
            tracing::debug!("A message of a feed bears no sequence.");
            return;
        };
        match self.tracker.note(&message.subject, message.sequence, message.previous().unwrap_or(0)) {
            Verdict::Repeated => return,
            Verdict::Sound => {}
            Verdict::Gap => self.lose(Loss::Gap),
            Verdict::Anew => {
                self.lose(Loss::StreamAnew);
                self.proven = false;
            }
        }
        self.measures.events.inc();
        if !self.overrun && !self.queue.push(Signal::Event(message)) {
            self.overrun = true;
            self.go_stale(Loss::SlowReader);
        }
    }

    fn lose(&mut self, loss: Loss) {
        if !self.overrun && !self.queue.push(Signal::Lost(loss)) {
            self.overrun = true;
        }
        self.go_stale(loss);
    }

    fn go_stale(&mut self, loss: Loss) {
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
        let Freshness::Stale { since, .. } = *self.freshness.borrow() else { return };
        if self.overrun && self.queue.is_empty() {
            self.overrun = false;
        }
        let sound = self.proven && !self.overrun && self.connection.is_connected() && self.beats.are_sound();
        self.overrun |= sound && !self.queue.push(Signal::Fresh(self.tracker.position()));
        if sound && !self.overrun {
            self.freshness.send_replace(Freshness::Fresh);
            self.measures.stale_seconds.set(0.0);
            tracing::info!("A feed is believed.");
        } else {
            self.measures.stale_seconds.set(since.elapsed().as_secs_f64());
        }
    }
}
