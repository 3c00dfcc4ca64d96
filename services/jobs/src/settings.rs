//! What can be set of jobs, as `TRUNKLINE_JOBS__<NAME>` or in the section `jobs` of a file.

use std::time::Duration;

use chrono::TimeDelta;
use kernel::Settings;
use serde::{Deserialize, Serialize};

/// The section `jobs`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct JobsSettings {
    /// How many jobs may wait for a time at once before no more are taken over the API. 1 to 10,000,000, default 100,000.
    pub schedules_max: u32,
    /// How many schedules there may be. 1 to 100,000, default 1,000.
    pub crons_max: u32,
    /// A time of a schedule that the broker gives out more milliseconds late than this was slept through: the schedule's policy
    /// says whether it is caught up. 1,000 to 3,600,000, default 5,000.
    pub late_after_ms: u32,
    /// How often what the broker has of schedules is compared with what it should have. 100 to 120,000, default 60,000; the broker has the times of
    /// five minutes.
    pub schedule_interval_ms: u32,
    /// For how many seconds a job that has ended is kept in the history. 60 to 315,360,000, default 604,800 (a week).
    pub history_retention_s: u32,
    /// For how many seconds a dead letter is listed. 60 to 315,360,000, default 7,776,000 (90 days).
    pub dead_letter_retention_s: u32,
    /// How many queues there may be beside those that services declare: each has consumers, and subscriptions of every instance. 1 to 600,
    /// default 500.
    pub queues_max: u32,
    /// How often the work queue is looked at for new queues. 50 to 60,000, default 1,000.
    pub queue_interval_ms: u32,
}

impl Default for JobsSettings {
    fn default() -> Self {
        Self {
            schedules_max: 100_000,
            crons_max: 1_000,
            late_after_ms: 5_000,
            schedule_interval_ms: 60_000,
            history_retention_s: 604_800,
            dead_letter_retention_s: 7_776_000,
            queues_max: 500,
            queue_interval_ms: 1_000,
        }
    }
}

impl JobsSettings {
    pub(crate) fn history_retention(&self) -> TimeDelta {
        TimeDelta::seconds(self.history_retention_s.into())
    }

    pub(crate) fn dead_letter_retention(&self) -> TimeDelta {
        TimeDelta::seconds(self.dead_letter_retention_s.into())
    }

    pub(crate) fn late_after(&self) -> TimeDelta {
        TimeDelta::milliseconds(self.late_after_ms.into())
    }

    pub(crate) fn schedule_interval(&self) -> Duration {
        Duration::from_millis(self.schedule_interval_ms.into())
    }

    pub(crate) fn queue_interval(&self) -> Duration {
        Duration::from_millis(self.queue_interval_ms.into())
    }
}

impl Settings for JobsSettings {
    fn check(&self) -> Vec<String> {
        [
            ("schedules_max", self.schedules_max, 1, 10_000_000),
            ("crons_max", self.crons_max, 1, 100_000),
            ("late_after_ms", self.late_after_ms, 1_000, 3_600_000),
            ("schedule_interval_ms", self.schedule_interval_ms, 100, 120_000),
            ("history_retention_s", self.history_retention_s, 60, 315_360_000),
            ("dead_letter_retention_s", self.dead_letter_retention_s, 60, 315_360_000),
            // A runner has six subscriptions at most, and a connection 4,096 (`nats/nats-server.conf`).
            ("queues_max", self.queues_max, 1, 600),
            ("queue_interval_ms", self.queue_interval_ms, 50, 60_000),
        ]
        .into_iter()
        .filter(|(_, value, min, max)| !(min..=max).contains(&value))
        .map(|(name, _, min, max)| format!("{name} must be {min} to {max}"))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_faults_are_told_at_once() {
        assert_eq!(JobsSettings::default().check(), Vec::<String>::new());
        let wrong = JobsSettings {
            schedules_max: 0,
            crons_max: 0,
            late_after_ms: 0,
            schedule_interval_ms: 0,
            history_retention_s: 1,
            dead_letter_retention_s: 1,
            queues_max: 0,
            queue_interval_ms: 1,
        };
        assert_eq!(wrong.check().len(), 8);
    }
}
