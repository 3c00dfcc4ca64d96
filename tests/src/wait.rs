//! Waiting for a condition, bounded. Deliberately no plain sleep: a test that needs luck is wrong.

use std::time::{Duration, Instant};

/// The longest that any condition may take to come true; far above what it takes, since the machine may be busy.
pub const WAIT_MAX: Duration = Duration::from_mins(2);

/// How long a condition rests between two looks.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Looks until `probe` finds something and gives that. Fails the test after [`WAIT_MAX`], saying `what` did not come.
pub async fn until<T>(what: &str, probe: impl AsyncFnMut() -> Option<T>) -> T {
    within(WAIT_MAX, what, probe).await
}

/// Looks until `probe` finds something and gives that. Fails the test after `max`, saying `what` did not come.
pub async fn within<T>(max: Duration, what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(started.elapsed() < max, "{what}: not within {max:?}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
