//! The log. The only place that knows SQL; domain types in and out.

mod checkpoints;
mod entries;
mod log;
mod segments;

pub(crate) use checkpoints::{
    find_covering_checkpoint, find_first_checkpoint, find_last_checkpoint, find_last_checkpoint_time,
    insert_checkpoint, list_checkpoints, list_checkpoints_between,
};
pub(crate) use entries::{Part, find_entry, list_entries, read_entries};
pub(crate) use log::{
    delete_personal_behind, find_ends, find_head, find_range, insert_entries, insert_stretches, list_hashes,
    list_known_ids, lock_chain,
};
pub(crate) use segments::{drop_segments, find_oldest_segment_end, list_dropped, make_segments};

use proof::Hash;

fn hash_from_bytes(bytes: &[u8]) -> Result<Hash, sqlx::Error> {
    bytes.try_into().map(Hash).map_err(|_| unexpected("hash"))
}

fn unexpected(column: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("{column} holds what this version does not know").into())
}
