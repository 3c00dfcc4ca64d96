//! The jobs of the queue `diagnostics`. None changes anything, so running one twice is safe.

use std::time::Duration;

use kernel::jobs::{Outcome, Run};
use subjects::jobs::v1::{Fail, Sleep};

/// Longest sleep.
const SLEEP_MS_MAX: u32 = 60_000;

pub(crate) fn echo(run: &Run) -> Outcome {
    match String::from_utf8(run.job.arguments.to_vec()) {
        Ok(arguments) => Outcome::Done(arguments),
        Err(_) => Outcome::Undecodable("the arguments are no text".to_owned()),
    }
}

pub(crate) async fn sleep(run: &Run) -> Outcome {
    let arguments: Sleep = match run.arguments() {
        Ok(arguments) => arguments,
        Err(outcome) => return outcome,
    };
    if arguments.ms > SLEEP_MS_MAX {
        return Outcome::Undecodable(format!("/ms must be at most {SLEEP_MS_MAX}"));
    }
    tokio::time::sleep(Duration::from_millis(arguments.ms.into())).await;
    Outcome::Done(String::new())
}

pub(crate) fn fail(run: &Run) -> Outcome {
    let arguments: Fail = match run.arguments() {
        Ok(arguments) => arguments,
        Err(outcome) => return outcome,
    };
    let attempt = run.job.attempt;
    if attempt <= arguments.attempts {
        return Outcome::Failed(format!("attempt {attempt} fails as it was asked to"));
    }
    Outcome::Done(format!(r#"{{"attempt":{attempt}}}"#))
}
