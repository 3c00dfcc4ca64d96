//! The policy made ready for deciding: which roles permit a permission is one look-up, and whether a user holds one of
//! them a few bits. What wildcards and inheritance mean was worked out beforehand.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use foldhash::fast::RandomState;

use super::{Pattern, Policy, Role};

/// A policy, compiled. Never changes; another policy is another engine.
#[derive(Debug)]
pub struct Engine {
    policy: Policy,
    /// Tells engines apart.
    version: u64,
    roles: HashMap<Box<str>, u32, RandomState>,
    /// By pattern: the roles that have it, inherited ones included.
    by_pattern: HashMap<Box<str>, RoleSet, RandomState>,
    /// By permission: the roles that have a pattern which permits it. All permissions that are declared or named by a role.
    by_permission: HashMap<Box<str>, RoleSet, RandomState>,
    /// The patterns with wildcards that cover one of these. Seldom asked for, and then often: so worked out once, when it is.
    known_wildcards: OnceLock<HashSet<Box<str>, RandomState>>,
}

/// The roles that a user holds, made ready for one engine.
#[derive(Clone, Debug, Default)]
pub struct Principal {
    version: u64,
    roles: Box<[u32]>,
}

/// The principal was made ready for another engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outdated;

/// One bit a role.
#[derive(Clone, Debug, Default)]
struct RoleSet(Box<[u64]>);

impl RoleSet {
    fn empty(roles: usize) -> Self {
        Self(vec![0; roles.div_ceil(64)].into())
    }

    fn insert(&mut self, role: u32) {
        self.0[role as usize / 64] |= 1 << (role % 64);
    }

    fn contains(&self, role: u32) -> bool {
        self.0.get(role as usize / 64).is_some_and(|word| word & (1 << (role % 64)) != 0)
    }

    fn extend(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word |= other);
    }
}

impl Engine {
    /// Works the policy out. `declared` are permissions that may be asked for though no role names them; `version` tells
    /// this engine from those before it.
    pub fn new<'a>(policy: Policy, declared: impl IntoIterator<Item = &'a Pattern>, version: u64) -> Self {
        let roles: HashMap<Box<str>, u32, RandomState> =
            policy.roles().zip(0..).map(|(role, index)| (role.name.as_str().into(), index)).collect();
        let mut by_pattern: HashMap<Box<str>, RoleSet, RandomState> = HashMap::default();
        for (role, index) in policy.roles().zip(0..) {
            for pattern in policy.with_inherited(role.name.as_str()).iter().flat_map(|role| &role.permissions) {
                let set = by_pattern.entry(pattern.as_str().into());
                set.or_insert_with(|| RoleSet::empty(roles.len())).insert(index);
            }
        }
        let mut engine = Self {
            version,
            roles,
            by_permission: HashMap::default(),
            by_pattern,
            policy,
            known_wildcards: OnceLock::new(),
        };
        let named = engine.policy.roles().flat_map(|role| &role.permissions).filter(|pattern| !pattern.has_wildcard());
        let mut by_permission: HashMap<Box<str>, RoleSet, RandomState> = HashMap::default();
        for permission in named {
            by_permission.insert(permission.as_str().into(), engine.work_out(permission));
        }
        for permission in declared {
            by_permission.insert(permission.as_str().into(), engine.work_out(permission));
        }
        engine.by_permission = by_permission;
        engine
    }

    /// What it was made from.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Whether the permission, or one that the pattern covers, is declared or named by a role.
    pub fn knows(&self, pattern: &Pattern) -> bool {
        self.by_permission.contains_key(pattern.as_str())
            || pattern.has_wildcard() && self.known_wildcards().contains(pattern.as_str())
    }

    fn known_wildcards(&self) -> &HashSet<Box<str>, RandomState> {
        self.known_wildcards.get_or_init(|| {
            let mut wildcards: HashSet<Box<str>, RandomState> = HashSet::default();
            for known in self.by_permission.keys().filter_map(|text| Pattern::parse(text).ok()) {
                // The first is the permission itself.
                wildcards.extend(known.all_that_cover().skip(1).map(String::into_boxed_str));
            }
            wildcards
        })
    }

    /// The roles that permit all that the pattern covers, in order of name.
    pub fn roles_that_permit(&self, pattern: &Pattern) -> Vec<&Role> {
        let set = self.work_out(pattern);
        self.policy.roles().zip(0..).filter(|(_, index)| set.contains(*index)).map(|(role, _)| role).collect()
    }

    /// Who holds these roles, ready for being decided on. Names without a role are left out: they permit nothing.
    pub fn principal<'a>(&self, roles: impl IntoIterator<Item = &'a str>) -> Principal {
        let mut roles: Vec<u32> = roles.into_iter().filter_map(|name| self.roles.get(name).copied()).collect();
        roles.sort_unstable();
        roles.dedup();
        Principal { version: self.version, roles: roles.into() }
    }

    /// Whether the principal has the permission, or all permissions that a pattern covers. Denied unless a role says
    /// otherwise, also where it is no permission at all.
    pub fn decide(&self, principal: &Principal, permission: &str) -> Result<bool, Outdated> {
        if principal.version != self.version {
            return Err(Outdated);
        }
        let holds_one_of = |set: &RoleSet| principal.roles.iter().any(|role| set.contains(*role));
        Ok(match self.by_permission.get(permission) {
            Some(set) => holds_one_of(set),
            None => Pattern::parse(permission).is_ok_and(|pattern| holds_one_of(&self.work_out(&pattern))),
        })
    }

    /// The roles with a pattern that covers it.
    fn work_out(&self, pattern: &Pattern) -> RoleSet {
        let mut all = RoleSet::empty(self.roles.len());
        for set in pattern.all_that_cover().filter_map(|text| self.by_pattern.get(text.as_str())) {
            all.extend(set);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Description, RoleName};

    fn engine(roles: &[(&str, &[&str], &[&str])]) -> Engine {
        let policy = roles.iter().map(|(name, permissions, inherits)| Role {
            name: RoleName::parse("/name", name).unwrap(),
            description: Description::default(),
            permissions: permissions.iter().map(|text| Pattern::parse(text).unwrap()).collect(),
            inherits: inherits.iter().map(|name| RoleName::parse("/inherits", name).unwrap()).collect(),
            built_in: false,
        });
        Engine::new(policy.collect(), [&Pattern::parse("audit.entries.read").unwrap()], 7)
    }

    #[test]
    fn wildcards_and_inheritance_decide_for_known_and_unknown_permissions() {
        let engine = engine(&[
            ("admin", &["*"], &[]),
            ("auditor", &["audit.*.read"], &[]),
            ("support", &["identity.users.read"], &["auditor"]),
        ]);
        let may = |roles: &[&str], permission| engine.decide(&engine.principal(roles.iter().copied()), permission);

        assert_eq!(may(&["admin"], "anything.at.all"), Ok(true));
        assert_eq!(may(&["support"], "audit.entries.read"), Ok(true));
        assert_eq!(may(&["support"], "audit.checkpoints.read"), Ok(true));
        assert_eq!(may(&["support"], "audit.entries.export"), Ok(false));
        assert_eq!(may(&["auditor"], "identity.users.read"), Ok(false));
        assert_eq!(may(&["nobody"], "audit.entries.read"), Ok(false));
        assert_eq!(may(&[], "audit.entries.read"), Ok(false));
        let huge = "x".repeat(1024 * 1024);
        for no_permission in ["", "a.b", "identity.users.read ", &huge] {
            assert_eq!(may(&["admin"], no_permission), Ok(false), "{no_permission:.20}");
        }
        // All that a pattern covers, not only some of it.
        assert_eq!(may(&["auditor"], "audit.*.read"), Ok(true));
        assert_eq!(may(&["auditor"], "audit.*"), Ok(false));
        assert_eq!(may(&["admin"], "*"), Ok(true));
    }

    #[test]
    fn known_is_what_is_declared_or_named_and_every_pattern_that_covers_some_of_it() {
        let engine = engine(&[("support", &["identity.users.read", "jobs.*", "identity.groups.read"], &[])]);

        for known in [
            "audit.entries.read",
            "identity.users.read",
            "*",
            "identity.*",
            "identity.users.*",
            "identity.*.read",
            "*.users.read",
            "*.*.read",
            "*.users.*",
            "audit.*",
        ] {
            assert!(engine.knows(&Pattern::parse(known).unwrap()), "{known}");
        }
        // What a role names with a wildcard makes nothing known that it would cover.
        for unknown in ["jobs.*", "jobs.queues.read", "identity.users.create", "*.users.create", "*.queues.*"] {
            assert!(!engine.knows(&Pattern::parse(unknown).unwrap()), "{unknown}");
        }
    }

    #[test]
    fn a_principal_counts_for_its_own_engine_only() {
        let engine = engine(&[("admin", &["*"], &[])]);
        let older = Principal { version: 6, ..engine.principal(["admin"]) };

        assert_eq!(engine.decide(&older, "audit.entries.read"), Err(Outdated));
    }
}
