//! What must hold when parts are killed. Every test here has servers of its own, which flush to the disk as in use.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod authorization;
mod events;
mod jobs;
mod kills;

use std::fmt::Debug;
use std::str::FromStr;

/// Shown where it is asked for by `--nocapture`, and where the test fails.
#[expect(clippy::print_stdout, reason = "figures are for people, and a failure is repeated by its seed")]
fn say(line: &str) {
    println!("{line}");
}

/// How much of something a run by hand asks for.
fn number<T: FromStr<Err: Debug>>(variable: &str) -> Option<T> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}
