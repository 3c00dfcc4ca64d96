//! How the audit log proves itself: what of an entry is hashed, what of a checkpoint is signed, and what is wrong with a
//! log that does not hold.
//!
//! The audit service makes hashes and signatures by it and checks its store with it; the command checks an exported file
//! with it, offline; whoever wants to check without either needs nothing but the descriptions in this crate. It knows no
//! other crate of the platform, no database, no clock, and does no I/O but reading the lines it is given.
//!
//! - [`entry`]: the encoding of an entry and of its personal fields
//! - [`checkpoint`]: what is signed
//! - [`Walk`]: the way along the chain
//! - [`verify_lines`]: a whole export

pub mod checkpoint;
mod encoding;
pub mod entry;
mod export;
mod finding;
mod walk;

pub use checkpoint::{Checkpoint, PublicKey};
pub use encoding::Hash;
pub use entry::{Entry, Link, Personal};
pub use export::{ExportReport, verify_lines};
pub use finding::{FINDINGS_MAX, Finding, Findings, Kind};
pub use walk::{Place, Walk};
