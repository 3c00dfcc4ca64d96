//! What happens at each endpoint and in each job, one file each, or one for what belongs to one thing.

mod administrators;
mod assign_role;
mod change_password;
mod create_user;
mod delete_user;
mod disable_user;
mod enable_user;
mod get_me;
mod get_user;
mod get_user_roles;
mod group_members;
mod group_roles;
mod groups;
mod is_role_held;
mod list_user_roles;
mod list_users;
mod register;
mod remove_role;
mod send_mail;
mod spread_notice;
mod update_user;
mod verify_credentials;

pub(crate) use assign_role::assign_role;
pub(crate) use change_password::change_password;
pub(crate) use create_user::create_user;
pub(crate) use delete_user::delete_user;
pub(crate) use disable_user::disable_user;
pub(crate) use enable_user::enable_user;
pub(crate) use get_me::get_me;
pub(crate) use get_user::get_user;
pub(crate) use get_user_roles::get_user_roles;
pub(crate) use group_members::{add_group_member, list_group_members, remove_group_member};
pub(crate) use group_roles::{assign_group_role, remove_group_role};
pub(crate) use groups::{create_group, delete_group, get_group, list_groups, update_group};
pub(crate) use is_role_held::is_role_held;
pub(crate) use list_user_roles::list_user_roles;
pub(crate) use list_users::list_users;
pub(crate) use register::register;
pub(crate) use remove_role::remove_role;
pub(crate) use send_mail::send_mail;
pub(crate) use spread_notice::spread_notice;
pub(crate) use update_user::update_user;
pub(crate) use verify_credentials::verify_credentials;

use subjects::identity::v1::{User as WireUser, user};

use crate::domain::{State, User};

impl From<User> for WireUser {
    fn from(user: User) -> Self {
        let state = match user.state {
            State::Active => user::State::Active,
            State::Unverified => user::State::Unverified,
            State::Disabled => user::State::Disabled,
        };
        Self {
            id: user.id.to_string(),
            email: user.email,
            display_name: user.display_name,
            state: state.into(),
            email_verified: user.email_verified,
            created_at: Some(user.created_at.into()),
            updated_at: Some(user.updated_at.into()),
            consistency_token: String::new(),
            revision: user.revision.to_string(),
        }
    }
}
