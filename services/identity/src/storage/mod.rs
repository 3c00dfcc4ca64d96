//! The schema `identity`. The only place that knows SQL; domain types in and out.

mod credentials;
mod roles;
mod users;

pub(crate) use credentials::{SignIn, find_sign_in, replace_hash};
pub(crate) use roles::{find_roles, is_role_held, lock_bootstrap};
pub(crate) use users::{Insertion, find_user, insert_user, list_users};

use crate::domain::State;

fn state_to_text(state: State) -> &'static str {
    match state {
        State::Active => "ACTIVE",
        State::Unverified => "UNVERIFIED",
        State::Disabled => "DISABLED",
    }
}

fn state_from_text(text: &str) -> Result<State, sqlx::Error> {
    match text {
        "ACTIVE" => Ok(State::Active),
        "UNVERIFIED" => Ok(State::Unverified),
        "DISABLED" => Ok(State::Disabled),
        other => Err(sqlx::Error::Decode(format!("users.state holds {other:?}").into())),
    }
}
