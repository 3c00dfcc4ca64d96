//! Password hashing off the thread that serves messages, with memory that is used again.
//!
//! Memory that is mapped afresh makes a hash take half as long again, for its page faults, and memory from glibc's heap
//! stays there: sixty hashes left 178 MiB resident (measured with argon2 0.6 and glibc 2.36). So scratch memory is lent to
//! the next hash while there is one to do, and goes back to the system after some seconds without any.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use argon2::Block;
use kernel::{ComputePool, Context, Result};
use secrecy::SecretString;
use tokio::time::{Instant, sleep};
use tracing::Instrument as _;

use crate::domain::{Fault, GivenPassword, HashParameters, NewPassword, NewUser, PasswordHash, Verdict};

/// How long scratch memory is kept for the next hash.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// What is hashed in place of a password that nobody can have.
const IMPOSSIBLE_PASSWORD: &[u8] = b"a password that nobody has";

/// Makes and checks password hashes.
#[derive(Debug)]
pub(crate) struct Hashing {
    compute: ComputePool,
    parameters: HashParameters,
    scratch: Arc<Scratch>,
}

/// A user to be made, as somebody asked for it.
pub(crate) struct Form {
    pub email: String,
    pub password: SecretString,
    pub display_name: String,
    pub roles: Vec<String>,
}

impl Hashing {
    pub(crate) fn new(compute: ComputePool, parameters: HashParameters) -> Self {
        Self { compute, parameters, scratch: Arc::default() }
    }

    /// Checks a form and hashes its password; both take long enough to be kept from the thread that serves messages.
    /// 503 when too many wait.
    pub(crate) async fn admit(&self, cx: &Context, form: Form) -> Result<Result<(NewUser, PasswordHash), Vec<Fault>>> {
        self.hash(cx, move || NewUser::parse(&form.email, form.password, &form.display_name, &form.roles)).await
    }

    /// Does what takes milliseconds to find a password good, and hashes it. 503 when too many wait.
    pub(crate) async fn hash<T: Send + 'static>(
        &self,
        cx: &Context,
        parse: impl FnOnce() -> Result<(T, NewPassword), Vec<Fault>> + Send + 'static,
    ) -> Result<Result<(T, PasswordHash), Vec<Fault>>> {
        let (salt, parameters, scratch) = (cx.random().bytes(), self.parameters, Arc::clone(&self.scratch));
        let job = move || {
            let (parsed, password) = parse()?;
            let hash = scratch.lend(|memory| PasswordHash::make(password.bytes(), salt, parameters, memory));
            Ok((parsed, hash))
        };
        self.compute.run(cx, job).instrument(tracing::info_span!("compute.argon2.hash")).await
    }

    /// Hashes a password that has just been found right. 503 when too many wait.
    pub(crate) async fn renew(&self, cx: &Context, password: Arc<GivenPassword>) -> Result<Option<PasswordHash>> {
        let (salt, parameters, scratch) = (cx.random().bytes(), self.parameters, Arc::clone(&self.scratch));
        let job = move || {
            let bytes = password.bytes()?;
            Some(scratch.lend(|memory| PasswordHash::make(bytes, salt, parameters, memory)))
        };
        self.compute.run(cx, job).instrument(tracing::info_span!("compute.argon2.hash")).await
    }

    /// Checks a password. The work is the same when there is no hash to check it against, and when it can be nobody's
    /// password; then it is wrong. 503 when too many wait.
    pub(crate) async fn check(
        &self,
        cx: &Context,
        password: Arc<GivenPassword>,
        stored: Option<PasswordHash>,
    ) -> Result<Verdict> {
        let (parameters, scratch) = (self.parameters, Arc::clone(&self.scratch));
        let job = move || {
            scratch.lend(|memory| match (password.bytes(), &stored) {
                (Some(bytes), Some(stored)) => stored.verify(bytes, parameters, memory),
                (bytes, _) => {
                    PasswordHash::waste(bytes.unwrap_or(IMPOSSIBLE_PASSWORD), parameters, memory);
                    Verdict::Wrong
                }
            })
        };
        self.compute.run(cx, job).instrument(tracing::info_span!("compute.argon2.verify")).await
    }

    /// Gives memory back that has lain idle, until `stopping` completes.
    pub(crate) async fn release_idle_memory(&self, stopping: impl Future<Output = ()>) {
        let releasing = async {
            loop {
                sleep(IDLE_MAX / 2).await;
                self.scratch.release_idle();
            }
        };
        tokio::select! {
            () = stopping => {}
            () = releasing => {}
        }
    }
}

/// Memory for hashing that is not in use, the longest idle first. As many pieces at most as the pool has threads.
#[derive(Default)]
struct Scratch(Mutex<VecDeque<(Instant, Vec<Block>)>>);

impl Scratch {
    fn lend<T>(&self, work: impl FnOnce(&mut Vec<Block>) -> T) -> T {
        let lent = self.idle().pop_back();
        let mut memory = lent.map_or_else(fresh, |(_, memory)| memory);
        let outcome = work(&mut memory);
        self.idle().push_back((Instant::now(), memory));
        outcome
    }

    fn release_idle(&self) {
        let mut idle = self.idle();
        while idle.front().is_some_and(|(since, _)| since.elapsed() > IDLE_MAX) {
            idle.pop_front();
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, VecDeque<(Instant, Vec<Block>)>> {
        // Whole pieces are put in and taken out: a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Capacity of a piece in KiB. glibc maps an allocation beyond 32 MiB (its `DEFAULT_MMAP_THRESHOLD_MAX`) by itself and
/// unmaps it when it is freed; a smaller one would stay in the heap. What is not used of it takes no memory.
const PIECE_KIB: usize = 33 * 1_024;

fn fresh() -> Vec<Block> {
    Vec::with_capacity(PIECE_KIB * 1_024 / Block::SIZE)
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Scratch").field(&self.idle().len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_lent_again_and_released_when_idle() {
        let scratch = Scratch::default();

        scratch.lend(|memory| memory.resize(8, Block::default()));
        let lent_again = scratch.lend(|memory| memory.len());
        scratch.release_idle();
        let kept = scratch.idle().len();
        for (since, _) in scratch.idle().iter_mut() {
            *since -= IDLE_MAX * 2;
        }
        scratch.release_idle();

        assert_eq!((lent_again, kept, scratch.idle().len()), (8, 1, 0));
    }
}
