//! The life of a process: one signal to stop, and every task it has started.
//!
//! Nothing is spawned outside: a task either lives until the process stops (its end before that ends the process as a
//! failure) or does one thing and is waited for at the end.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;

/// Handle to the life of the process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Lifecycle(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    stopping: CancellationToken,
    tasks: TaskTracker,
    failure: OnceLock<String>,
    /// The life that fails with this one.
    above: Option<Lifecycle>,
}

impl Lifecycle {
    /// A life that has just begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// A life that outlasts `above` and is stopped by itself, but whose failure is that of `above` too: for what the
    /// others stand on until the last of them has ended.
    pub(crate) fn beneath(above: &Self) -> Self {
        Self(Arc::new(Inner { above: Some(above.clone()), ..Inner::default() }))
    }

    /// Completes when the process begins to stop; at once when it already does.
    pub fn stopping(&self) -> WaitForCancellationFuture<'_> {
        self.0.stopping.cancelled()
    }

    /// Whether the process is stopping.
    pub fn is_stopping(&self) -> bool {
        self.0.stopping.is_cancelled()
    }

    /// A token that is cancelled when the process begins to stop.
    pub fn stop_token(&self) -> CancellationToken {
        self.0.stopping.clone()
    }

    /// Begins to stop. The first call counts.
    pub fn stop(&self) {
        self.0.stopping.cancel();
    }

    /// Begins to stop because something broke; the first reason becomes the exit's.
    pub fn fail(&self, reason: impl Into<String>) {
        let reason = reason.into();
        if let Some(above) = &self.0.above {
            above.fail(reason);
            return;
        }
        tracing::error!(reason, "The process cannot go on.");
        // The first reason is the cause of those that follow.
        let _ = self.0.failure.set(reason);
        self.stop();
    }

    /// Why the process had to stop, if it had to.
    pub fn failure(&self) -> Option<&str> {
        self.0.failure.get().map(String::as_str)
    }

    /// Runs `task` until the process stops. When it returns or panics before that, the process ends as a failure.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let life = self.clone();
        self.track(async move {
            let outcome = AssertUnwindSafe(task).catch_unwind().await;
            match outcome {
                Ok(()) if life.is_stopping() => {}
                Ok(()) => life.fail(format!("task {name} ended")),
                Err(_) => life.fail(format!("task {name} panicked")),
            }
        });
    }

    /// Runs `task` to its end; the stopping process waits for it within its deadline. A panic is the task's own: it
    /// comes out of the handle.
    pub fn spawn_once<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.track(task)
    }

    /// Runs `task` to its end, as [`Lifecycle::spawn_once`] does. When it panics, the process ends as a failure.
    pub fn spawn_to_end<F>(&self, name: String, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let life = self.clone();
        self.track(async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                life.fail(format!("{name} panicked"));
            }
        });
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
    fn track<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::spawn(self.0.tasks.track_future(task))
    }

    /// Waits until every task has ended, at most `within`. Says whether all did.
    pub async fn join(&self, within: Duration) -> bool {
        self.0.tasks.close();
        tokio::time::timeout(within, self.0.tasks.wait()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn task_that_dies_unasked_makes_the_end_a_failure() {
        let life = Lifecycle::new();

        life.spawn("relay", async { panic!("boom") });
        life.stopping().await;

        assert_eq!(life.failure(), Some("task relay panicked"));
    }

    #[tokio::test]
    async fn task_that_ends_when_asked_is_no_failure() {
        let life = Lifecycle::new();
        let stop = life.stop_token();
        life.spawn("relay", async move { stop.cancelled().await });

        life.stop();

        assert!(life.join(Duration::from_secs(5)).await);
        assert_eq!(life.failure(), None);
    }

    #[tokio::test]
    async fn task_that_may_end_makes_the_end_a_failure_where_it_panics() {
        let life = Lifecycle::new();
        life.spawn_to_end("one queue".to_owned(), async {});
        let other = life.clone();

        life.spawn_to_end("another queue".to_owned(), async move {
            other.0.tasks.close();
            panic!("boom")
        });
        life.stopping().await;

        assert_eq!(life.failure(), Some("another queue panicked"));
    }

    #[tokio::test(start_paused = true)]
    async fn join_gives_up_after_its_bound() {
        let life = Lifecycle::new();
        let _handle = life.spawn_once(std::future::pending::<()>());

        assert!(!life.join(Duration::from_secs(1)).await);
    }
}
