//! The operational scenarios, end to end, on real parts.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod audit_logging;
mod audit_tampering;
mod authorization;
mod bad_input;
mod cache_aside;
mod command_events;
mod command_jobs;
mod command_up;
mod dead_letters;
mod edits;
mod event_publishing;
mod event_workflow;
mod events;
mod forged_tokens;
mod instances;
mod job_attack;
mod job_bad_input;
mod job_batches;
mod job_limits;
mod job_retry;
mod job_samples;
mod job_scheduling;
mod jobs;
mod key_rotation;
mod login;
mod mail;
mod migrations;
mod other_languages;
mod permission_resolution;
mod redaction;
mod refresh;
mod schedules;
mod write_through;
