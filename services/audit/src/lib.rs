//! The audit service.
pub mod domain;
