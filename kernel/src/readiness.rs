//! Whether the process can serve, and if not, why.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use serde::Serialize;
use tokio::time::{Instant, timeout};

use crate::Lifecycle;

/// How long one condition may take to answer.
const CHECK_TIMEOUT: Duration = Duration::from_millis(1_500);

/// How long an answer is good for, so that asking often costs nothing.
const REPORT_KEPT: Duration = Duration::from_millis(500);

/// The conditions. Cheap to clone.
#[derive(Clone)]
pub struct Readiness(Arc<Inner>);

struct Inner {
    life: Lifecycle,
    started: AtomicBool,
    conditions: Mutex<Vec<(&'static str, Check)>>,
    last: tokio::sync::Mutex<Option<(Instant, Report)>>,
}

type Check = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// How it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether the process can serve.
    pub ready: bool,
    /// Why not; empty when it can.
    pub reasons: Vec<String>,
}

impl Readiness {
    pub(crate) fn new(life: Lifecycle) -> Self {
        Self(Arc::new(Inner {
            life,
            started: AtomicBool::new(false),
            conditions: Mutex::default(),
            last: tokio::sync::Mutex::default(),
        }))
    }

    /// Adds a condition: `Err` says in a few words why it does not hold. It is asked at most twice a second and counts
    /// as broken when it takes longer than 1.5 s.
    pub fn require<F, Fut>(&self, name: &'static str, check: F)
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.conditions().push((name, Arc::new(move || Box::pin(check()))));
    }

    /// How it stands.
    pub async fn report(&self) -> Report {
        let life = if self.0.life.is_stopping() {
            Some("the process is stopping")
        } else if !self.0.started.load(Ordering::Acquire) {
            Some("the process is starting")
        } else {
            None
        };
        if let Some(reason) = life {
            return Report { ready: false, reasons: vec![reason.to_owned()] };
        }
        let mut last = self.0.last.lock().await;
        if let Some((at, report)) = &*last
            && at.elapsed() < REPORT_KEPT
        {
            return report.clone();
        }
        let conditions = self.conditions().clone();
        let asked = conditions.iter().map(|(name, check)| async move {
            match timeout(CHECK_TIMEOUT, check()).await {
                Ok(Ok(())) => None,
                Ok(Err(reason)) => Some(format!("{name}: {reason}")),
                Err(_) => Some(format!("{name}: no answer in time")),
            }
        });
        let reasons: Vec<String> = futures::future::join_all(asked).await.into_iter().flatten().collect();
        let report = Report { ready: reasons.is_empty(), reasons };
        *last = Some((Instant::now(), report.clone()));
        report
    }

    /// Everything is there.
    pub(crate) fn set_started(&self) {
        self.0.started.store(true, Ordering::Release);
    }

    fn conditions(&self) -> MutexGuard<'_, Vec<(&'static str, Check)>> {
        self.0.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness").field("started", &self.0.started).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_broken_condition_is_named() {
        let life = Lifecycle::new();
        let readiness = Readiness::new(life.clone());
        assert_eq!(readiness.report().await.reasons, ["the process is starting"]);

        readiness.set_started();
        assert!(readiness.report().await.ready);
        readiness.require("database", || async { Err("gone".to_owned()) });
        readiness.require("broker", || async { Ok(()) });
        readiness.require("clock", std::future::pending);
        tokio::time::advance(REPORT_KEPT).await;
        assert_eq!(readiness.report().await.reasons, ["database: gone", "clock: no answer in time"]);

        life.stop();
        assert_eq!(readiness.report().await.reasons, ["the process is stopping"]);
    }
}
