//! The schema `identity`. The only place that knows SQL; domain types in and out.

mod credentials;
mod groups;
mod notices;
mod roles;
mod users;

pub(crate) use credentials::{
    SignIn, change_password, find_password, find_sign_in, forget_guesses, outdate_sessions, replace_hash, set_password,
    take_guess,
};
pub(crate) use groups::{
    count_groups_of, delete_group, delete_group_role, delete_member, find_group, insert_group, insert_group_role,
    insert_member, list_groups, list_members, lock_group, touch_group, update_group,
};
pub(crate) use notices::{insert_recipients, take_recipients};
pub(crate) use roles::{
    count_roles, delete_role, find_holder, has_active_administrator, has_administrator, insert_role, is_role_held,
    lock_administrators, lock_bootstrap,
};
pub(crate) use users::{
    Insertion, delete_user, disable_user, enable_user, find_user, insert_user, list_users, lock_user, update_user,
};

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
