//! What audit knows about its log, apart from where it is kept and who asks. Pure: no I/O, no clock, no wire types.

mod chain;
mod entry;
mod filter;
mod signing_key;

pub use chain::Chain;
pub use entry::{ActorType, Entry, Faulty, Outcome, Record, Salt, hashed_time};
pub use filter::{ActionFilter, Fault, Filter};
pub use signing_key::{NotAKey, SigningKey};
