//! What jobs and queues are, without any input or output.

mod job;
mod queue;
mod schedule;
mod submission;

pub use job::{DeadLetter, Job, JobError, Reason, State, is_made_of_place, rank};
pub use queue::QueueSettings;
pub use schedule::{CATCH_UP_MAX, CatchUp, Firing, Outcome, Overlap, Plan, Schedule, Timing};
pub use submission::{Accepted, accept, check_queue};
