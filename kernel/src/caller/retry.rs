//! When a call may be tried again. A budget keeps retries to a small share of all calls, so that they never add up to
//! the load that makes an outage last.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::Random;

/// Attempts at one call, the first included.
const ATTEMPTS_MAX: u32 = 3;

/// The ceiling of the first pause; each later one is four times the one before.
const PAUSE_FIRST: Duration = Duration::from_millis(20);

/// Calls that earn one retry: at most a tenth of the calls are repeated.
const CALLS_PER_RETRY: u32 = 10;

/// Retries that can be saved up, in calls.
const SAVINGS_MAX: u32 = 100 * CALLS_PER_RETRY;

/// The budget of a process.
pub(super) struct Retries {
    savings: AtomicU32,
    random: Random,
}

impl Retries {
    /// A full budget.
    pub(super) fn new(random: Random) -> Self {
        Self { savings: AtomicU32::new(SAVINGS_MAX), random }
    }

    /// A call is made.
    pub(super) fn earn(&self) {
        let earn = |savings: u32| (savings < SAVINGS_MAX).then_some(savings + 1);
        let _ = self.savings.fetch_update(Ordering::Relaxed, Ordering::Relaxed, earn);
    }

    /// How long to wait before trying again after `attempt` attempts: full jitter. `None` when no more may be tried or
    /// there would be no time left for it.
    pub(super) fn pause(&self, attempt: u32, deadline: Instant) -> Option<Duration> {
        if attempt >= ATTEMPTS_MAX {
            return None;
        }
        let ceiling = PAUSE_FIRST * 4_u32.pow(attempt - 1);
        let pause = ceiling.mul_f64(self.random.fraction());
        if Instant::now() + pause >= deadline {
            return None;
        }
        let spend = |savings: u32| savings.checked_sub(CALLS_PER_RETRY);
        self.savings.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).ok().map(|_| pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn retries_end_with_the_budget_and_come_back_with_calls() {
        let retries = Retries::new(Random::seeded(1));
        let deadline = Instant::now() + Duration::from_mins(1);

        let granted = (0..1_000).filter(|_| retries.pause(1, deadline).is_some()).count();

        assert_eq!(granted, 100);
        (0..CALLS_PER_RETRY).for_each(|_| retries.earn());
        assert!(retries.pause(1, deadline).is_some());
        assert!(retries.pause(1, deadline).is_none());
    }

    #[tokio::test]
    async fn no_retry_after_the_last_attempt_or_the_deadline() {
        let retries = Retries::new(Random::seeded(1));

        assert_eq!(retries.pause(ATTEMPTS_MAX, Instant::now() + Duration::from_mins(1)), None);
        assert_eq!(retries.pause(1, Instant::now()), None);
    }
}
