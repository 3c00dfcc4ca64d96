//! What happens at each endpoint, one file each.

mod authorize;

pub(crate) use authorize::authorize;
