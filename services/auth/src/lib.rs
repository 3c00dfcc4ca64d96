//! The auth service.
pub mod domain;
