//! The schema `authz`. The only place that knows SQL; domain types in and out.

mod roles;

pub(crate) use roles::{
    StoredRole, delete_role, find_deletion, find_role, insert_role, is_named, list_roles, load_policy, load_policy_of,
    lock_policy, update_role,
};
