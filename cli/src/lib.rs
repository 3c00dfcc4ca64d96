//! The platform on one machine, as a library: what `trunkline` does, for the command itself and for tests.

pub mod platform;
