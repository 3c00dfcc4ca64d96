//! The schema `authz`. The only place that knows SQL; domain types in and out.

mod roles;

pub(crate) use roles::load_policy;
