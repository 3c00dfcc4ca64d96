//! What happens at each endpoint, one file each.

mod get_jwks;
mod login;
mod logout;
mod refresh;

pub(crate) use get_jwks::get_jwks;
pub(crate) use login::login;
pub(crate) use logout::logout;
pub(crate) use refresh::refresh;
