//! What audit knows about its log, apart from where it is kept and who asks. Pure: no I/O, no clock, no wire types.

mod chain;
mod entry;
mod filter;

pub use chain::{Chain, EntryHash};
pub use entry::{ActorType, Entry, Faulty, Outcome, Record};
pub use filter::{ActionFilter, Fault, Filter};
