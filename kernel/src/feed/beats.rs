//! The heartbeats of the relays that fill a feed. Where one is silent, or has something old unsent, nothing can be said
//! of what has happened in its service.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use super::{Loss, PATIENCE};

/// Of a heartbeat, what matters here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Beat {
    service: String,
    oldest_unsent_age_ms: u64,
}

impl Beat {
    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        serde_json::from_slice(payload).ok()
    }
}

/// How it stands with each publishing service.
#[derive(Debug)]
pub(super) struct Beats(Vec<Standing>);

#[derive(Debug)]
struct Standing {
    service: &'static str,
    /// Waited for since then, or last heard.
    since: Instant,
    heard: bool,
    /// What was told of it and still holds.
    told: Option<Loss>,
}

impl Beats {
    pub(super) fn new(services: impl Iterator<Item = &'static str>) -> Self {
        let now = Instant::now();
        Self(services.map(|service| Standing { service, since: now, heard: false, told: None }).collect())
    }

    /// Waits for all of them anew.
    pub(super) fn forget(&mut self) {
        for standing in &mut self.0 {
            *standing = Standing { since: Instant::now(), heard: false, told: None, ..*standing };
        }
    }

    /// Takes a heartbeat. Says what is lost by it.
    pub(super) fn hear(&mut self, beat: &Beat) -> Option<Loss> {
        let standing = self.0.iter_mut().find(|standing| standing.service == beat.service)?;
        let before = standing.told.take();
        standing.since = Instant::now();
        standing.heard = true;
        if Duration::from_millis(beat.oldest_unsent_age_ms) > PATIENCE {
            standing.told = Some(Loss::Behind(standing.service));
        }
        standing.told.filter(|loss| before != Some(*loss))
    }

    /// Says which has become silent.
    pub(super) fn look(&mut self) -> Option<Loss> {
        let silent = self
            .0
            .iter_mut()
            .find(|standing| standing.since.elapsed() >= PATIENCE && !matches!(standing.told, Some(Loss::Silent(_))))?;
        silent.told = Some(Loss::Silent(silent.service));
        silent.told
    }

    /// Until when all may be believed to have sent what they have, where no more is heard of them.
    pub(super) fn sound_until(&self) -> Option<Instant> {
        self.0.iter().map(|standing| standing.since + PATIENCE).min()
    }

    /// Whether all are heard and have sent what they have.
    pub(super) fn are_sound(&self) -> bool {
        self.0.iter().all(|standing| standing.heard && standing.told.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(service: &str, age_ms: u64) -> Beat {
        let body = format!(r#"{{"service":"{service}","oldestUnsentAgeMs":{age_ms},"more":1}}"#);
        Beat::read(body.as_bytes()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn silence_and_old_messages_are_told_once() {
        let mut beats = Beats::new(["auth", "identity"].into_iter());
        assert!(!beats.are_sound());
        assert_eq!(beats.hear(&beat("auth", 0)), None);
        assert_eq!(beats.hear(&beat("identity", 5_000)), None);
        assert!(beats.are_sound());

        assert_eq!(beats.hear(&beat("auth", 5_001)), Some(Loss::Behind("auth")));
        assert_eq!(beats.hear(&beat("auth", 6_001)), None);
        assert!(!beats.are_sound());
        assert_eq!(beats.hear(&beat("auth", 0)), None);
        assert!(beats.are_sound());

        let since = Instant::now();
        tokio::time::advance(Duration::from_millis(4_999)).await;
        assert_eq!(beats.look(), None);
        assert_eq!(beats.sound_until(), Some(since + PATIENCE));
        beats.hear(&beat("auth", 0));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(beats.look(), Some(Loss::Silent("identity")));
        assert_eq!(beats.look(), None);
        beats.hear(&beat("identity", 0));
        assert!(beats.are_sound());
        assert_eq!(beats.hear(&beat("nobody", 9_000)), None);
    }
}
