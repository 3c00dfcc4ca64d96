//! The tables of this service.

mod jobs;
mod letters;
mod queues;
mod schedules;

pub(crate) use jobs::{
    JobFilter, NewJob, Told, apply, delete_batches, delete_ended, find_envelope, find_jobs, find_known, insert_batch,
    insert_errors, insert_jobs, insert_submitted, keep_envelope, list_errors, list_jobs, list_kinds, list_to_cancel,
    note_batch, note_sequences, put_back, request_cancellation, set_cancelled,
};
pub(crate) use letters::{
    LetterFilter, count_letters, delete_letters, delete_letters_before, find_letters, insert_letter, list_letters,
    list_oldest_letters, mark_overtaken, mark_replayed,
};
pub(crate) use queues::{StoredQueue, find_queue, list_queues, lock_queue, make_queues, put_queue, touch_queue};
pub(crate) use schedules::{
    LastTick, close_lost, count_open, count_schedules, delete_schedule, delete_ticks, delete_undeclared, find_declared,
    find_schedule, insert_tick, last_ticks, list_queued, list_schedules, may_plan, note_planned, note_store,
    put_schedule, queue_tick, start_queued,
};

fn unexpected(column: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("{column} holds what this service never wrote").into())
}

fn number(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

fn unsigned(value: i32) -> u32 {
    u32::try_from(value).unwrap_or_default()
}
