//! Keeps a runner for every queue that no service has declared as its own: a queue is made by its first job. The same look at
//! the work queue and the settings gives the same runners, whatever happened in between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kernel::jobs::{Concurrency, Patience, QueueHandle};
use kernel::{Lifecycle, Result};
use subjects::job::{self, Lane};
use subjects::subject::Token;

use crate::domain::QueueSettings;
use crate::{Jobs, storage};

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
    let mut connection = jobs.database.pool().acquire().await?;
    let new: Vec<String> =
        seen.into_iter().filter(|queue| !runners.contains_key(queue) && job::runner_of(queue).is_none()).collect();
    storage::make_queues(&mut connection, &new, &QueueSettings::default(), jobs.clock.now()).await?;
    let queues = storage::list_queues(&mut connection).await?;
    drop(connection);
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
