//! How often jobs of a queue may begin, over all instances of its runner.
//!
//! Turns are given out by one row of the database a queue, in advance and for a tenth of a second at once (one at least), so
//! that a busy queue asks ten times a second and an idle one never. A turn lies at a time of its own, which no other instance
//! has; one that is not used within a second is lost. So of a queue at most `burst + per_second × (t + 1)` jobs begin in any
//! `t` seconds, however many instances there are, and one that dies takes no more than a tenth of a second's turns with it.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use crate::{Database, Result};

/// How long a turn that has come can still be used.
const KEPT: Duration = Duration::from_secs(1);

/// Turns that are asked for at once.
const TURNS_MAX: u32 = 1_000;

/// The pause before the database is asked again.
const AWAY: Duration = Duration::from_millis(500);

/// How often jobs of a queue may begin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// In the long run; more than 0, and less than 1 where it is one in several seconds.
    pub per_second: f64,
    /// How many may begin at once where none has for a while; 1 at least.
    pub burst: u32,
}

impl Rate {
    /// Turns of a tenth of a second, one at least: so many jobs lie ready here.
    pub(super) fn at_once(self) -> u32 {
        #[expect(clippy::cast_sign_loss, reason = "it is positive")]
        let turns = (self.per_second / 10.0).ceil() as u32;
        turns.clamp(1, TURNS_MAX)
    }
}

/// The turns of one queue in this process.
pub(super) struct Turns<'a> {
    database: &'a Database,
    queue: &'a str,
    rate: Rate,
    ahead: VecDeque<Instant>,
}

impl<'a> Turns<'a> {
    pub(super) fn new(database: &'a Database, queue: &'a str, rate: Rate) -> Self {
        Self { database, queue, rate, ahead: VecDeque::new() }
    }

    /// Completes when the next job may begin.
    pub(super) async fn next(&mut self) {
        loop {
            while let Some(at) = self.ahead.pop_front() {
                if at + KEPT > Instant::now() {
                    return sleep_until(at).await;
                }
            }
            if let Err(error) = self.take().await {
                tracing::warn!(
                    queue = self.queue,
                    ?error,
                    "No turns are given just now; jobs of a limited queue wait."
                );
                sleep(AWAY).await;
            }
        }
    }

    /// Takes the turns of the next tenth of a second. The database's clock is everybody's.
    async fn take(&mut self) -> Result<()> {
        let (interval, turns) = (1.0 / self.rate.per_second, self.rate.at_once());
        // The bucket is full, by whole intervals, where nothing has begun for long. What was given out at another pace, or
        // before the clock was put back, counts no further than its next turn or a minute.
        let first: f64 = sqlx::query_scalar(
            "INSERT INTO job_rates AS rate (queue, interval_s, next_at) \
             VALUES ($1, $2, clock_timestamp() + make_interval(secs => $2 * ($3 + 1 - $4))) \
             ON CONFLICT (queue) DO UPDATE SET interval_s = excluded.interval_s, next_at = greatest( \
                 least(rate.next_at, clock_timestamp() + make_interval(secs => \
                     CASE WHEN rate.interval_s = excluded.interval_s THEN greatest(60, 100 * $2) ELSE $2 END)), \
                 clock_timestamp() + make_interval(secs => $2 * (1 - $4))) + make_interval(secs => $2 * $3) \
             RETURNING extract(epoch FROM next_at - make_interval(secs => $2 * $3) - clock_timestamp())::float8",
        )
        .bind(self.queue)
        .bind(interval)
        .bind(f64::from(turns))
        .bind(f64::from(self.rate.burst))
        .fetch_one(self.database.pool())
        .await?;
        let now = Instant::now();
        let at = |turn: u32| now + Duration::try_from_secs_f64(first + interval * f64::from(turn)).unwrap_or_default();
        self.ahead = (0..turns).map(at).collect();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_of_a_second_lies_ready_and_one_at_least() {
        let at_once = |per_second| Rate { per_second, burst: 1 }.at_once();
        assert_eq!([0.01, 1.0, 10.0, 11.0, 500.0, 1e9].map(at_once), [1, 1, 1, 2, 50, 1_000]);
    }
}
