//! The platform on one machine: what the `trunkline` command does, as a library for the command itself and for tests.

mod bench;
pub mod command;
pub mod platform;
