//! What the queue protocol asks of the broker: to store with acknowledgement, to look, and for the jobs service to make, hold
//! and empty queues. The rights for the latter are that service's alone.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::header::{HeaderName, HeaderValue};
use async_nats::{Client, HeaderMap, StatusCode, Subject};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use futures::future::try_join_all;
use serde::Deserialize;
use serde_json::{Value, json};
use subjects::JobArguments;
use subjects::job::{self, Lane, Place, header};
use subjects::jobs::v1::Transition;
use subjects::subject::Token;
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

use crate::nats::{RequestError, Requester};
use crate::{Error, Result};

/// How long an acknowledgement is waited for: the disk may be slow.
const ACK_WAIT: Duration = Duration::from_secs(5);

/// JetStream's code for a consumer that does not exist.
const CONSUMER_NOT_FOUND: u64 = 10_014;

/// What has fired is cleared from `SCHEDULES` after this; nothing reads it there once the work queue has it.
const FIRED_TTL: &str = "24h";

/// Held until somebody lets it go on; the broker wants a time.
const HELD_FOR: chrono::TimeDelta = chrono::TimeDelta::days(36_500);

/// Jobs of an atomic batch: fewer are sooner stored by themselves, more the broker does not take.
const BATCH_MIN: usize = 8;
const BATCH_MAX: usize = 1_000;

static MESSAGE_ID: HeaderName = HeaderName::from_static(header::MESSAGE_ID);
static BATCH_ID: HeaderName = HeaderName::from_static("Nats-Batch-Id");
static BATCH_SEQUENCE: HeaderName = HeaderName::from_static("Nats-Batch-Sequence");

/// What is shown to who watches in the time of a window, at most. Nobody reads more, and at a rate where it matters it would
/// cost as much as the work.
const SHOWN_MAX: u32 = 200;
const SHOWN_WINDOW: Duration = Duration::from_millis(100);

/// The consumer by which the jobs service keeps dead letters, and how long it is waited for.
const LETTERS_CONSUMER: &str = "JOBS_DLQ.dead-letters";
const LETTERS_LOOKS_MAX: u32 = 20;
const LETTERS_LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Subjects of one look at a stream.
const SUBJECTS_MAX: usize = 100_000;

/// The broker, as runners and the jobs service see it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct JobBroker {
    requester: Requester,
    client: Client,
    shown: Arc<Mutex<Shown>>,
}

/// What was shown of late.
#[derive(Debug)]
struct Shown {
    since: Instant,
    count: u32,
}

/// A message was stored.
#[derive(Clone, Debug, Deserialize)]
pub struct Stored {
    /// Its place in the stream.
    #[serde(rename = "seq")]
    pub sequence: u64,
    /// Whether one with this id was there already.
    #[serde(default)]
    pub duplicate: bool,
}

/// A job to be submitted.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Where to.
    pub place: Place,
    /// Its id, unique within queue and kind.
    pub id: Token,
    /// JSON.
    pub arguments: Bytes,
    /// Not before this time; at once where it is past or absent.
    pub run_at: Option<DateTime<Utc>>,
    /// Further headers, of this protocol or the producer's own.
    pub headers: Vec<(String, String)>,
}

/// What a job was stored with beside its arguments.
#[derive(Clone, Debug, Default)]
pub struct Envelope {
    /// How urgent it is.
    pub lane: Lane,
    /// Its headers with every value, without the broker's own.
    pub headers: Vec<(String, String)>,
}

/// Where a job waits in the broker, with what it takes to put it back.
#[derive(Clone, Debug)]
pub struct Found {
    stream: &'static str,
    sequence: u64,
    /// Gone with the message when it is taken.
    pub envelope: Envelope,
}

/// What the broker has of a queue, by lane in their order.
#[derive(Clone, Debug, Default)]
pub struct QueueState {
    /// Jobs that wait to be taken.
    pub pending: u64,
    /// Jobs that were taken and have not ended.
    pub running: u64,
    /// Whether it is held.
    pub paused: bool,
    /// When the oldest that waits was stored.
    pub oldest: Option<DateTime<Utc>>,
}

/// Times of schedules that have not come.
#[derive(Clone, Debug, Default)]
pub struct Ticks {
    /// Their subjects.
    pub planned: BTreeSet<String>,
    /// When the stream that holds them was created.
    pub created_at: DateTime<Utc>,
}

#[derive(Deserialize)]
struct TicksInfo {
    created: DateTime<Utc>,
    state: TicksState,
}

#[derive(Deserialize)]
struct TicksState {
    #[serde(default)]
    subjects: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct Committed {
    #[serde(rename = "seq")]
    last: u64,
    count: u64,
}

#[derive(Deserialize)]
struct Answer {
    error: Option<Refusal>,
    #[serde(flatten)]
    rest: Value,
}

#[derive(Deserialize)]
pub(super) struct Refusal {
    pub(super) err_code: u64,
    #[serde(default)]
    description: String,
}

#[derive(Debug, Deserialize)]
struct ConsumerInfo {
    #[serde(default)]
    num_pending: u64,
    #[serde(default)]
    num_ack_pending: u64,
    #[serde(default)]
    paused: bool,
}

#[derive(Deserialize)]
struct LettersInfo {
    ack_floor: Floor,
    #[serde(default)]
    num_ack_pending: u64,
}

#[derive(Deserialize)]
struct Floor {
    stream_seq: u64,
}

impl Submission {
    /// A job of a declared kind with these arguments, at once, as its contract says. `id` is unique within its kind.
    pub fn of<T: JobArguments>(arguments: &T, id: Uuid) -> Self {
        let contract = T::CONTRACT;
        let token = |word: &str| Token::parse(word).expect("the contract was checked when it was compiled");
        Self {
            place: Place { queue: token(contract.queue), kind: token(contract.kind), lane: Lane::Normal },
            id: token(&id.to_string()),
            arguments: subjects::json::encode(arguments).into(),
            run_at: None,
            headers: Vec::new(),
        }
    }

    /// The same, not before `run_at`.
    pub fn at(self, run_at: DateTime<Utc>) -> Self {
        Self { run_at: Some(run_at), ..self }
    }

    /// Whether it is no larger than a job may be, as those that were given up can be.
    pub fn has_room(&self) -> bool {
        let headers = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        self.arguments.len() <= job::ARGUMENTS_BYTES_MAX && job::headers_bytes(headers) <= job::HEADERS_BYTES_MAX
    }

    /// Whether it waits for its time, as seen at `now`.
    pub(crate) fn is_delayed(&self, now: DateTime<Utc>) -> bool {
        self.run_at.is_some_and(|run_at| run_at > now)
    }

    /// Subject and headers of the message that submits it at `now`.
    pub(crate) fn message(&self, now: DateTime<Utc>) -> (String, Vec<(String, String)>) {
        let mut headers = self.headers.clone();
        match self.run_at.filter(|run_at| *run_at > now) {
            None => {
                headers.push((header::MESSAGE_ID.to_owned(), self.place.message_id(&self.id)));
                (self.place.subject(), headers)
            }
            Some(run_at) => {
                headers.push((header::CREATED_AT.to_owned(), rfc3339(now)));
                let id = format!("{}@{}", self.place.message_id(&self.id), run_at.timestamp_micros());
                headers.extend(schedule(&self.place, &self.id, run_at, &id));
                (self.place.schedule(&self.id), headers)
            }
        }
    }
}

/// What makes a message a schedule that puts the job into its queue at `run_at`.
fn schedule(place: &Place, id: &Token, run_at: DateTime<Utc>, message_id: &str) -> [(String, String); 5] {
    [
        ("Nats-Schedule", format!("@at {}", rfc3339(run_at))),
        ("Nats-Schedule-Target", place.due_subject()),
        ("Nats-Schedule-TTL", FIRED_TTL.to_owned()),
        (header::MESSAGE_ID, message_id.to_owned()),
        (header::ID, id.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
}

impl JobBroker {
    pub(crate) fn new(requester: Requester, client: Client) -> Self {
        let shown = Arc::new(Mutex::new(Shown { since: Instant::now(), count: 0 }));
        Self { requester, client, shown }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Stores a message. 503 where the broker does not say that it has.
    pub async fn store(&self, subject: String, headers: HeaderMap, body: Bytes) -> Result<Stored> {
        let deadline = Instant::now() + ACK_WAIT;
        let answer = self.requester.request(subject.into(), Some(headers), body, deadline).await.map_err(away)?;
        read(&answer.payload).map_err(refused)
    }

    /// Submits a job: straight to its queue, or to be put there when it is due.
    ///
    /// 503 where the broker does not say that it has it, which leaves open whether it does; the same id is the same job for
    /// two minutes. 503 `queue_full` where there is no room.
    pub async fn submit(&self, job: &Submission, now: DateTime<Utc>) -> Result<Stored> {
        let mut headers = HeaderMap::new();
        let (subject, own) = job.message(now);
        for (name, value) in &own {
            append(&mut headers, name, value);
        }
        self.store(subject, headers, job.arguments.clone()).await
    }

    /// As [`JobBroker::submit`] for each, in their order. Those that are due at once are stored together where they are many.
    pub async fn submit_all(&self, jobs: &[&Submission], now: DateTime<Utc>) -> Result<Vec<Stored>> {
        let at_once = jobs.iter().all(|job| job.run_at.is_none_or(|run_at| run_at <= now));
        if at_once && (BATCH_MIN..=BATCH_MAX).contains(&jobs.len()) {
            match self.submit_batch(jobs).await {
                Ok(stored) => return Ok(stored),
                // An id that is known refuses all; by themselves each is told its own.
                Err(Ask::Refused(Refusal { err_code, description })) => {
                    tracing::debug!(err_code, description, "A batch is refused; its jobs are submitted one by one.");
                }
                Err(error) => return Err(error.into()),
            }
        }
        try_join_all(jobs.iter().map(|job| self.submit(job, now))).await
    }

    /// All or none (ADR-50).
    async fn submit_batch(&self, jobs: &[&Submission]) -> Result<Vec<Stored>, Ask> {
        let batch = self.client.new_inbox().rsplit('.').next().unwrap_or_default().to_owned();
        let deadline = Instant::now() + ACK_WAIT;
        let mut committed = None;
        for (place, job) in jobs.iter().enumerate() {
            let mut headers = HeaderMap::new();
            job.headers.iter().for_each(|(name, value)| append(&mut headers, name, value));
            append_known(&mut headers, &MESSAGE_ID, &job.place.message_id(&job.id));
            append_known(&mut headers, &BATCH_ID, &batch);
            append_known(&mut headers, &BATCH_SEQUENCE, &(place + 1).to_string());
            let (subject, body) = (job.place.subject(), job.arguments.clone());
            if place + 1 < jobs.len() {
                let sent = timeout_at(deadline, self.client.publish_with_headers(subject, headers, body)).await;
                if !matches!(sent, Ok(Ok(()))) {
                    return Err(Ask::Away(unexpected("a connection that takes nothing")));
                }
                continue;
            }
            append(&mut headers, "Nats-Batch-Commit", "1");
            let answer = self.requester.request(subject.into(), Some(headers), body, deadline).await;
            let answer = answer.map_err(|error| Ask::Away(away(error)))?;
            committed = Some(read::<Committed>(&answer.payload)?);
        }
        let count = jobs.len() as u64;
        match committed {
            // Their places are in a row.
            Some(Committed { last, count: stored }) if stored == count && last >= count => {
                Ok((last + 1 - count..=last).map(|sequence| Stored { sequence, duplicate: false }).collect())
            }
            _ => Err(Ask::Away(unexpected("a batch of another size"))),
        }
    }

    /// Stores a schedule: at its time the broker puts the job into its queue. A later one of the same name takes its place.
    #[expect(clippy::too_many_arguments, reason = "what a schedule is made of")]
    pub(super) async fn put_off(
        &self,
        subject: String,
        place: &Place,
        id: &Token,
        run_at: DateTime<Utc>,
        message_id: &str,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<Stored> {
        for (name, value) in schedule(place, id, run_at, message_id) {
            append(&mut headers, &name, &value);
        }
        self.store(subject, headers, body).await
    }

    /// Puts a job back into its queue by hand, at `run_at`, in the next round, with its headers; without an expiry that would be
    /// past by then. Repeated for the same round it is the same schedule.
    ///
    /// 409 `not_retryable` where it is larger than a job may be: its schedule might be stored, and then not fire.
    pub async fn put_back(
        &self,
        job: &Submission,
        round: u32,
        created_at: DateTime<Utc>,
        run_at: DateTime<Utc>,
    ) -> Result<Stored> {
        if !job.has_room() {
            return Err(Error::conflict(
                "not_retryable",
                "A job cannot be run again while it is larger than a job may be.",
            ));
        }
        let mut headers = HeaderMap::new();
        let kept = |name: &str, value: &str| match name {
            // It would be given up again at once.
            header::EXPIRES_AT => DateTime::parse_from_rfc3339(value).is_ok_and(|expires_at| expires_at > run_at),
            name => !header::RUNNERS.contains(&name),
        };
        for (name, value) in job.headers.iter().filter(|(name, value)| kept(name, value)) {
            append(&mut headers, name, value);
        }
        append(&mut headers, header::ROUND, &round.to_string());
        append(&mut headers, header::CREATED_AT, &rfc3339(created_at));
        let id = format!("{}#{round}", job.place.message_id(&job.id));
        let schedule = job.place.schedule(&job.id);
        self.put_off(schedule, &job.place, &job.id, run_at, &id, headers, job.arguments.clone()).await
    }

    /// Takes a schedule back that has not fired. False where there is none any more.
    pub async fn unschedule(&self, schedule: &str) -> Result<bool> {
        match self.find_schedule(schedule).await? {
            Some(found) => self.take(&found).await,
            None => Ok(false),
        }
    }

    /// The job that waits under a schedule for its time. `None` where there is none any more.
    pub async fn find_schedule(&self, schedule: &str) -> Result<Option<Found>> {
        let Some((headers, _)) = self.read_schedule(schedule).await? else { return Ok(None) };
        found(job::SCHEDULES, &headers).map(Some)
    }

    /// The job that was stored at a place of the work queue under its own id. `None` where it is not there any more; another may
    /// be, in a store that was made anew.
    pub async fn find_job(&self, sequence: u64, place: &Place, id: &Token) -> Result<Option<Found>> {
        let request = json!({ "seq": sequence }).to_string();
        let found = self.direct(&format!("$JS.API.DIRECT.GET.{}", job::STREAM), request.into()).await?;
        let message_id = place.message_id(id);
        let is_it = |headers: &HeaderMap| super::job::value(headers, header::MESSAGE_ID) == Some(message_id.as_str());
        let found = found.filter(|(headers, _)| is_it(headers));
        found.map(|(headers, _)| self::found(job::STREAM, &headers)).transpose()
    }

    /// Takes a job out of where it waits. False where it is not there any more.
    pub async fn take(&self, found: &Found) -> Result<bool> {
        self.delete(found.stream, found.sequence).await
    }

    async fn read_schedule(&self, schedule: &str) -> Result<Option<(HeaderMap, Bytes)>> {
        self.direct(&format!("$JS.API.DIRECT.GET.{}.{schedule}", job::SCHEDULES), Bytes::new()).await
    }

    async fn direct(&self, subject: &str, request: Bytes) -> Result<Option<(HeaderMap, Bytes)>> {
        let deadline = Instant::now() + ACK_WAIT;
        let found = self.requester.request(subject.into(), None, request, deadline).await.map_err(away)?;
        let is_there = found.status != Some(StatusCode::NOT_FOUND);
        Ok(is_there.then(|| (found.headers.unwrap_or_default(), found.payload)))
    }

    pub(super) async fn delete(&self, stream: &str, place: u64) -> Result<bool> {
        match self
            .ask::<Value>(&format!("STREAM.MSG.DELETE.{stream}"), &json!({ "seq": place, "no_erase": true }))
            .await
        {
            Ok(_) => Ok(true),
            // Whatever the broker calls it, the message is not there to be taken.
            Err(Ask::Refused(_)) => Ok(false),
            Err(Ask::Away(error)) => Err(error),
        }
    }

    /// Every subject of the work queue that has jobs, with their number.
    pub async fn subjects(&self) -> Result<BTreeMap<String, u64>> {
        #[derive(Deserialize)]
        struct Info {
            state: State,
        }
        #[derive(Deserialize)]
        struct State {
            #[serde(default)]
            subjects: BTreeMap<String, u64>,
        }
        let mut all = BTreeMap::new();
        loop {
            let body = json!({ "subjects_filter": "jobs.>", "offset": all.len() });
            let info: Info = self.ask(&format!("STREAM.INFO.{}", job::STREAM), &body).await?;
            let found = info.state.subjects.len();
            all.extend(info.state.subjects);
            if found < SUBJECTS_MAX {
                return Ok(all);
            }
        }
    }

    /// How many jobs and times of schedules wait in `SCHEDULES` for their time; each has a subject of its own.
    pub async fn schedules(&self) -> Result<u64> {
        let info: Value = self.ask(&format!("STREAM.INFO.{}", job::SCHEDULES), &json!({})).await?;
        let state = info["state"].as_object().ok_or_else(|| unexpected("a stream without a state"))?;
        // The server leaves a zero out.
        Ok(state.get("num_subjects").and_then(Value::as_u64).unwrap_or_default())
    }

    /// The times of schedules that wait in `SCHEDULES`, and when it was created: one that was lost and made anew holds none.
    pub async fn ticks(&self) -> Result<Ticks> {
        let mut planned = BTreeSet::new();
        loop {
            let body = json!({ "subjects_filter": "schedules.tick.>", "offset": planned.len() });
            let info: TicksInfo = self.ask(&format!("STREAM.INFO.{}", job::SCHEDULES), &body).await?;
            let found = info.state.subjects.len();
            planned.extend(info.state.subjects.into_keys());
            if found < SUBJECTS_MAX {
                return Ok(Ticks { planned, created_at: info.created });
            }
        }
    }

    /// When the work queue was created: one that was lost and made anew holds nothing of what it held.
    pub async fn queue_created_at(&self) -> Result<DateTime<Utc>> {
        #[derive(Deserialize)]
        struct Info {
            created: DateTime<Utc>,
        }
        let info: Info = self.ask(&format!("STREAM.INFO.{}", job::STREAM), &json!({})).await?;
        Ok(info.created)
    }

    /// Has the broker say that a time of a schedule has come, at `fire_at`. Given again before that, it is said once.
    pub async fn plan_tick(&self, schedule_id: &str, due_at: DateTime<Utc>, fire_at: DateTime<Utc>) -> Result<()> {
        let mut headers = HeaderMap::new();
        append(&mut headers, "Nats-Schedule", &format!("@at {}", rfc3339(fire_at)));
        append(&mut headers, "Nats-Schedule-Target", &job::tick_subject(schedule_id));
        append(&mut headers, "Nats-Schedule-TTL", FIRED_TTL);
        append(&mut headers, header::DUE_AT, &rfc3339(due_at));
        self.store(job::tick_schedule(schedule_id, due_at), headers, Bytes::new()).await.map(|_| ())
    }

    /// Makes the consumers of a queue, or changes how many of its jobs are out at once in each lane.
    pub async fn declare(&self, queue: &str, concurrency: u32) -> Result<()> {
        for lane in Lane::ALL {
            let consumer = job::consumer(queue, lane);
            // Of the urgent as many again lie ready, so that none of the others goes before them when one has ended.
            let taken = if lane == Lane::High { concurrency.saturating_mul(2) } else { concurrency };
            let config = json!({
                "durable_name": consumer, "deliver_policy": "all", "ack_policy": "explicit", "replay_policy": "instant",
                "ack_wait": 30_000_000_000_u64, "max_deliver": -1, "max_ack_pending": taken,
                "filter_subjects": [job::filter(queue, lane)],
                "description": "Made by the jobs service for a queue that appeared.",
            });
            let api = format!("CONSUMER.CREATE.{}.{consumer}", job::STREAM);
            self.ask::<Value>(&api, &json!({ "stream_name": job::STREAM, "config": config })).await?;
        }
        Ok(())
    }

    /// The names of the work queue's consumers.
    pub async fn consumers(&self) -> Result<BTreeSet<String>> {
        #[derive(Deserialize)]
        struct Page {
            total: usize,
            #[serde(default)]
            consumers: Vec<String>,
        }
        let mut all = BTreeSet::new();
        loop {
            let api = format!("CONSUMER.NAMES.{}", job::STREAM);
            let page: Page = self.ask(&api, &json!({ "offset": all.len() })).await?;
            let found = page.consumers.len();
            all.extend(page.consumers);
            if found == 0 || all.len() >= page.total {
                return Ok(all);
            }
        }
    }

    /// Holds a queue, or lets it go on.
    pub async fn pause(&self, queue: &str, paused: bool, now: DateTime<Utc>) -> Result<()> {
        let body = if paused { json!({ "pause_until": rfc3339(now + HELD_FOR) }) } else { json!({}) };
        for lane in Lane::ALL {
            let api = format!("CONSUMER.PAUSE.{}.{}", job::STREAM, job::consumer(queue, lane));
            self.ask::<Value>(&api, &body).await?;
        }
        Ok(())
    }

    /// What the broker has of a queue; `None` where it has no consumer.
    pub async fn queue(&self, queue: &str) -> Result<Option<QueueState>> {
        let mut state = QueueState::default();
        for lane in Lane::ALL {
            let api = format!("CONSUMER.INFO.{}.{}", job::STREAM, job::consumer(queue, lane));
            let info: ConsumerInfo = match self.ask(&api, &json!({})).await {
                Ok(info) => info,
                Err(Ask::Refused(refusal)) if refusal.err_code == CONSUMER_NOT_FOUND => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            state.pending += info.num_pending;
            state.running += info.num_ack_pending;
            state.paused |= info.paused;
            if info.num_pending > 0 {
                let first = self.next_stored(1, &job::filter(queue, lane)).await?.map(|first| first.time);
                state.oldest = [state.oldest, first].into_iter().flatten().min();
            }
        }
        Ok(Some(state))
    }

    /// Has a job run now that waits for its time: the same schedule, due at once. False where it waits no more.
    pub async fn hasten(&self, schedule: &str, place: &Place, id: &Token, now: DateTime<Utc>) -> Result<bool> {
        let Some((stored, body)) = self.read_schedule(schedule).await? else { return Ok(false) };
        let headers = copied(&stored, |name| !job::is_brokers(name) && name != header::ID);
        let place = Place { lane: lane(&stored), ..place.clone() };
        let message_id = format!("{}@{}", place.message_id(id), now.timestamp_micros());
        // In its place, so that it fires once; unless it has fired in just this moment, which repeats an attempt.
        self.put_off(schedule.to_owned(), &place, id, now, &message_id, headers, body).await.map(|_| true)
    }

    /// Deletes dead letters under a subject for good, up to the last before which the consumer of the jobs service has taken all.
    pub async fn purge_letters(&self, subject: &str) -> Result<()> {
        let mut looks = 0..LETTERS_LOOKS_MAX;
        let taken = loop {
            let info = self.ask::<LettersInfo>(&format!("CONSUMER.INFO.{LETTERS_CONSUMER}"), &json!({})).await?;
            // What can be seen already is about to be acknowledged.
            if info.num_ack_pending == 0 || looks.next().is_none() {
                break info.ack_floor.stream_seq;
            }
            sleep(LETTERS_LOOK_INTERVAL).await;
        };
        let which = json!({ "filter": subject, "seq": taken + 1 });
        self.ask::<Value>(&format!("STREAM.PURGE.{}", job::DEAD_LETTERS), &which).await?;
        Ok(())
    }

    /// Shows what happens to a job to who watches. Nobody may, and one who does may miss it: it is in the history. Of very much
    /// at once some is not shown nor made, and false is given.
    pub async fn show(&self, make: impl FnOnce() -> Transition) -> bool {
        let is_shown = self.may_show();
        if is_shown {
            let transition = make();
            self.show_encoded(&transition.job_id, subjects::json::encode(&transition).into()).await;
        }
        is_shown
    }

    /// The same of what is encoded already, whatever the rate.
    pub(super) async fn show_encoded(&self, id: &str, transition: Bytes) {
        let _ = self.client.publish(job::live_subject(id), transition).await;
    }

    /// Whether one more may be shown now; it is counted as if it were.
    pub(super) fn may_show(&self) -> bool {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.since.elapsed() >= SHOWN_WINDOW {
            *shown = Shown { since: Instant::now(), count: 0 };
        }
        shown.count = shown.count.saturating_add(1);
        shown.count <= SHOWN_MAX
    }

    /// Tells whoever runs a job that it is to stop. Nobody may.
    pub async fn tell_cancelled(&self, place: &Place, id: &Token) {
        let body = json!({ "queue": place.queue.to_string(), "kind": place.kind.to_string() });
        let subject = job::cancel_subject(&id.to_string());
        if let Err(error) = self.client.publish(subject, body.to_string().into()).await {
            tracing::debug!(%error, "A cancellation could not be told.");
        }
    }

    pub(super) async fn ask<T: for<'de> Deserialize<'de>>(&self, api: &str, body: &Value) -> Result<T, Ask> {
        let deadline = Instant::now() + ACK_WAIT;
        let subject = Subject::from(format!("$JS.API.{api}"));
        let answer = self.requester.request(subject, None, body.to_string().into(), deadline).await;
        let answer = answer.map_err(|error| Ask::Away(away(error)))?;
        read(&answer.payload)
    }
}

pub(super) enum Ask {
    Refused(Refusal),
    Away(Error),
}

impl From<Ask> for Error {
    fn from(ask: Ask) -> Self {
        match ask {
            Ask::Refused(_) => refused(ask),
            Ask::Away(error) => error,
        }
    }
}

fn read<T: for<'de> Deserialize<'de>>(payload: &[u8]) -> Result<T, Ask> {
    let answer: Answer = serde_json::from_slice(payload).map_err(|error| Ask::Away(unexpected(&error.to_string())))?;
    match answer.error {
        Some(refusal) => Err(Ask::Refused(refusal)),
        None => serde_json::from_value(answer.rest).map_err(|error| Ask::Away(unexpected(&error.to_string()))),
    }
}

fn refused(ask: Ask) -> Error {
    match ask {
        Ask::Refused(Refusal { err_code: 10_077, description }) => {
            Error::new(503, "queue_full", "The work queue has no room just now.")
                .retry_after(Duration::from_secs(5))
                .with_source(description)
        }
        Ask::Refused(Refusal { err_code, description }) => {
            Error::unavailable("The broker refuses that just now.").with_source(format!("{description} ({err_code})"))
        }
        Ask::Away(error) => error,
    }
}

fn away(error: RequestError) -> Error {
    Error::unavailable("The message broker does not answer just now.")
        .retry_after(Duration::from_secs(1))
        .with_source(error)
}

fn unexpected(what: &str) -> Error {
    Error::unavailable("The message broker does not answer as expected.").with_source(what.to_owned())
}

/// A time as schedules have it.
pub(super) fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Adds a header; one that cannot be sent is left out, since it must not keep its job.
pub(super) fn append(headers: &mut HeaderMap, name: &str, value: &str) {
    match name.parse() {
        Ok(known) => append_known(headers, &known, value),
        Err(_) => cannot_send(name),
    }
}

/// The same for a name that is looked at once and sent often.
fn append_known(headers: &mut HeaderMap, name: &HeaderName, value: &str) {
    match line(value).parse::<HeaderValue>() {
        Ok(value) => headers.append(name.clone(), value),
        Err(_) => cannot_send(name.as_ref()),
    }
}

fn cannot_send(name: &str) {
    tracing::error!(header = name.escape_debug().to_string(), "A header of a job cannot be sent.");
}

/// Every header with every value, fit to be kept as text and sent again.
pub(super) fn pairs(headers: &HeaderMap) -> impl Iterator<Item = (String, String)> {
    let all = headers.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
    all.map(|(name, value)| (name.to_string(), line(value.as_str()).into_owned()))
}

/// What can neither be sent nor kept by the database becomes a space.
fn line(value: &str) -> Cow<'_, str> {
    if value.contains(char::is_control) {
        value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    } else {
        Cow::Borrowed(value)
    }
}

fn found(stream: &'static str, headers: &HeaderMap) -> Result<Found> {
    let place = stamped(headers, "Nats-Sequence").and_then(|place| place.parse::<u64>().ok());
    let sequence = place.ok_or_else(|| unexpected("a message without a place"))?;
    let own = copied(headers, |name| !job::is_brokers(name));
    Ok(Found { stream, sequence, envelope: Envelope { lane: lane(headers), headers: pairs(&own).collect() } })
}

/// What the broker says of a message that it hands out: behind what the message says of itself, which anybody may have written.
fn stamped<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get_all(name).last().map(HeaderValue::as_str)
}

/// Of a message as it is read from its stream: a schedule says where it goes.
fn lane(stored: &HeaderMap) -> Lane {
    let subject = ["Nats-Schedule-Target", "Nats-Subject"].into_iter().find_map(|name| stamped(stored, name));
    let subject = subject.map(|subject| subject.replacen("due.", "jobs.", 1)).unwrap_or_default();
    Place::parse(&subject).map_or(Lane::Normal, |place| place.lane)
}

/// The headers whose names are to be kept, with every value.
pub(super) fn copied(headers: &HeaderMap, keep: impl Fn(&str) -> bool) -> HeaderMap {
    let mut copy = HeaderMap::new();
    for (name, values) in headers.iter().filter(|(name, _)| keep(name.as_ref())) {
        for value in values {
            copy.append(name.clone(), value.clone());
        }
    }
    copy
}
