//! Whether a caller may. The seam behind which authorisation is decided; until there is a service for it, by the roles
//! that the token names.

use std::fmt;

use futures::future::BoxFuture;

use crate::{Context, Result};

/// Decides permissions.
pub trait Decide: fmt::Debug + Send + Sync + 'static {
    /// Whether the caller of `cx`, whose token is verified, has `permission`. An error is answered as it is: when it
    /// cannot be decided, the request is refused.
    fn decide<'a>(&'a self, cx: &'a Context, permission: &'a str) -> BoxFuture<'a, Result<bool>>;
}

/// The role that may do everything.
const ADMIN: &str = "admin";

/// `admin` may do everything, everybody else only what needs no permission.
#[derive(Clone, Copy, Debug)]
pub struct ByRoleClaim;

impl Decide for ByRoleClaim {
    fn decide<'a>(&'a self, cx: &'a Context, _permission: &'a str) -> BoxFuture<'a, Result<bool>> {
        let may = cx.caller().is_some_and(|claims| claims.has_role(ADMIN));
        Box::pin(std::future::ready(Ok(may)))
    }
}
