//! A small load: workers that do one thing over and over until they are told to stop. Deliberately no rates and no
//! percentiles: those are the benchmarks'.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinSet;

use crate::wait;

/// A running load. Dropping it abandons its workers where they are.
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    workers: JoinSet<Vec<String>>,
}

impl Load {
    /// Starts `workers` workers; each calls `work` with its number and a count from 0 up, again and again. A failure is
    /// kept for [`Load::stop`] and does not end the worker, which then rests for `rest`.
    pub fn start<W, F>(workers: usize, rest: Duration, work: W) -> Load
    where
        W: Fn(usize, usize) -> F + Clone + Send + 'static,
        F: Future<Output = Result<(), String>> + Send,
    {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for worker in 0..workers {
            let (stop, done, work) = (Arc::clone(&stop), Arc::clone(&done), work.clone());
            tasks.spawn(async move {
                let mut failures = Vec::new();
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    match work(worker, round).await {
                        Ok(()) => _ = done.fetch_add(1, Ordering::Relaxed),
                        Err(failure) => failures.push(format!("worker {worker}, round {round}: {failure}")),
                    }
                    round += 1;
                    if !rest.is_zero() {
                        tokio::time::sleep(rest).await;
                    }
                }
                failures
            });
        }
        Load { stop, done, workers: tasks }
    }

    /// Successes so far.
    pub fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    /// Waits until the load has succeeded `more` times from now on.
    pub async fn proceed(&self, more: usize) {
        let goal = self.done() + more;
        wait::until("the load proceeds", async || (self.done() >= goal).then_some(())).await;
    }

    /// Ends the workers after their present round and gives how often they succeeded, and every failure.
    pub async fn stop(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.workers.join_all().await.concat();
        (self.done.load(Ordering::Relaxed), failures)
    }
}
