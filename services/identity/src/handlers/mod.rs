//! What happens at each endpoint, one file each.

mod create_user;
mod get_me;
mod get_user;
mod get_user_roles;
mod list_users;
mod register;
mod verify_credentials;

pub(crate) use create_user::create_user;
pub(crate) use get_me::get_me;
pub(crate) use get_user::get_user;
pub(crate) use get_user_roles::get_user_roles;
pub(crate) use list_users::list_users;
pub(crate) use register::register;
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
        }
    }
}
