//! Keeps a runner for every queue that no service has declared as its own: a queue is made by its first job. The same look at
//! the work queue and the settings gives the same runners, whatever happened in between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use kernel::jobs::{Concurrency, Patience, QueueHandle};
use kernel::{Context, Lifecycle, Metrics, Result};
use prometheus_client::metrics::gauge::Gauge;
use sqlx::PgConnection;
use subjects::job::{self, Lane};
use subjects::subject::Token;

use crate::domain::QueueSettings;
use crate::error::JobsError;
use crate::{Jobs, storage};

/// The queues that are known to be there: none ever goes.
#[derive(Debug, Default)]
pub(crate) struct KnownQueues {
    names: RwLock<BTreeSet<String>>,
    refused: Gauge,
}

impl KnownQueues {
    pub(crate) fn registered(metrics: &Metrics) -> Self {
        let known = Self::default();
        let help = "Queues with jobs that nobody runs, since there are as many queues as may be";
        metrics.register("trunkline_jobs_queues_refused", help, known.refused.clone());
        known
    }

    fn has(&self, name: &str) -> bool {
        self.names.read().unwrap_or_else(PoisonError::into_inner).contains(name)
    }

    fn note<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        let mut known = self.names.write().unwrap_or_else(PoisonError::into_inner);
        for name in names {
            if !known.contains(name) {
                known.insert(name.to_owned());
            }
        }
    }

    /// Says how many are refused, and logs their number when it changes.
    fn refuse(&self, refused: &[String]) {
        let number = i64::try_from(refused.len()).unwrap_or(i64::MAX);
        if self.refused.set(number) != number
            && let Some(queue) = refused.first()
        {
            tracing::warn!(
                queue,
                number,
                "There are as many queues as may be; jobs of others wait until there may be more."
            );
        }
    }
}

/// Makes sure that there are queues for what is to be submitted, in a transaction of its own: what is acknowledged will be run.
pub(crate) async fn admit<'a>(jobs: &Jobs, cx: &Context, names: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let new: BTreeSet<&str> = names.into_iter().filter(|name| !jobs.known_queues.has(name)).collect();
    if new.is_empty() {
        return Ok(());
    }
    let mut tx = jobs.database.begin(cx).await?;
    admit_in(jobs, &mut tx, cx, &new).await?;
    tx.commit().await?;
    jobs.known_queues.note(new);
    Ok(())
}

/// The same in a transaction that goes on.
pub(crate) async fn admit_in(
    jobs: &Jobs,
    connection: &mut PgConnection,
    cx: &Context,
    names: &BTreeSet<&str>,
) -> Result<()> {
    let is_declared = |name: &&&str| job::runner_of(name).is_some();
    let names: Vec<String> = names.iter().filter(|name| !is_declared(name)).map(|&name| name.to_owned()).collect();
    let refused = storage::make_queues(connection, &names, jobs.settings.queues_max, cx.now()).await?;
    if refused.is_empty() { Ok(()) } else { Err(JobsError::TooManyQueues.into()) }
}

/// Runners by queue, with what they were started with.
type Runners = BTreeMap<String, (QueueSettings, QueueHandle)>;

pub(crate) async fn keep(jobs: &Jobs, life: &Lifecycle) {
    let mut runners = Runners::new();
    let stop = life.stop_token();
    while !stop.is_cancelled() {
        if let Err(error) = reconcile(jobs, &mut runners).await {
            tracing::warn!(?error, "Queues cannot be looked at just now.");
        }
        let pause = async {
            tokio::select! {
                () = tokio::time::sleep(jobs.settings.queue_interval()) => {}
                () = jobs.queues.notified() => {}
            }
        };
        let _ = stop.run_until_cancelled(pause).await;
    }
}

async fn reconcile(jobs: &Jobs, runners: &mut Runners) -> Result<()> {
    let broker = jobs.engine.broker();
    let mut seen = BTreeSet::new();
    for subject in broker.subjects().await?.into_keys() {
        match subject.split('.').nth(1).and_then(Token::parse) {
            // A kind that is none is for the queue's runner to give up.
            Some(queue) => _ = seen.insert(queue.to_string()),
            // No consumer can have such a name.
            None => broker.bury_unnamed(&subject, jobs.clock.now()).await?,
        }
    }
    let new: Vec<String> =
        seen.into_iter().filter(|queue| !runners.contains_key(queue) && job::runner_of(queue).is_none()).collect();
    let mut tx = jobs.database.pool().begin().await?;
    let refused = storage::make_queues(&mut tx, &new, jobs.settings.queues_max, jobs.clock.now()).await?;
    let queues = storage::list_queues(&mut tx).await?;
    tx.commit().await?;
    jobs.known_queues.refuse(&refused);
    jobs.known_queues.note(queues.iter().map(|queue| queue.name.as_str()));
    // They go with the stream's store, and a runner does not.
    let consumers = broker.consumers().await?;
    let has_consumers = |queue: &str| Lane::ALL.iter().all(|lane| consumers.contains(&job::consumer(queue, *lane)));
    for storage::StoredQueue { name: queue, settings, .. } in queues {
        let runs = runners.get(&queue).is_some_and(|(known, _)| *known == settings);
        if runs && has_consumers(&queue) {
            continue;
        }
        broker.declare(&queue, settings.concurrency).await?;
        if runs {
            tracing::warn!(queue, "The consumers of a queue were gone and are made anew.");
            continue;
        }
        let work = jobs.workers.queue(Patience {
            attempts_max: settings.max_attempts,
            timeout_ms: settings.timeout_ms,
            backoff_base_ms: settings.backoff_base_ms,
            backoff_max_ms: settings.backoff_max_ms,
        });
        let concurrency =
            if settings.is_exact { Concurrency::Everywhere } else { Concurrency::Here }(settings.concurrency);
        let runner = jobs.engine.run_queue(&queue, concurrency, settings.rate, Arc::new(work));
        tracing::info!(queue, concurrency = settings.concurrency, "A queue runs.");
        runners.insert(queue, (settings, runner));
    }
    Ok(())
}
