//! Endpoints: our own micro layer on plain queue subscriptions. Around every handler stands, once and in this order:
//! reply subject, headers, deadline, concurrency, token, body and bindings, permission, span and measures, panic and
//! cancellation, encoding. A handler cannot leave one out.

mod limit;
mod measures;
mod reply;
mod request;
mod route;
mod serve;
mod subscription;

pub(crate) use measures::Measures;
pub(crate) use reply::{Replier, reply_subject};
pub use route::Routes;
pub(crate) use serve::{Server, ServerParts};
