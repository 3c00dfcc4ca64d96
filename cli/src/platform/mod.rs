//! The platform on one machine: its servers, its processes, its folders. `up` and the tests start it by the same code.

pub mod admin;
pub mod binaries;
pub mod database;
pub mod deployment;
pub mod folders;
pub mod nats;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod programs;
pub mod secrets;
pub mod servers;
pub mod supervisor;
pub mod terminal;
mod watcher;

pub use rustix::process::Signal;
