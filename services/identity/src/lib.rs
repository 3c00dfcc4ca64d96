//! The identity service.

pub mod domain;
