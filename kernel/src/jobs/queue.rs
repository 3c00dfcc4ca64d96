//! Runs one queue in one process: takes what there is room for, the urgent first; runs it; and decides what becomes of it.
//!
//! Every decision is stored before the job is acknowledged, in this order: the next attempt or the dead letter, what is told of
//! it, the acknowledgement. A crash in between repeats a run, and never loses one. A job that comes again is a new message with
//! the number of its attempt in a header, so a pause holds no place in the queue, whatever its length.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use subjects::free::v1::RawJson;
use subjects::job::{self, Lane, Place, header};
use subjects::jobs::v1::dead_letter::Reason;
use subjects::jobs::v1::job::State;
use subjects::jobs::v1::{Header, Priority, Transition};
use subjects::subject::Token;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use super::broker::{append, copied, pairs, rfc3339};
use super::engine::{Engine, transition};
use super::job::{Delivery, Job, headers_bytes};
use super::keys::Asked;
use super::leases::Lease;
use super::ledger::{Past, is_refused};
use super::pull::Pull;
use super::rate::{Rate, Turns};
use super::run::{Outcome, Run, Work};
use super::slots::{Concurrency, Limit, Slots};
use crate::telemetry::{self, Kind};
use crate::{Context, Error};

/// Jobs taken from a lane and not begun, at most: where jobs are short, what is on its way while as many are run.
const TAKEN_MAX: usize = 1_024;

/// A run that is over sooner is noted in the history once.
const TOLD_AFTER: Duration = Duration::from_millis(20);

/// The pause before a kind that nobody serves is offered again: doubles from the first to the last.
const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(30);

/// The pause before the broker is asked again.
const AWAY: Duration = Duration::from_millis(200);

/// The pauses before the ledger is asked again.
const LEDGER_PAUSE_MIN: Duration = Duration::from_millis(250);
const LEDGER_PAUSE_MAX: Duration = Duration::from_secs(5);

/// How long is waited at most for the ledger to hear of a job that is given back.
const LEDGER_WAIT: Duration = Duration::from_secs(1);

/// Tries to store a decision before the job is given back to the broker instead.
const TRIES_MAX: u32 = 5;

/// Characters of an error that are kept.
const ERROR_CHARACTERS_MAX: usize = 2_000;

/// How much of the time for stopping is kept for giving back what did not end.
const GIVING_BACK: Duration = Duration::from_secs(2);

/// Deliveries after which a job that others run is given up: the process that should have it run has died as often.
const DELIVERIES_MAX: u64 = 100;

impl Held {
    fn lane(&self) -> Lane {
        self.delivery.place().map_or(Lane::Normal, |place| place.lane)
    }
}

/// A queue that runs.
#[derive(Debug)]
pub struct QueueHandle {
    stop: CancellationToken,
}

impl QueueHandle {
    /// Takes no more jobs; those that run go on.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

impl Drop for QueueHandle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Runner {
    engine: Engine,
    queue: String,
    concurrency: Concurrency,
    rate: Option<Rate>,
    work: Arc<dyn Work>,
    stop: CancellationToken,
    /// The time for stopping is over.
    interrupt: CancellationToken,
}

/// A job that is held here.
struct Held {
    delivery: Delivery,
    lease: Lease,
}

pub(super) fn start(
    engine: &Engine,
    queue: &str,
    concurrency: Concurrency,
    rate: Option<Rate>,
    work: Arc<dyn Work>,
) -> QueueHandle {
    let stop = engine.life().stop_token().child_token();
    let runner = Runner {
        queue: queue.to_owned(),
        concurrency,
        rate,
        work,
        stop: stop.clone(),
        interrupt: CancellationToken::new(),
        engine: engine.clone(),
    };
    // Waited for at the end, and free to end before it: a queue may be stopped by itself. One that broke would hold for ever what
    // it has taken.
    engine.life().spawn_to_end(format!("the runner of the queue {queue}"), runner.run());
    QueueHandle { stop }
}

impl Runner {
    async fn run(self) {
        let slots = self.slots();
        let here = self.concurrency.here();
        let (limit, limits) = watch::channel(if slots.is_some() { Limit::none() } else { Limit::always(here) });
        let taken = here.min(TAKEN_MAX);
        let limited = self.rate.zip(self.engine.database());
        // What may begin, one by one, where that is limited: those that wait for their turn lie before it.
        let ready = if limited.is_some() { 1 } else { taken };
        let [(high, mut highs), (normal, mut normals), (low, mut lows)] = [(); 3].map(|()| mpsc::channel(ready));
        let taking = async {
            match limited {
                None => self.take_all([high, normal, low], &limits).await,
                Some((rate, database)) => {
                    drop((high, low));
                    self.take_in_turn(Turns::new(database, &self.queue, rate), rate, normal, &limits).await;
                }
            }
        };
        let at_work = AtomicUsize::new(0);
        let running = async {
            let mut running = FuturesUnordered::new();
            let mut closed = false;
            let mut changes = limits.clone();
            loop {
                at_work.store(running.len(), Ordering::Relaxed);
                let limit = *changes.borrow_and_update();
                let (allowed, stopping) = (limit.now(), self.stop.is_cancelled());
                // What was taken and may not begin here goes back at once, whether there is room or not.
                let begins = allowed > 0 && !stopping;
                tokio::select! {
                    biased;
                    Some(()) = running.next() => {}
                    held = next(&mut highs, &mut normals, &mut lows),
                        if !closed && (running.len() < allowed || !begins) =>
                    {
                        match held {
                            Some(held) => running.push(self.handle(held, begins, &limits)),
                            // The last of those who take has stopped.
                            None => closed = true,
                        }
                    }
                    Ok(()) = changes.changed(), if !closed => {}
                    // Another may run the queue from then on, whether the database can be heard of here or not.
                    () = limit.end(), if !closed && begins && slots.is_some() => {}
                    () = self.stop.cancelled(), if !closed && !stopping => {}
                    else => break,
                }
            }
        };
        let interrupting = async {
            self.stop.cancelled().await;
            if self.engine.life().is_stopping() {
                sleep(self.engine.drain().saturating_sub(GIVING_BACK)).await;
                self.interrupt.cancel();
            }
            std::future::pending::<()>().await;
        };
        let limiting = async {
            match &slots {
                Some(slots) => slots.keep(&at_work, &limit, &self.stop).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ((), ()) = async { tokio::join!(taking, running) } => {}
            () = interrupting => {}
            () = limiting => {}
        }
        if let Some(slots) = &slots {
            slots.give_back().await;
        }
    }

    /// Where the bound is that of all instances.
    fn slots(&self) -> Option<Slots<'_>> {
        let Concurrency::Everywhere(_) = self.concurrency else { return None };
        let (queue, holder) = (self.queue.as_str(), self.engine.new_id());
        let slots = |database| Slots { database, queue, concurrency: self.concurrency.here(), holder };
        self.engine.database().map(slots)
    }

    async fn take_all(&self, [high, normal, low]: [mpsc::Sender<Held>; 3], limits: &watch::Receiver<Limit>) {
        let lanes = [(Lane::High, high), (Lane::Normal, normal), (Lane::Low, low)];
        futures::future::join_all(lanes.map(|(lane, sender)| self.take(lane, sender, limits.clone()))).await;
    }

    /// Takes no more than have a turn soon, and lets each begin at its turn: the most urgent that is there by then.
    async fn take_in_turn(
        &self,
        mut turns: Turns<'_>,
        rate: Rate,
        begins: mpsc::Sender<Held>,
        limits: &watch::Receiver<Limit>,
    ) {
        let taken = self.concurrency.here().min(usize::try_from(rate.at_once()).unwrap_or(TAKEN_MAX)).min(TAKEN_MAX);
        let [(high, mut highs), (normal, mut normals), (low, mut lows)] = [(); 3].map(|()| mpsc::channel(taken));
        let beginning = async {
            let mut first = None;
            loop {
                let held = match first.take() {
                    Some(held) => held,
                    None => match next(&mut highs, &mut normals, &mut lows).await {
                        Some(held) => held,
                        None => return,
                    },
                };
                let turn = async {
                    let room = begins.reserve().await;
                    turns.next().await;
                    room
                };
                let room = tokio::select! {
                    biased;
                    () = self.is_over(limits) => None,
                    room = turn => room.ok(),
                };
                let Some(room) = room else {
                    self.give_back_unbegun(&held).await;
                    continue;
                };
                let urgent = match held.lane() {
                    Lane::High => None,
                    Lane::Normal => highs.try_recv().ok(),
                    Lane::Low => highs.try_recv().or_else(|_| normals.try_recv()).ok(),
                };
                match urgent {
                    Some(urgent) => {
                        first = Some(held);
                        room.send(urgent);
                    }
                    None => room.send(held),
                }
            }
        };
        tokio::join!(self.take_all([high, normal, low], limits), beginning);
    }

    /// Takes jobs of one lane until it is stopped. While there are many it asks for the next before the last have come.
    async fn take(&self, lane: Lane, sender: mpsc::Sender<Held>, limits: watch::Receiver<Limit>) {
        let consumer = job::consumer(&self.queue, lane);
        let (many, is_many) = watch::channel(false);
        let always = self.take_by(&consumer, &sender, limits.clone(), &many, None);
        let while_many = self.take_by(&consumer, &sender, limits, &many, Some(is_many));
        tokio::join!(always, while_many);
    }

    /// Takes them by one request to the broker after the other; where asked, only while there are many.
    async fn take_by(
        &self,
        consumer: &str,
        sender: &mpsc::Sender<Held>,
        mut limits: watch::Receiver<Limit>,
        many: &watch::Sender<bool>,
        mut while_many: Option<watch::Receiver<bool>>,
    ) {
        let mut pull = None;
        while !self.stop.is_cancelled() {
            // What may not run here is left to who runs it.
            let may_run = limits.wait_for(|limit| limit.now() > 0);
            if !matches!(self.stop.run_until_cancelled(may_run).await, Some(Ok(_))) {
                return;
            }
            if let Some(is_many) = &mut while_many
                && !matches!(self.stop.run_until_cancelled(is_many.wait_for(|many| *many)).await, Some(Ok(_)))
            {
                return;
            }
            // Asked for half as many as may lie ready, and not for each by itself.
            let room = sender.max_capacity().div_ceil(2);
            let Some(Ok(mut places)) = self.stop.run_until_cancelled(sender.reserve_many(room)).await else { return };
            let Some(open) = &mut pull else {
                pull = Pull::open(self.engine.broker().client(), consumer.to_owned()).await;
                if pull.is_none() {
                    let _ = self.stop.run_until_cancelled(sleep(AWAY)).await;
                }
                continue;
            };
            let hold = |delivery: Delivery| {
                let lease = self.engine.leases().hold(delivery.ack.clone());
                places.next().expect("no more come than there are places").send(Held { delivery, lease });
            };
            match open.batch(room, hold).await {
                Some(taken) => drop(many.send_replace(taken == room)),
                None => pull = None,
            }
        }
    }

    /// Runs a job that begins, and gives any other back.
    ///
    /// What few jobs come to is awaited on the heap (`Box::pin` below): every job is moved with the room for it.
    async fn handle(&self, held: Held, begins: bool, limits: &watch::Receiver<Limit>) {
        if !begins {
            return self.give_back_unbegun(&held).await;
        }
        let place = match held.delivery.place() {
            Ok(place) => place,
            // The filters admit such a name; a queue that a subject can name is this one.
            Err(fault) => {
                let kind = Token::parse("unnamed").expect("a word");
                let queue = Token::parse(&self.queue).unwrap_or_else(|| kind.clone());
                return self.bury_unread(&held, &Place { queue, kind, lane: Lane::Normal }, &fault).await;
            }
        };
        let patience = self.work.patience(place.kind.as_str());
        match held.delivery.job(place.clone(), patience) {
            Ok(job) => self.handle_job(held, job, limits).await,
            Err(fault) => self.bury_unread(&held, &place, &fault).await,
        }
    }

    async fn handle_job(&self, held: Held, job: Job, limits: &watch::Receiver<Limit>) {
        let now = self.engine.now();
        if job.expires_at.is_some_and(|expires_at| expires_at <= now) {
            let (reason, error) = if job.is_unserved() {
                (Reason::NoHandler, "Nobody served its kind before it expired.")
            } else {
                (Reason::Expired, "It was not begun before it expired.")
            };
            return self.bury(&held, &job, reason, error, None).await;
        }
        let Some(database) = self.engine.database() else { return self.run_job(&held, job, None, limits).await };
        if job.unique && job.is_first() {
            let ask = || self.engine.is_duplicate(database, &job, &held.delivery);
            match self.ask_ledger(&held, &job, limits, ask).await {
                Some(false) => {}
                Some(true) => return self.drop_duplicate(&held, &job).await,
                None => return,
            }
        }
        let Some(key) = job.concurrency_key.clone() else { return self.run_job(&held, job, None, limits).await };
        match self.ask_ledger(&held, &job, limits, || self.engine.take_key(database, &job, &key)).await {
            Some(Asked::Taken(key)) => {
                self.run_job(&held, job, Some(&key.lost), limits).await;
                Box::pin(self.engine.give_key_back(database, key)).await;
            }
            Some(Asked::Kept) => self.wait_for_key(&held, job).await,
            None => {}
        }
    }

    /// Runs a job that may run, or gives it up for good where it has done so often enough. `lost` ends it.
    async fn run_job(
        &self,
        held: &Held,
        mut job: Job,
        lost: Option<&CancellationToken>,
        limits: &watch::Receiver<Limit>,
    ) {
        let came_back = held.delivery.delivered > 1;
        let alone = if came_back && self.work.is_in_process() {
            let alone = tokio::select! {
                biased;
                () = self.is_over(limits) => return self.give_back_unbegun(held).await,
                alone = self.engine.suspect().lock() => alone,
            };
            let Some(past) = self.ask_ledger(held, &job, limits, || self.engine.note_begin(&job)).await else { return };
            job.attempt = next_attempt(&job, past);
            Some(alone)
        } else {
            None
        };
        let died = held.delivery.delivered > DELIVERIES_MAX;
        if job.attempt > job.attempts_max || died {
            let (reason, error) = if came_back {
                (Reason::CrashLoop, "Its runs did not end: it may have taken their process down.")
            } else {
                (Reason::Exhausted, "It has had all its attempts.")
            };
            job.attempt = job.attempt.min(job.attempts_max);
            return self.bury(held, &job, reason, error, None).await;
        }
        // That one begins which came back is noted already.
        if self.stop.is_cancelled() && alone.is_none() {
            return self.give_back_unbegun(held).await;
        }
        let started_at = self.engine.now();
        let outcome = {
            let mut attempt = std::pin::pin!(self.attempt(&job, started_at, lost));
            if job.attempt >= job.attempts_max && !came_back && self.work.is_in_process() {
                tokio::select! {
                    biased;
                    outcome = &mut attempt => outcome,
                    never = self.note_last(&job) => match never {},
                }
            } else {
                attempt.await
            }
        };
        self.decide(held, job, outcome, started_at).await;
    }

    /// The message is not the job of this id: that came before.
    async fn drop_duplicate(&self, held: &Held, job: &Job) {
        self.engine.count(&self.queue, "duplicate");
        tracing::info!(queue = self.queue, id = %job.id, "A job was published again and is not run again.");
        self.engine.leases().end(held.lease);
        // One that is lost has it dropped once more.
        let _ = self.engine.broker().client().publish(held.delivery.ack.clone(), Bytes::from_static(b"+ACK")).await;
    }

    /// Told when it is kept, and acknowledged then: it comes again by itself.
    async fn wait_for_key(&self, held: &Held, mut job: Job) {
        self.engine.count(&self.queue, "key_taken");
        job.waits = job.waits.saturating_add(1);
        let mut told = transition(&job, State::Waiting, self.engine.now());
        told.args = arguments(&job);
        self.engine.settle(told, held.lease, held.delivery.ack.clone()).await;
    }

    /// What the ledger says, asked again and again while it cannot be. The job is held meanwhile, since each delivery counts.
    /// `None` where it is not held here any more.
    async fn ask_ledger<T, F>(
        &self,
        held: &Held,
        job: &Job,
        limits: &watch::Receiver<Limit>,
        ask: impl Fn() -> F,
    ) -> Option<T>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut pause = LEDGER_PAUSE_MIN;
        loop {
            let error = match Box::pin(ask()).await {
                Ok(said) => return Some(said),
                Err(error) => error,
            };
            if is_refused(&error) {
                tracing::warn!(queue = self.queue, id = %job.id, ?error, "The ledger cannot hold a job.");
                self.bury(held, job, Reason::Undecodable, "It holds what the database cannot.", None).await;
                return None;
            }
            if pause == LEDGER_PAUSE_MIN {
                tracing::warn!(queue = self.queue, ?error, "The ledger cannot be asked; a job waits for it.");
            }
            tokio::select! {
                biased;
                () = self.is_over(limits) => {
                    self.give_back_unbegun(held).await;
                    return None;
                }
                () = sleep(pause) => {}
            }
            if job.expires_at.is_some_and(|expires_at| expires_at <= self.engine.now()) {
                self.bury(held, job, Reason::Expired, "It was not begun before it expired.", None).await;
                return None;
            }
            pause = (pause * 2).min(LEDGER_PAUSE_MAX);
        }
    }

    /// Completes when nothing may begin here any more: the runner stops, or another may run the queue.
    async fn is_over(&self, limits: &watch::Receiver<Limit>) {
        let mut limits = limits.clone();
        loop {
            let limit = *limits.borrow_and_update();
            if limit.now() == 0 {
                return;
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = limit.end() => {}
                Ok(()) = limits.changed() => {}
            }
        }
    }

    /// Notes that a job without an attempt to spare runs for the first time: should it come back, it is known that it began.
    /// One that takes its process down sooner than it is told of runs once more.
    async fn note_last(&self, job: &Job) -> Infallible {
        sleep(TOLD_AFTER).await;
        if let Err(error) = Box::pin(self.engine.note_first(job)).await {
            tracing::debug!(queue = self.queue, ?error, "That a job begins cannot be noted.");
        }
        std::future::pending().await
    }

    /// What asked for an id that stays unique has ended.
    async fn note_end(&self, job: &Job) {
        if let Some(database) = self.engine.database().filter(|_| job.unique)
            && let Err(error) = Box::pin(self.engine.note_end(database, job)).await
        {
            // Counts as if it went on: published again it is dropped all the same, unless the stream was lost meanwhile.
            tracing::warn!(queue = self.queue, ?error, "That a job has ended cannot be noted.");
        }
    }

    /// Runs one attempt within its time.
    async fn attempt(&self, job: &Job, started_at: DateTime<Utc>, lost: Option<&CancellationToken>) -> Outcome {
        let begun = self.engine.begin(job);
        let (clock, random) = (self.engine.clock(), self.engine.random());
        let span = span(job);
        let trace = telemetry::trace_of(&span).or_else(|| job.trace());
        let cx = Context::for_service(self.engine.service(), clock, random, job.timeout);
        let cx = Arc::new(match trace {
            Some(trace) => cx.with_trace(trace),
            None => cx,
        });
        let running =
            || Transition { started_at: Some(started_at.into()), ..transition(job, State::Running, started_at) };
        let is_shown = self.engine.broker().show(running).await;
        let run = Run { job: job.clone(), cx, engine: self.engine.clone(), cancelled: begun.token.clone() };
        // What makes the future may panic as well as what it does.
        let work = AssertUnwindSafe(async { self.work.run(&run).await }).catch_unwind();
        let mut work = std::pin::pin!(timeout(job.timeout, work).instrument(span));
        let tell_at = Instant::now() + TOLD_AFTER;
        // Beside the work: it goes on, and ends in time, while the history takes nothing.
        let mut telling = std::pin::pin!(async {
            sleep_until(tell_at).await;
            self.engine.note(Transition { args: arguments(job), ..running() }, is_shown).await;
        });
        let mut is_told = false;
        loop {
            tokio::select! {
                biased;
                outcome = &mut work => return match outcome {
                    Ok(Ok(outcome)) => outcome,
                    Ok(Err(_)) => Outcome::Failed("the worker panicked".to_owned()),
                    Err(_) => Outcome::Failed(format!("it took longer than {} ms", job.timeout.as_millis())),
                },
                () = begun.token.cancelled() => return Outcome::Cancelled,
                () = self.interrupt.cancelled() => return Outcome::Interrupted,
                () = lost_key(lost) => return Outcome::Interrupted,
                () = &mut telling, if !is_told => is_told = true,
            }
        }
    }

    /// What becomes of a job whose attempt ended so.
    async fn decide(&self, held: &Held, mut job: Job, outcome: Outcome, started_at: DateTime<Utc>) {
        let outcome = outcome.bounded();
        let last = job.attempt >= job.attempts_max;
        job.note_unserved(outcome == Outcome::NoHandler);
        if outcome.state() == State::Failed {
            let mut failed = transition(&job, State::Failed, self.engine.now());
            failed.error = failure(&outcome);
            self.engine.tell(failed).await;
        }
        let started = Some(started_at);
        match outcome {
            Outcome::Done(result) => {
                self.engine.count(&self.queue, "succeeded");
                self.note_end(&job).await;
                let mut done = transition(&job, State::Succeeded, self.engine.now());
                done.started_at = started.map(Into::into);
                done.args = arguments(&job);
                done.result = (!result.is_empty()).then_some(RawJson { text: result });
                self.engine.settle(done, held.lease, held.delivery.ack.clone()).await;
            }
            Outcome::Cancelled => {
                self.engine.count(&self.queue, "cancelled");
                self.note_end(&job).await;
                let mut cancelled = transition(&job, State::Cancelled, self.engine.now());
                cancelled.started_at = started.map(Into::into);
                cancelled.args = arguments(&job);
                cancelled.headers = pairs(&job.headers).map(|(name, value)| Header { name, value }).collect();
                cancelled.set_priority(priority(job.place.lane));
                self.engine.settle(cancelled, held.lease, held.delivery.ack.clone()).await;
            }
            Outcome::Permanent(error) => self.bury(held, &job, Reason::Permanent, &error, started).await,
            Outcome::Undecodable(error) => self.bury(held, &job, Reason::Undecodable, &error, started).await,
            Outcome::Lost(error) if last => self.bury(held, &job, Reason::CrashLoop, &error, started).await,
            Outcome::Failed(error) | Outcome::RetryAfter(_, error) if last => {
                self.bury(held, &job, Reason::Exhausted, &error, started).await;
            }
            Outcome::Failed(error) | Outcome::Lost(error) => {
                let pause = job.backoff(self.engine.random().fraction());
                self.try_again(held, &job, pause, &error, started).await;
            }
            Outcome::RetryAfter(pause, error) => self.try_again(held, &job, pause, &error, started).await,
            Outcome::Snooze(pause) => self.wait(held, job, pause, State::Waiting).await,
            Outcome::NoHandler => {
                let pause = WAIT_MIN.saturating_mul(2_u32.saturating_pow(job.waits.min(8))).min(WAIT_MAX);
                self.engine.count(&self.queue, "no_handler");
                let jitter = 0.5 + self.engine.random().fraction() / 2.0;
                self.wait(held, job, pause.mul_f64(jitter), State::Waiting).await;
            }
            Outcome::Interrupted => self.wait(held, job, Duration::ZERO, State::Pending).await,
        }
    }

    async fn try_again(&self, held: &Held, job: &Job, pause: Duration, error: &str, started: Option<DateTime<Utc>>) {
        self.engine.count(&self.queue, "failed");
        let run_at = self.after(pause);
        let (attempt, waits) = (job.attempt + 1, job.waits);
        if !self.put_off(job, attempt, waits, run_at).await {
            return self.give_back(held).await;
        }
        let mut told = transition(job, State::RetryScheduled, self.engine.now());
        told.run_at = Some(run_at.into());
        told.started_at = started.map(Into::into);
        told.args = arguments(job);
        told.error = shortened(error);
        self.engine.settle(told, held.lease, held.delivery.ack.clone()).await;
    }

    /// Puts a job off without spending its attempt.
    async fn wait(&self, held: &Held, mut job: Job, pause: Duration, state: State) {
        let run_at = self.after(pause);
        let args = arguments(&job);
        job.waits = job.waits.saturating_add(1);
        if !self.put_off(&job, job.attempt, job.waits, run_at).await {
            return self.give_back(held).await;
        }
        let mut told = transition(&job, state, self.engine.now());
        told.run_at = Some(run_at.into());
        told.args = args;
        self.engine.settle(told, held.lease, held.delivery.ack.clone()).await;
    }

    fn after(&self, pause: Duration) -> DateTime<Utc> {
        self.engine.now() + TimeDelta::from_std(pause).unwrap_or(TimeDelta::days(1))
    }

    async fn put_off(&self, job: &Job, attempt: u32, waits: u32, run_at: DateTime<Utc>) -> bool {
        Box::pin(self.insist("A job cannot be put off", || self.engine.put_off(job, attempt, waits, run_at))).await
    }

    async fn bury_unread(&self, held: &Held, place: &Place, fault: &str) {
        let delivery = &held.delivery;
        let now = self.engine.now();
        let job = Job {
            id: delivery.place_id(),
            place: place.clone(),
            arguments: delivery.body.clone(),
            attempt: 0,
            attempts_max: 0,
            timeout: Duration::ZERO,
            created_at: delivery.published,
            expires_at: None,
            round: 0,
            waits: 0,
            concurrency_key: None,
            unique: false,
            backoff_base: Duration::ZERO,
            backoff_max: Duration::ZERO,
            headers: delivery.own_headers(),
        };
        tracing::warn!(queue = self.queue, id = %job.id, fault, at = %now, "A job cannot be read.");
        self.bury(held, &job, Reason::Undecodable, fault, None).await;
    }

    /// Gives a job up: its letter is stored first, body and headers as they were.
    async fn bury(&self, held: &Held, job: &Job, reason: Reason, error: &str, started: Option<DateTime<Utc>>) {
        let (mut error, now) = (shortened(error), self.engine.now());
        let mut headers = copied(&held.delivery.own_headers(), |name| !is_told_by_letter(name));
        if headers_bytes(&headers) > job::HEADERS_BYTES_MAX {
            // The broker would not take the letter.
            headers = HeaderMap::new();
            error.push_str("; its headers are left out");
        }
        let subject = held.delivery.subject.as_str();
        for (name, value) in [
            (header::DEAD_ID, job.id.to_string()),
            (header::REASON, reason.as_str_name().to_owned()),
            (header::ERROR, error.clone()),
            (header::ATTEMPTS, job.attempt.to_string()),
            (header::ATTEMPTS_ALLOWED, job.attempts_max.to_string()),
            (header::FAILED_AT, rfc3339(now)),
            (header::ORIGINAL_SUBJECT, subject.to_owned()),
            (header::DEAD_ROUND, job.round.to_string()),
            (header::CREATED_AT, rfc3339(job.created_at)),
            (header::MESSAGE_ID, format!("{}#{}", job.place.message_id(&job.id), job.round)),
        ] {
            append(&mut headers, name, &value);
        }
        let letter = job.place.dead_letter_subject();
        let store = || self.engine.broker().store(letter.clone(), headers.clone(), held.delivery.body.clone());
        let stored = Box::pin(self.insist("A dead letter cannot be stored", store)).await;
        if !stored {
            return self.give_back(held).await;
        }
        self.note_end(job).await;
        self.engine.count_dead(&self.queue, reason.as_str_name());
        let (queue, id, attempt, reason) = (&self.queue, &job.id, job.attempt, reason.as_str_name());
        tracing::error!(queue, %id, attempt, reason, error, "A job is a dead letter now.");
        let mut told = transition(job, State::DeadLetter, now);
        told.started_at = started.map(Into::into);
        told.args = arguments(job);
        told.error = error;
        self.engine.settle(told, held.lease, held.delivery.ack.clone()).await;
    }

    /// Does what has to be stored, again while the broker is away. False where it cannot be.
    async fn insist<T, F>(&self, what: &str, step: impl Fn() -> F) -> bool
    where
        F: Future<Output = Result<T, Error>>,
    {
        for attempt in 1..=TRIES_MAX {
            match step().await {
                Ok(_) => return true,
                Err(error) => tracing::warn!(queue = self.queue, attempt, ?error, what, "It is tried again."),
            }
            sleep(AWAY * attempt).await;
        }
        false
    }

    /// Lets somebody else have what has not begun here, which costs it no attempt.
    async fn give_back_unbegun(&self, held: &Held) {
        // From its second delivery on it is noted that a job begins, and not before.
        if held.delivery.delivered == 1
            && self.work.is_in_process()
            && let Ok(place) = held.delivery.place()
            && let Ok(job) = held.delivery.job(place.clone(), self.work.patience(place.kind.as_str()))
            && !matches!(timeout(LEDGER_WAIT, Box::pin(self.engine.note_unbegun(&job))).await, Ok(Ok(())))
        {
            tracing::debug!(queue = self.queue, id = %job.id, "That a job has not begun cannot be noted.");
        }
        self.give_back(held).await;
    }

    /// Lets somebody else have it.
    async fn give_back(&self, held: &Held) {
        self.engine.leases().end(held.lease);
        let ack: Subject = held.delivery.ack.clone();
        let _ = self.engine.broker().client().publish(ack, Bytes::from_static(b"-NAK")).await;
    }
}

/// Completes when the run has no right to its key any more.
async fn lost_key(lost: Option<&CancellationToken>) {
    match lost {
        Some(lost) => lost.cancelled().await,
        None => std::future::pending().await,
    }
}

/// The attempt that begins of a job that came back. Of which it is only supposed that it ran before, it runs once at least.
fn next_attempt(job: &Job, past: Past) -> u32 {
    let next = job.attempt.saturating_add(past.in_vain);
    if past.is_known { next } else { next.min(job.attempts_max.max(job.attempt)) }
}

/// The next job, the urgent first. `None` when all lanes have ended and are empty.
async fn next(
    highs: &mut mpsc::Receiver<Held>,
    normals: &mut mpsc::Receiver<Held>,
    lows: &mut mpsc::Receiver<Held>,
) -> Option<Held> {
    tokio::select! {
        biased;
        Some(held) = highs.recv() => Some(held),
        Some(held) = normals.recv() => Some(held),
        Some(held) = lows.recv() => Some(held),
        else => None,
    }
}

/// Headers that a letter has anew, and those of no meaning for what is put back.
fn is_told_by_letter(name: &str) -> bool {
    name.starts_with(header::DEAD_PREFIX) || header::RUNNERS.contains(&name)
}

fn priority(lane: Lane) -> Priority {
    match lane {
        Lane::High => Priority::High,
        Lane::Normal => Priority::Normal,
        Lane::Low => Priority::Low,
    }
}

fn arguments(job: &Job) -> Option<RawJson> {
    let text = std::str::from_utf8(&job.arguments).ok().filter(|text| !text.trim().is_empty())?;
    // What is no JSON is in the dead letter.
    subjects::json::check_any(text.as_bytes()).ok().map(|()| RawJson { text: text.to_owned() })
}

fn failure(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Failed(error)
        | Outcome::RetryAfter(_, error)
        | Outcome::Permanent(error)
        | Outcome::Undecodable(error)
        | Outcome::Lost(error) => shortened(error),
        _ => String::new(),
    }
}

fn shortened(error: &str) -> String {
    error.chars().map(|c| if c.is_control() { ' ' } else { c }).take(ERROR_CHARACTERS_MAX).collect()
}

/// In the trace of who submitted the job.
fn span(job: &Job) -> Span {
    match job.trace().filter(|trace| trace.sampled && telemetry::is_exporting()) {
        Some(trace) => {
            let name = format!("job.{}.{}.run", job.place.queue, job.place.kind);
            telemetry::span(Kind::Consumer, &name, Some(trace))
        }
        None => Span::none(),
    }
}
