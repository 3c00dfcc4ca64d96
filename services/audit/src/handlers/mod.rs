//! What happens at each endpoint and for the records that come, one file each.

mod append_records;
mod list_entries;

pub(crate) use append_records::append_records;
pub(crate) use list_entries::list_entries;
