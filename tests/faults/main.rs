//! What must hold when parts are killed. Every test here has servers of its own, which flush to the disk as in use.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod authorization;
mod events;
mod jobs;
mod kills;
