//! What happens at each endpoint and for the records that come, one file each.

mod append_records;
mod export_entries;
mod get_entry;
mod list_checkpoints;
mod list_entries;
mod verify;
mod wire;

pub(crate) use append_records::append_records;
pub(crate) use export_entries::export_entries;
pub(crate) use get_entry::get_entry;
pub(crate) use list_checkpoints::list_checkpoints;
pub(crate) use list_entries::list_entries;
pub(crate) use verify::verify;
pub(crate) use wire::checkpoint_to_wire;
