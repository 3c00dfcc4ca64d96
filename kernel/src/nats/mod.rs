//! The broker: one connection a process, and requests over it. Nothing outside the kernel speaks to it.

mod connection;
pub(crate) mod headers;
mod pending;
mod requester;

pub(crate) use connection::{Connection, Disturbances, connect};
pub(crate) use pending::Pending;
pub(crate) use requester::{RequestError, Requester};
