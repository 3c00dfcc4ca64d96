//! The schema `auth`. The only place that knows SQL; domain types in and out.

mod refresh_tokens;
mod sessions;
mod signing_keys;

pub(crate) use refresh_tokens::{
    delete_expired_tokens, find_token, find_user_of, insert_token, lock_session_of, mark_exchanged,
};
pub(crate) use sessions::{
    ClientClaims, delete_ended_sessions, insert_session, revoke_session, revoke_sessions_of, touch_session,
};
pub(crate) use signing_keys::{
    NewestKey, PublicKey, SealedKeys, delete_retired_keys, find_newest_key, insert_signing_key, list_public_keys,
    list_sealed_keys, lock_signing_keys, retire_keys,
};
