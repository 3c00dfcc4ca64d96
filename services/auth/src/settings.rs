//! What can be set of auth, as `TRUNKLINE_AUTH__<NAME>` or in the section `auth` of a file.

use chrono::TimeDelta;
use kernel::Settings;
use serde::{Deserialize, Serialize};
use subjects::auth::v1::REFRESH;

use crate::domain::{ACCESS_TOKEN_TTL_MAX, Lifetimes};

/// What is tried again because its outcome is unknown comes within the time-out of an exchange: it must not end the session.
const REFRESH_RETRY_WINDOW_MS_MIN: u32 = REFRESH.timeout_ms;

/// The section `auth`. The process's `key_file` and `tokens` matter too.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthSettings {
    /// How long an access token counts, in milliseconds; whole seconds are used. 1,000 to 900,000, default 300,000.
    pub access_token_ttl_ms: u32,
    /// How long a refresh token waits for its exchange, in seconds. 1 to `refresh_absolute_s`, default 604,800 (7 days).
    pub refresh_idle_s: u32,
    /// How long a session lasts however often its token is exchanged, in seconds. To 31,536,000 (a year), default
    /// 2,592,000 (30 days).
    pub refresh_absolute_s: u32,
    /// For how long after an exchange a client that repeats it gets the same answer, in milliseconds; a later repetition
    /// ends the session. 5,000, which is as long as the exchange may take, to 60,000, default 10,000.
    pub refresh_retry_window_ms: u32,
    /// How long a key signs before the next one is made, in seconds. 86,400 (a day) to 7,776,000 (90 days), default
    /// 2,592,000 (30 days).
    pub key_rotation_s: u32,
    /// How long a new key is published before it signs, in milliseconds: at least twice `tokens.keys_refresh_ms` of all
    /// processes, and longer than caches between clients and `/.well-known/jwks.json` keep it, which is 60 s. To 86,400,000
    /// (a day), default 120,000.
    pub key_propagation_ms: u32,
    /// How long a session that has ended is kept to be looked at, in seconds. To 31,536,000 (a year), default 604,800 (7 days).
    pub ended_sessions_kept_s: u32,
}

impl Default for AuthSettings {
    fn default() -> Self {
        Self {
            access_token_ttl_ms: 300_000,
            refresh_idle_s: 7 * 86_400,
            refresh_absolute_s: 30 * 86_400,
            refresh_retry_window_ms: 10_000,
            key_rotation_s: 30 * 86_400,
            key_propagation_ms: 120_000,
            ended_sessions_kept_s: 7 * 86_400,
        }
    }
}

impl AuthSettings {
    pub(crate) fn access_token_ttl(&self) -> TimeDelta {
        TimeDelta::milliseconds(self.access_token_ttl_ms.into())
    }

    pub(crate) fn key_rotation(&self) -> TimeDelta {
        TimeDelta::seconds(self.key_rotation_s.into())
    }

    pub(crate) fn key_propagation(&self) -> TimeDelta {
        TimeDelta::milliseconds(self.key_propagation_ms.into())
    }

    pub(crate) fn ended_sessions_kept(&self) -> TimeDelta {
        TimeDelta::seconds(self.ended_sessions_kept_s.into())
    }

    pub(crate) fn lifetimes(&self) -> Lifetimes {
        Lifetimes {
            idle: TimeDelta::seconds(self.refresh_idle_s.into()),
            absolute: TimeDelta::seconds(self.refresh_absolute_s.into()),
            repeat: TimeDelta::milliseconds(self.refresh_retry_window_ms.into()),
        }
    }
}

impl Settings for AuthSettings {
    fn check(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let ttl_ms_max = ACCESS_TOKEN_TTL_MAX.num_milliseconds();
        if !(1_000..=ttl_ms_max).contains(&self.access_token_ttl_ms.into()) {
            faults.push("access_token_ttl_ms must be 1000 to 900000".to_owned());
        }
        if !(1..=31_536_000).contains(&self.refresh_absolute_s) {
            faults.push("refresh_absolute_s must be 1 to 31536000".to_owned());
        }
        if !(1..=self.refresh_absolute_s).contains(&self.refresh_idle_s) {
            faults.push("refresh_idle_s must be 1 to refresh_absolute_s".to_owned());
        }
        if !(REFRESH_RETRY_WINDOW_MS_MIN..=60_000).contains(&self.refresh_retry_window_ms) {
            faults.push(format!("refresh_retry_window_ms must be {REFRESH_RETRY_WINDOW_MS_MIN} to 60000"));
        }
        if !(86_400..=90 * 86_400).contains(&self.key_rotation_s) {
            faults.push("key_rotation_s must be 86400 to 7776000".to_owned());
        }
        if !(1..=86_400_000).contains(&self.key_propagation_ms) {
            faults.push("key_propagation_ms must be 1 to 86400000".to_owned());
        }
        if self.ended_sessions_kept_s > 31_536_000 {
            faults.push("ended_sessions_kept_s must be 0 to 31536000".to_owned());
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_faults_are_told_at_once() {
        assert_eq!(AuthSettings::default().check(), Vec::<String>::new());

        let settings = AuthSettings {
            access_token_ttl_ms: 900_001,
            refresh_idle_s: 2,
            refresh_absolute_s: 1,
            refresh_retry_window_ms: 60_001,
            key_rotation_s: 60,
            key_propagation_ms: 0,
            ended_sessions_kept_s: u32::MAX,
        };

        assert_eq!(settings.check().len(), 6);
        let hasty = AuthSettings { refresh_retry_window_ms: 4_999, ..AuthSettings::default() };
        assert_eq!(hasty.check(), ["refresh_retry_window_ms must be 5000 to 60000"]);
    }
}
