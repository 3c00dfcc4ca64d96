//! Starts the real platform for tests, by the code that `trunkline up` uses, and speaks to it as its users do.
//!
//! A test binary has one `nats-server` and one PostgreSQL; each test has an account of the one, a database of the other
//! and its own processes of the services. Nothing of ours is mocked. Deliberately holds no assertion about behaviour:
//! those stand in `scenarios/`, `faults/` and `contract/`.
#![expect(clippy::missing_panics_doc, reason = "a harness fails the test")]

pub mod broker;
pub mod build;
pub mod command;
pub mod http;
pub mod jobs;
pub mod load;
pub mod mail;
pub mod node;
pub mod people;
pub mod platform;
pub mod python;
pub mod servers;
pub mod setup;
pub mod tail;
pub mod team;
pub mod traces;
pub mod wait;
pub mod wire;

pub use platform::Platform;
pub use setup::Setup;
pub use trunkline::platform::Signal;
