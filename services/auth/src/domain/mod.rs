//! What auth knows about sessions, tokens and keys, apart from where they are kept and who asks. Pure: no I/O, no clock,
//! no wire types; randomness is handed in.

mod access_token;
mod key_times;
mod master_key;
mod refresh_token;
mod session;
mod signing_key;

pub use access_token::{AccessToken, CLIENT_ID};
pub use key_times::{ACCESS_TOKEN_TTL_MAX, KeyTimes};
pub use master_key::{MasterKey, MasterKeyError};
pub use refresh_token::{RefreshToken, SuccessorKey, TokenHash};
pub use session::{Exchange, KeptToken, Lifetimes, PasswordMark, RevokedReason, Session, SessionId, UserId};
pub use signing_key::{KeyId, SealedKey, SealingKey, SigningKey, UnsealError};
