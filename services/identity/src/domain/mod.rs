//! What identity knows about users, apart from where they are kept and who asks. Pure: no I/O, no clock, no wire types.

mod email;
mod fault;
mod group;
mod name;
mod notice;
mod password;
mod password_hash;
mod role;
mod user;

pub use email::Email;
pub use fault::Fault;
pub use group::{
    GROUP_ROLES_MAX, GROUPS_OF_USER_MAX, Group, GroupDescription, GroupId, GroupName, GroupRoles, HeldRoles,
};
pub use name::DisplayName;
pub use notice::{Notice, Purpose, one_line};
pub use password::{GivenPassword, NewPassword};
pub use password_hash::{HashParameters, PasswordHash, Verdict};
pub use role::{ADMIN, ROLES_MAX, RoleName};
pub use user::{NewUser, PasswordMark, State, User, UserId};
