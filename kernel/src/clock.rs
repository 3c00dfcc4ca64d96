//! The time, handed in, so that tests can move it. Deadlines within a process use the monotonic clock of tokio instead,
//! which never jumps.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};

/// Tells the time of day. Cheap to clone; clones of a manual clock move together.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    /// Microseconds since 1970.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// The clock of the machine.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `start` until it is moved. For tests.
    pub fn manual(start: DateTime<Utc>) -> Self {
        Self(Source::Manual(Arc::new(AtomicI64::new(start.timestamp_micros()))))
    }

    /// The time in UTC, to the microsecond, which is what PostgreSQL keeps.
    pub fn now(&self) -> DateTime<Utc> {
        let micros = self.unix_micros();
        DateTime::from_timestamp_micros(micros).expect("a clock shows a year that chrono can hold")
    }

    /// Microseconds since 1970.
    pub fn unix_micros(&self) -> i64 {
        match &self.0 {
            Source::System => system_micros(),
            Source::Manual(micros) => micros.load(Ordering::Relaxed),
        }
    }

    /// Seconds since 1970, rounded down, as tokens count.
    pub fn unix_seconds(&self) -> i64 {
        self.unix_micros().div_euclid(1_000_000)
    }

    /// Moves a manual clock forwards; does nothing to the machine's.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(micros) = &self.0 {
            let by = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
            micros.fetch_add(by, Ordering::Relaxed);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the system clock")]
fn system_micros() -> i64 {
    Utc::now().timestamp_micros()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manual_clock_stands_until_moved_and_clones_move_together() {
        let start = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let clock = Clock::manual(start);
        let other = clock.clone();

        clock.advance(Duration::from_millis(1_500));

        assert_eq!(other.unix_micros(), start.timestamp_micros() + 1_500_000);
        assert_eq!(other.unix_seconds(), 1_700_000_001);
    }
}
