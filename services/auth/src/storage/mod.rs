//! The schema `auth`. The only place that knows SQL; domain types in and out.

mod refresh_tokens;
mod sessions;
mod signing_keys;

pub(crate) use refresh_tokens::{find_session_of, find_token, insert_token, lock_session_of, mark_exchanged};
pub(crate) use sessions::{ClientClaims, insert_session, revoke_session, touch_session};
pub(crate) use signing_keys::{PublicKey, find_signing_key, insert_signing_key, list_public_keys, lock_signing_keys};
