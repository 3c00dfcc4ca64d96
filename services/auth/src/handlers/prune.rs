//! Deletes what nobody can use any more.

use chrono::TimeDelta;
use kernel::jobs::{Outcome, Run};
use kernel::{Context, Result};
use serde_json::json;

use crate::Auth;
use crate::storage;

/// Rows deleted in one statement: locks are held for milliseconds.
const ROWS_MAX: i64 = 1_000;

/// Statements of one run for tokens, and for sessions. What is left is for the next one.
const STEPS_MAX: u32 = 500;

/// How long expired tokens and withdrawn keys stay, so that clocks which disagree never miss one.
const MARGIN: TimeDelta = TimeDelta::hours(1);

/// What it deletes is gone; run again it deletes what is left.
pub(crate) async fn prune(auth: &Auth, run: &Run) -> Outcome {
    match delete(auth, &run.cx, run).await {
        Ok(result) => Outcome::Done(result),
        Err(error) => error.into(),
    }
}

async fn delete(auth: &Auth, cx: &Context, run: &Run) -> Result<String> {
    let expired = cx.now() - MARGIN;
    let mut tokens = 0;
    for _ in 0..STEPS_MAX {
        let mut connection = auth.database.pool().acquire().await?;
        let deleted = storage::delete_expired_tokens(&mut connection, expired, ROWS_MAX).await?;
        tokens += deleted;
        if deleted == 0 {
            break;
        }
        run.progress(json!({ "tokens": tokens }).to_string());
    }
    let ended = cx.now() - auth.settings.ended_sessions_kept();
    let mut sessions = 0;
    for _ in 0..STEPS_MAX {
        let mut connection = auth.database.pool().acquire().await?;
        let deleted = storage::delete_ended_sessions(&mut connection, ended, ROWS_MAX).await?;
        sessions += deleted;
        if deleted == 0 {
            break;
        }
        run.progress(json!({ "tokens": tokens, "sessions": sessions }).to_string());
    }
    let mut connection = auth.database.pool().acquire().await?;
    let keys = storage::delete_retired_keys(&mut connection, expired).await?;
    Ok(json!({ "tokens": tokens, "sessions": sessions, "keys": keys }).to_string())
}
