//! The contract: messages, subjects, routes and permissions. No I/O and no service crate.
