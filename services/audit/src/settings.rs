//! What can be set of audit, as `TRUNKLINE_AUDIT__<NAME>` or in the section `audit` of a file.

use std::time::Duration;

use chrono::TimeDelta;
use kernel::Settings;
use proof::PublicKey;
use serde::{Deserialize, Serialize};

/// The section `audit`. The process's `key_file` matters too.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct AuditSettings {
    /// After how many entries the log is signed. 1 to 100,000, default 1,000.
    pub checkpoint_entries: u32,
    /// After how many milliseconds it is signed where it has grown by fewer. 100 to 3,600,000, default 10,000.
    pub checkpoint_interval_ms: u32,
    /// Entries of a segment, which is the unit of retention. Counts for segments yet to be made. 1,000 to 100,000,000,
    /// default 1,000,000.
    pub segment_entries: u32,
    /// For how many seconds entries are kept at least; whole segments that were signed longer ago are dropped, and their
    /// proof stays. 0, the default, keeps all for ever.
    pub retention_s: u32,
    /// Public keys that signed checkpoints before the present one did, base64url. At most 16, default none.
    pub former_public_keys: Vec<String>,
}

impl Default for AuditSettings {
    fn default() -> Self {
        Self {
            checkpoint_entries: 1_000,
            checkpoint_interval_ms: 10_000,
            segment_entries: 1_000_000,
            retention_s: 0,
            former_public_keys: Vec::new(),
        }
    }
}

impl AuditSettings {
    pub(crate) fn checkpoint_interval(&self) -> Duration {
        Duration::from_millis(self.checkpoint_interval_ms.into())
    }

    /// None where everything is kept.
    pub(crate) fn retention(&self) -> Option<TimeDelta> {
        (self.retention_s > 0).then(|| TimeDelta::seconds(self.retention_s.into()))
    }

    pub(crate) fn former_public_keys(&self) -> impl Iterator<Item = PublicKey> {
        self.former_public_keys.iter().filter_map(|key| PublicKey::parse(key))
    }
}

impl Settings for AuditSettings {
    fn check(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if !(1..=100_000).contains(&self.checkpoint_entries) {
            faults.push("checkpoint_entries must be 1 to 100000".to_owned());
        }
        if !(100..=3_600_000).contains(&self.checkpoint_interval_ms) {
            faults.push("checkpoint_interval_ms must be 100 to 3600000".to_owned());
        }
        if !(1_000..=100_000_000).contains(&self.segment_entries) {
            faults.push("segment_entries must be 1000 to 100000000".to_owned());
        }
        if self.former_public_keys.len() > 16 || self.former_public_keys().count() != self.former_public_keys.len() {
            faults.push("former_public_keys must be at most 16 Ed25519 public keys in base64url".to_owned());
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_faults_are_told_at_once() {
        assert_eq!(AuditSettings::default().check(), Vec::<String>::new());

        let settings = AuditSettings {
            checkpoint_entries: 0,
            checkpoint_interval_ms: 99,
            segment_entries: 999,
            retention_s: 1,
            former_public_keys: vec!["key".to_owned()],
        };

        assert_eq!(settings.check().len(), 4);
    }
}
