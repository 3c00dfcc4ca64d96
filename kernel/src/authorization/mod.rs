//! Whether a caller may, as every process knows it: from the answers of authz that it keeps, and from the events by which
//! such an answer becomes void. No rule of who may what lives here; that is authz's.
//!
//! An answer is kept with what it rests on (the user, the user's groups, the user's roles) and dropped when an event names
//! one of them. What is kept counts only while the feed of these events is believed; otherwise every decision is asked anew,
//! and authz reads the truth for it. Without an answer the request is refused with 503, never allowed.

pub(crate) mod changes;
mod decisions;
mod token;

use std::fmt;

use futures::future::BoxFuture;

pub use changes::{Change, Changes, Listen, WAIT_MAX};
pub(crate) use decisions::Decisions;
pub use token::{Consistency, ConsistencyToken};

use crate::{Context, Result};

/// Decides permissions.
pub trait Decide: fmt::Debug + Send + Sync + 'static {
    /// Whether the caller of `cx`, whose token is verified, has `permission`. An error is answered as it is: when it
    /// cannot be decided, the request is refused.
    fn decide<'a>(&'a self, cx: &'a Context, permission: &'a str) -> BoxFuture<'a, Result<bool>>;
}

/// Where a contract gives no way to ask: nobody may.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nobody;

impl Decide for Nobody {
    fn decide<'a>(&'a self, _cx: &'a Context, _permission: &'a str) -> BoxFuture<'a, Result<bool>> {
        Box::pin(std::future::ready(Ok(false)))
    }
}
