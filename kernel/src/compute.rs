//! Threads for work that keeps a core busy: password hashing above all. They run at a lower priority than the thread
//! that serves messages, so that answers which need no hashing stay quick.
//!
//! Every job has a bound on how long it may wait. One that would wait longer is refused at once, and one whose caller
//! has gone or whose deadline has passed is never run.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::{Context, Error, Result};

/// How long a job may be expected to wait; above it the pool answers 503. Two seconds is what a person at a login form
/// still takes for slow rather than broken.
pub const WAIT_MAX: Duration = Duration::from_secs(2);

/// Jobs waiting, whatever they are expected to take.
pub const QUEUE_MAX: usize = 1_024;

/// Nice value of the threads, of -20 to 19.
const NICE: i32 = 10;

/// Weight of the newest duration in the running mean: an eighth, as TCP smooths round-trip times (RFC 6298 §2).
const MEAN_WEIGHT: u32 = 8;

/// A bounded pool of threads. Cheap to clone; its threads start with the first job and end with the last handle.
#[derive(Clone)]
pub struct ComputePool(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    threads: usize,
}

struct Shared {
    state: Mutex<State>,
    woken: Condvar,
}

struct State {
    queue: VecDeque<Job>,
    started: bool,
    closed: bool,
    running: usize,
    mean: Duration,
}

type Job = Box<dyn FnOnce() -> Option<Duration> + Send>;

impl ComputePool {
    /// As many threads as the machine has cores.
    pub fn new() -> Self {
        Self::with_threads(thread::available_parallelism().map_or(1, NonZeroUsize::get))
    }

    /// `threads` threads, at least one.
    pub fn with_threads(threads: usize) -> Self {
        let state = State { queue: VecDeque::new(), started: false, closed: false, running: 0, mean: Duration::ZERO };
        let shared = Arc::new(Shared { state: Mutex::new(state), woken: Condvar::new() });
        Self(Arc::new(Handle { shared, threads: threads.max(1) }))
    }

    /// Threads.
    pub fn threads(&self) -> usize {
        self.0.threads
    }

    /// Jobs that wait.
    pub fn queued(&self) -> usize {
        self.0.shared.lock().queue.len()
    }

    /// Runs `work` and waits for it, at most until the context's deadline.
    ///
    /// 503 `overloaded` with `Retry-After` when it would wait longer than [`WAIT_MAX`], 504 when the deadline passes,
    /// 500 when it panics.
    pub async fn run<T, F>(&self, cx: &Context, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let deadline = cx.deadline();
        let (answer, answered) = oneshot::channel();
        self.submit(Box::new(move || {
            if answer.is_closed() || Instant::now() >= deadline {
                return None;
            }
            let begun = Instant::now();
            let outcome = catch_unwind(AssertUnwindSafe(work));
            let took = begun.elapsed();
            // The caller may have gone meanwhile; then nobody needs the outcome.
            let _ = answer.send(outcome);
            Some(took)
        }))?;
        match tokio::time::timeout_at(deadline, answered).await {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(_panic))) => Err(Error::internal().with_source("a computation panicked")),
            Ok(Err(_)) | Err(_) => Err(Error::deadline_exceeded()),
        }
    }

    fn submit(&self, job: Job) -> Result<()> {
        let mut state = self.0.shared.lock();
        let ahead = u32::try_from(state.queue.len() + state.running).unwrap_or(u32::MAX);
        let threads = u32::try_from(self.0.threads).unwrap_or(u32::MAX);
        let wait = state.mean.saturating_mul((ahead + 1).saturating_sub(threads)) / threads;
        if state.queue.len() >= QUEUE_MAX || wait > WAIT_MAX {
            let after = wait.max(Duration::from_secs(1));
            return Err(Error::new(503, "overloaded", "Too much work is waiting. Try again later.").retry_after(after));
        }
        if !state.started {
            start(&self.0.shared, self.0.threads).map_err(|error| Error::internal().with_source(error))?;
            state.started = true;
        }
        state.queue.push_back(job);
        drop(state);
        self.0.shared.woken.notify_one();
        Ok(())
    }
}

impl Default for ComputePool {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for ComputePool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ComputePool").field("threads", &self.0.threads).field("queued", &self.queued()).finish()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.woken.notify_all();
    }
}

impl Shared {
    /// A job runs outside the lock and catches its own panic, so that a poisoned lock still guards sound state.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                state.running += 1;
                drop(state);
                let took = job();
                state = self.lock();
                state.running -= 1;
                if let Some(took) = took {
                    state.mean = smooth(state.mean, took);
                }
            } else if state.closed {
                return;
            } else {
                state = self.woken.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

fn start(shared: &Arc<Shared>, threads: usize) -> std::io::Result<()> {
    for number in 0..threads {
        let shared = Arc::clone(shared);
        thread::Builder::new().name(format!("compute-{number}")).spawn(move || {
            // On Linux this is the thread's own priority. Where it is not allowed the work still gets done.
            let _ = rustix::process::setpriority_process(None, NICE);
            shared.work();
        })?;
    }
    Ok(())
}

fn smooth(mean: Duration, newest: Duration) -> Duration {
    if mean.is_zero() { newest } else { mean * (MEAN_WEIGHT - 1) / MEAN_WEIGHT + newest / MEAN_WEIGHT }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;

    use super::*;
    use crate::{Clock, Random};

    fn context(timeout: Duration) -> Context {
        Context::for_service("test", &Clock::system(), &Random::system(), timeout)
    }

    #[tokio::test]
    async fn work_runs_on_a_thread_of_the_pool() {
        let pool = ComputePool::with_threads(1);

        let name = pool.run(&context(WAIT_MAX), || thread::current().name().map(str::to_owned)).await.unwrap();

        assert_eq!(name.as_deref(), Some("compute-0"));
    }

    #[tokio::test]
    async fn panic_is_500_and_the_thread_lives() {
        let pool = ComputePool::with_threads(1);

        let cx = context(Duration::from_secs(30));
        let failed = pool.run(&cx, || panic!("boom")).await;
        let next = pool.run(&cx, || 7).await;

        assert_eq!(failed.unwrap_err().status(), 500);
        assert_eq!(next.unwrap(), 7);
    }

    #[tokio::test]
    async fn job_past_its_deadline_is_not_run() {
        let pool = ComputePool::with_threads(1);
        let (release, held) = mpsc::channel::<()>();
        let blocker = pool.clone();
        let cx = context(Duration::from_secs(30));
        let blocking = async { blocker.run(&cx, move || held.recv().is_ok()).await };
        let ran = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ran);

        let late = async {
            let outcome =
                pool.run(&context(Duration::from_millis(20)), move || flag.store(true, Ordering::SeqCst)).await;
            release.send(()).unwrap();
            outcome
        };
        let (blocked, late) = tokio::join!(blocking, late);

        assert!(blocked.unwrap());
        assert_eq!(late.unwrap_err().status(), 504);
        pool.run(&context(WAIT_MAX), || ()).await.unwrap();
        assert!(!ran.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn job_that_would_wait_too_long_is_refused() {
        let pool = ComputePool::with_threads(1);
        pool.0.shared.lock().mean = WAIT_MAX;
        pool.0.shared.lock().running = 2;

        let refused = pool.run(&context(WAIT_MAX), || ()).await.unwrap_err();

        assert_eq!((refused.status(), refused.code()), (503, "overloaded"));
        assert!(refused.retry_delay().unwrap() >= WAIT_MAX);
    }
}
