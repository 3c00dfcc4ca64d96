//! What happens at each endpoint and for what runners tell, one file each.

mod cancel_job;
mod dead_letters;
mod get_job;
mod hold_queue;
mod keep_dead_letters;
mod list_jobs;
mod list_kinds;
mod list_queues;
mod purge_dead_letters;
mod put_queue;
mod record_transitions;
mod replay_dead_letter;
mod replay_dead_letters;
mod retry_job;
mod submit;
mod wire;

pub(crate) use cancel_job::{cancel_job, enforce_cancellation};
pub(crate) use dead_letters::{get_dead_letter, list_dead_letters};
pub(crate) use get_job::get_job;
pub(crate) use hold_queue::hold_queue;
pub(crate) use keep_dead_letters::keep_dead_letters;
pub(crate) use list_jobs::list_jobs;
pub(crate) use list_kinds::list_kinds;
pub(crate) use list_queues::list_queues;
pub(crate) use purge_dead_letters::purge_dead_letters;
pub(crate) use put_queue::put_queue;
pub(crate) use record_transitions::record_transitions;
pub(crate) use replay_dead_letter::replay_dead_letter;
pub(crate) use replay_dead_letters::replay_dead_letters;
pub(crate) use retry_job::retry_job;
pub(crate) use submit::{submit, submit_batch};
