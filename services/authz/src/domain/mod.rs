//! What authz knows about roles, apart from where they are kept and who asks. Pure: no I/O, no clock, no wire types.

mod engine;
mod explain;
mod fault;
mod holdings;
mod pattern;
mod policy;
mod role;

pub use engine::{Engine, Outdated, Principal};
pub use explain::{Explanation, NearMiss, Step, explain};
pub use fault::Fault;
pub use holdings::{GroupHolding, Holdings};
pub use pattern::{Pattern, Permission};
pub use policy::{Catalogue, DEPTH_MAX, Policy, PolicyError, ROLES_MAX};
pub use role::{Description, INHERITS_MAX, PERMISSIONS_MAX, Role, RoleName, parse_inherits, parse_permissions};
