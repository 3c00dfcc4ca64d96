//! What the contract promises, held against the running platform: access, broker permissions, database roles, audit.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod access;
mod audit_coverage;
mod broker_permissions;
mod compose;
mod cron;
mod database_roles;
mod documents;
mod reply_subjects;
