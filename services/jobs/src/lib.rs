//! The jobs service: work in the background.
//!
//! Owns queues, the history of jobs, dead letters, and schedules. The queue itself is JetStream, in which anybody with the right may
//! publish a job; this service checks what comes over its own door, runs the protocol for every queue that no service has
//! declared as its own, by having the work done at `work.<queue>.<kind>`, and keeps what runners tell. Publishes that a job was
//! given up or cancelled. Knows nothing of what jobs do, its own diagnostic ones aside.

mod diagnostics;
pub mod domain;
mod error;
mod handlers;
mod queues;
mod retention;
mod schedules;
pub mod settings;
mod storage;

use std::future::ready;
use std::sync::Arc;

use kernel::endpoint::Routes;
use kernel::jobs::{Engine, Workers};
use kernel::{
    Clock, Consumers, Context, Database, Error, JobWorkers, Lifecycle, Parts, Random, Result, Service, StartError,
};
use subjects::ServiceContract;
use subjects::jobs::v1::{
    CONTRACT, CancelJobRequest, CreateScheduleRequest, DeadLetter, DeleteScheduleReply, DeleteScheduleRequest, Echo,
    Fail, GetDeadLetterRequest, GetJobRequest, GetQueueRequest, GetScheduleRequest, Job, JobsService,
    ListDeadLettersReply, ListDeadLettersRequest, ListJobsReply, ListJobsRequest, ListKindsReply, ListKindsRequest,
    ListQueuesReply, ListQueuesRequest, ListSchedulesReply, ListSchedulesRequest, PauseQueueRequest,
    PauseScheduleRequest, PreviewScheduleReply, PreviewScheduleRequest, PurgeDeadLettersReply, PurgeDeadLettersRequest,
    PutQueueRequest, Queue, ReplayDeadLetterRequest, ReplayDeadLettersReply, ReplayDeadLettersRequest,
    ResumeQueueRequest, ResumeScheduleRequest, RetryJobRequest, RunNowReply, RunNowRequest, Schedule, Sleep,
    SubmitBatchReply, SubmitBatchRequest, SubmitReply, SubmitRequest, UpdateScheduleRequest, register,
};
use tokio::sync::Notify;

use queues::KnownQueues;
pub use settings::JobsSettings;

/// The service.
#[derive(Debug)]
pub struct Jobs {
    settings: JobsSettings,
    database: Database,
    engine: Engine,
    workers: Workers,
    clock: Clock,
    random: Random,
    known_queues: KnownQueues,
    /// Told when a queue may have appeared or changed.
    queues: Notify,
    /// Told when schedules have changed.
    schedules: Notify,
}

impl Service for Jobs {
    type Settings = JobsSettings;

    fn contract() -> &'static ServiceContract {
        &CONTRACT
    }

    async fn build(parts: Parts<JobsSettings>) -> Result<Self, StartError> {
        let engine = parts.jobs.ok_or_else(|| StartError::new("a service with jobs has an engine"))?;
        Ok(Self {
            settings: parts.settings,
            database: parts.database,
            workers: engine.workers().await?,
            engine,
            clock: parts.clock,
            random: parts.random,
            known_queues: KnownQueues::registered(&parts.metrics),
            queues: Notify::new(),
            schedules: Notify::new(),
        })
    }

    fn routes(routes: &mut Routes<Self>) {
        register(routes);
    }

    fn consumers(consumers: &mut Consumers<Self>) {
        consumers.batch("JOB_LOG", "history", |jobs, tx, messages| {
            Box::pin(handlers::record_transitions(jobs, tx, messages))
        });
        consumers.batch("JOBS_DLQ", "dead-letters", |jobs, tx, messages| {
            Box::pin(handlers::keep_dead_letters(jobs, tx, messages))
        });
        consumers.batch("SCHEDULES", "ticks", |jobs, tx, messages| Box::pin(handlers::take_ticks(jobs, tx, messages)));
    }

    fn jobs(jobs: &mut JobWorkers<Self>) {
        jobs.concurrency("diagnostics", 100);
        jobs.handle::<Echo, _>(|_, run| Box::pin(ready(diagnostics::echo(run))));
        jobs.handle::<Sleep, _>(|_, run| Box::pin(diagnostics::sleep(run)));
        jobs.handle::<Fail, _>(|_, run| Box::pin(ready(diagnostics::fail(run))));
    }

    async fn run(self: Arc<Self>, life: Lifecycle) -> Result<(), StartError> {
        tokio::join!(queues::keep(&self, &life), retention::keep(&self, &life), schedules::keep(&self, &life));
        Ok(())
    }
}

impl JobsService<Context> for Jobs {
    type Error = Error;

    async fn submit(&self, cx: &Context, request: SubmitRequest) -> Result<SubmitReply> {
        handlers::submit(self, cx, request).await
    }

    async fn submit_batch(&self, cx: &Context, request: SubmitBatchRequest) -> Result<SubmitBatchReply> {
        handlers::submit_batch(self, cx, request).await
    }

    async fn list_jobs(&self, cx: &Context, request: ListJobsRequest) -> Result<ListJobsReply> {
        handlers::list_jobs(self, cx, request).await
    }

    async fn get_job(&self, cx: &Context, request: GetJobRequest) -> Result<Job> {
        handlers::get_job(self, cx, request).await
    }

    async fn cancel_job(&self, cx: &Context, request: CancelJobRequest) -> Result<Job> {
        handlers::cancel_job(self, cx, request).await
    }

    async fn retry_job(&self, cx: &Context, request: RetryJobRequest) -> Result<Job> {
        handlers::retry_job(self, cx, request).await
    }

    async fn list_dead_letters(&self, cx: &Context, request: ListDeadLettersRequest) -> Result<ListDeadLettersReply> {
        handlers::list_dead_letters(self, cx, request).await
    }

    async fn get_dead_letter(&self, cx: &Context, request: GetDeadLetterRequest) -> Result<DeadLetter> {
        handlers::get_dead_letter(self, cx, request).await
    }

    async fn replay_dead_letter(&self, cx: &Context, request: ReplayDeadLetterRequest) -> Result<Job> {
        handlers::replay_dead_letter(self, cx, request).await
    }

    async fn replay_dead_letters(
        &self,
        cx: &Context,
        request: ReplayDeadLettersRequest,
    ) -> Result<ReplayDeadLettersReply> {
        handlers::replay_dead_letters(self, cx, request).await
    }

    async fn purge_dead_letters(
        &self,
        cx: &Context,
        request: PurgeDeadLettersRequest,
    ) -> Result<PurgeDeadLettersReply> {
        handlers::purge_dead_letters(self, cx, request).await
    }

    async fn list_queues(&self, cx: &Context, _request: ListQueuesRequest) -> Result<ListQueuesReply> {
        handlers::list_queues(self, cx).await
    }

    async fn get_queue(&self, cx: &Context, request: GetQueueRequest) -> Result<Queue> {
        handlers::get_queue(self, cx, request).await
    }

    async fn put_queue(&self, cx: &Context, request: PutQueueRequest) -> Result<Queue> {
        handlers::put_queue(self, cx, request).await
    }

    async fn pause_queue(&self, cx: &Context, request: PauseQueueRequest) -> Result<Queue> {
        handlers::hold_queue(self, cx, &request.queue, true).await
    }

    async fn resume_queue(&self, cx: &Context, request: ResumeQueueRequest) -> Result<Queue> {
        handlers::hold_queue(self, cx, &request.queue, false).await
    }

    async fn list_kinds(&self, cx: &Context, _request: ListKindsRequest) -> Result<ListKindsReply> {
        handlers::list_kinds(self, cx).await
    }

    async fn list_schedules(&self, cx: &Context, request: ListSchedulesRequest) -> Result<ListSchedulesReply> {
        handlers::list_schedules(self, cx, request).await
    }

    async fn create_schedule(&self, cx: &Context, request: CreateScheduleRequest) -> Result<Schedule> {
        handlers::create_schedule(self, cx, request).await
    }

    async fn get_schedule(&self, cx: &Context, request: GetScheduleRequest) -> Result<Schedule> {
        handlers::get_schedule(self, cx, request).await
    }

    async fn update_schedule(&self, cx: &Context, request: UpdateScheduleRequest) -> Result<Schedule> {
        handlers::update_schedule(self, cx, request).await
    }

    async fn delete_schedule(&self, cx: &Context, request: DeleteScheduleRequest) -> Result<DeleteScheduleReply> {
        handlers::delete_schedule(self, cx, request).await
    }

    async fn run_now(&self, cx: &Context, request: RunNowRequest) -> Result<RunNowReply> {
        handlers::run_now(self, cx, request).await
    }

    async fn pause_schedule(&self, cx: &Context, request: PauseScheduleRequest) -> Result<Schedule> {
        handlers::hold_schedule(self, cx, &request.schedule_id, true).await
    }

    async fn resume_schedule(&self, cx: &Context, request: ResumeScheduleRequest) -> Result<Schedule> {
        handlers::hold_schedule(self, cx, &request.schedule_id, false).await
    }

    async fn preview_schedule(&self, cx: &Context, request: PreviewScheduleRequest) -> Result<PreviewScheduleReply> {
        handlers::preview_schedule(cx, &request)
    }
}
