//! What identity knows about users, apart from where they are kept and who asks. Pure: no I/O, no clock, no wire types.

mod email;
mod fault;
mod name;
mod password;
mod password_hash;
mod role;
mod user;

pub use email::Email;
pub use fault::Fault;
pub use name::DisplayName;
pub use password::{GivenPassword, NewPassword};
pub use password_hash::{HashParameters, PasswordHash, Verdict};
pub use role::{ADMIN, RoleName};
pub use user::{NewUser, State, User, UserId};
