//! All roles together: what one has through others, and which changes are allowed.

use std::collections::{BTreeMap, BTreeSet};

use super::role::{PERMISSIONS_MAX, TOO_MANY_PERMISSIONS};
use super::{Fault, Pattern, Permission, Role, RoleName};

/// Roles at most, so that what every instance holds in memory is bounded.
pub const ROLES_MAX: usize = 10_000;

/// Roles in a line of inheritance at most, the first one counted.
pub const DEPTH_MAX: usize = 32;

/// All roles, by name.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    roles: BTreeMap<RoleName, Role>,
}

/// Why a change is not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A value of the request does not fit.
    #[error("a value is not valid: {0:?}")]
    Invalid(Fault),
    /// There is no such role.
    #[error("there is no role {0}")]
    NotFound(RoleName),
    /// There is such a role already.
    #[error("there is a role {0}")]
    Exists(RoleName),
    /// The role exists from the first start.
    #[error("the role {0} is built in")]
    BuiltIn(RoleName),
    /// Others inherit the role.
    #[error("{inherited} is inherited by {by}")]
    Inherited {
        /// The role.
        inherited: RoleName,
        /// One that inherits it.
        by: RoleName,
    },
}

impl From<Fault> for PolicyError {
    fn from(fault: Fault) -> Self {
        Self::Invalid(fault)
    }
}

impl FromIterator<Role> for Policy {
    fn from_iter<T: IntoIterator<Item = Role>>(roles: T) -> Self {
        Self { roles: roles.into_iter().map(|role| (role.name.clone(), role)).collect() }
    }
}

impl Policy {
    /// The roles in order of name.
    pub fn roles(&self) -> impl Iterator<Item = &Role> {
        self.roles.values()
    }

    /// One role.
    pub fn find(&self, name: &str) -> Option<&Role> {
        self.roles.get(name)
    }

    /// The role and all that it inherits, nearest first. Whatever is stored, it ends: each role is visited once.
    pub fn with_inherited<'a>(&'a self, name: &str) -> Vec<&'a Role> {
        let mut line: Vec<&Role> = self.find(name).into_iter().collect();
        let mut seen: BTreeSet<&str> = line.iter().map(|role| role.name.as_str()).collect();
        let mut next = 0;
        while let Some(role) = line.get(next).copied() {
            for inherited in role.inherits.iter().filter_map(|name| self.roles.get(name)) {
                if seen.insert(inherited.name.as_str()) {
                    line.push(inherited);
                }
            }
            next += 1;
        }
        line
    }

    /// Everything that these roles permit, inherited ones included. Names without a role permit nothing.
    pub fn permissions_of<'a>(&'a self, roles: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a Pattern> {
        let roles = roles.into_iter().flat_map(|name| self.with_inherited(name));
        roles.flat_map(|role| &role.permissions).collect()
    }

    /// Adds a role.
    pub fn create(&mut self, role: Role) -> Result<(), PolicyError> {
        if self.roles.contains_key(&role.name) {
            return Err(PolicyError::Exists(role.name));
        }
        if self.roles.len() >= ROLES_MAX {
            return Err(Fault::new("/name", "too_many_roles", "There are 10,000 roles. Delete one first.").into());
        }
        self.put(role)
    }

    /// Puts a role in the place of the one of its name.
    pub fn update(&mut self, role: Role) -> Result<(), PolicyError> {
        let old = self.roles.get(&role.name).ok_or_else(|| PolicyError::NotFound(role.name.clone()))?;
        let grants = |role: &Role| (role.permissions.clone(), role.inherits.clone());
        let is_emptied = !old.permissions.is_empty() && role.permissions.is_empty();
        if old.built_in && (is_emptied || old.permissions.contains(&everything()) && grants(old) != grants(&role)) {
            return Err(PolicyError::BuiltIn(role.name));
        }
        self.put(role)
    }

    /// Takes a role away; who holds it is not known here.
    pub fn delete(&mut self, name: &RoleName) -> Result<Role, PolicyError> {
        let role = self.roles.get(name).ok_or_else(|| PolicyError::NotFound(name.clone()))?;
        if role.built_in {
            return Err(PolicyError::BuiltIn(name.clone()));
        }
        if let Some(heir) = self.roles.values().find(|role| role.inherits.contains(name)) {
            return Err(PolicyError::Inherited { inherited: name.clone(), by: heir.name.clone() });
        }
        self.roles.remove(name).ok_or_else(|| PolicyError::NotFound(name.clone()))
    }

    fn put(&mut self, role: Role) -> Result<(), PolicyError> {
        if role.permissions.len() > PERMISSIONS_MAX {
            return Err(TOO_MANY_PERMISSIONS.into());
        }
        for inherited in &role.inherits {
            if *inherited == role.name {
                return Err(CYCLE.into());
            }
            if !self.roles.contains_key(inherited) {
                return Err(Fault::new("/inherits", "unknown_role", "Inherit roles that exist.").into());
            }
            if self.with_inherited(inherited.as_str()).iter().any(|role_above| role_above.name == role.name) {
                return Err(CYCLE.into());
            }
        }
        let name = role.name.clone();
        let before = self.roles.insert(name.clone(), role);
        if self.height_above(&name) + self.depth_below(&name) > DEPTH_MAX {
            match before {
                Some(before) => _ = self.roles.insert(name, before),
                None => _ = self.roles.remove(&name),
            }
            return Err(Fault::new("/inherits", "inheritance_too_deep", "Inherit along at most 32 roles.").into());
        }
        Ok(())
    }

    /// Roles on the longest line from this one to what it inherits, itself counted; no more than one too many.
    fn depth_below(&self, name: &RoleName) -> usize {
        longest_line(name, |role| self.roles.get(role).into_iter().flat_map(|role| &role.inherits).collect())
    }

    /// Roles on the longest line of those that inherit this one, itself not counted; no more than one too many.
    fn height_above(&self, name: &RoleName) -> usize {
        let mut heirs: BTreeMap<&RoleName, Vec<&RoleName>> = BTreeMap::new();
        for role in self.roles.values() {
            for inherited in &role.inherits {
                heirs.entry(inherited).or_default().push(&role.name);
            }
        }
        longest_line(name, |role| heirs.get(role).cloned().unwrap_or_default()) - 1
    }
}

/// Goes on level by level, all roles of a level at once, so that it ends soon whatever is stored.
fn longest_line<'a>(from: &'a RoleName, next: impl Fn(&'a RoleName) -> Vec<&'a RoleName>) -> usize {
    let mut level = BTreeSet::from([from]);
    let mut depth = 0;
    while !level.is_empty() && depth <= DEPTH_MAX {
        depth += 1;
        level = level.into_iter().flat_map(&next).collect();
    }
    depth
}

/// The permissions that are declared. A role is refused what is not declared and wildcards that cover nothing declared:
/// both are slips.
#[derive(Clone, Debug, Default)]
pub struct Catalogue(BTreeSet<Pattern>);

impl FromIterator<Permission> for Catalogue {
    fn from_iter<T: IntoIterator<Item = Permission>>(permissions: T) -> Self {
        Self(permissions.into_iter().map(Pattern::from).collect())
    }
}

impl Catalogue {
    /// Whether the pattern stands for anything that is declared.
    pub fn knows(&self, pattern: &Pattern) -> bool {
        self.0.iter().any(|permission| pattern.covers(permission))
    }

    /// The permissions, in order.
    pub fn permissions(&self) -> impl Iterator<Item = &Pattern> {
        self.0.iter()
    }
}

const CYCLE: Fault =
    Fault::new("/inherits", "inheritance_cycle", "A role cannot inherit itself, nor a role that inherits it.");

fn everything() -> Pattern {
    Pattern::parse("*").expect("a pattern")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Description;

    fn role(name: &str, permissions: &[&str], inherits: &[&str]) -> Role {
        Role {
            name: RoleName::parse("/name", name).unwrap(),
            description: Description::default(),
            permissions: permissions.iter().map(|text| Pattern::parse(text).unwrap()).collect(),
            inherits: inherits.iter().map(|name| RoleName::parse("/inherits", name).unwrap()).collect(),
            built_in: matches!(name, "admin" | "auditor" | "user"),
        }
    }

    fn code(outcome: Result<(), PolicyError>) -> &'static str {
        match outcome {
            Err(PolicyError::Invalid(fault)) => fault.code,
            other => panic!("{other:?}"),
        }
    }

    fn name(text: &str) -> RoleName {
        RoleName::parse("/role", text).unwrap()
    }

    #[test]
    fn permissions_come_through_inheritance_each_once() {
        let mut policy = Policy::default();
        policy.create(role("reader", &["a.b.read"], &[])).unwrap();
        policy.create(role("left", &["a.b.list"], &["reader"])).unwrap();
        policy.create(role("right", &[], &["reader"])).unwrap();
        policy.create(role("both", &[], &["left", "right"])).unwrap();

        let names: Vec<_> = policy.with_inherited("both").iter().map(|role| role.name.as_str()).collect();
        let permissions: Vec<_> = policy.permissions_of(["both", "nobody"]).into_iter().map(Pattern::as_str).collect();

        assert_eq!(names, ["both", "left", "right", "reader"]);
        assert_eq!(permissions, ["a.b.list", "a.b.read"]);
    }

    #[test]
    fn cycles_are_refused_whatever_their_length() {
        let mut policy = Policy::default();
        policy.create(role("a", &[], &[])).unwrap();
        policy.create(role("b", &[], &["a"])).unwrap();
        policy.create(role("c", &[], &["b"])).unwrap();

        assert_eq!(code(policy.update(role("a", &[], &["a"]))), "inheritance_cycle");
        assert_eq!(code(policy.update(role("a", &[], &["c"]))), "inheritance_cycle");
        assert_eq!(code(policy.create(role("d", &[], &["d"]))), "inheritance_cycle");
        assert_eq!(code(policy.create(role("d", &[], &["nobody"]))), "unknown_role");
        assert!(policy.find("a").unwrap().inherits.is_empty());
    }

    #[test]
    fn inheritance_ends_at_its_depth_from_both_sides() {
        let mut policy = Policy::default();
        policy.create(role("r0", &[], &[])).unwrap();
        for depth in 1..DEPTH_MAX {
            policy.create(role(&format!("r{depth}"), &[], &[&format!("r{}", depth - 1)])).unwrap();
        }
        assert_eq!(code(policy.create(role("r32", &[], &["r31"]))), "inheritance_too_deep");
        policy.create(role("below", &[], &[])).unwrap();
        assert_eq!(code(policy.update(role("r0", &[], &["below"]))), "inheritance_too_deep");
        assert!(policy.find("r32").is_none() && policy.find("r0").unwrap().inherits.is_empty());
    }

    #[test]
    fn what_was_stored_wrongly_still_ends() {
        let policy: Policy = [role("a", &["a.b.c"], &["b"]), role("b", &[], &["a"])].into_iter().collect();
        assert_eq!(policy.with_inherited("a").len(), 2);

        let chain = (0..1_000).map(|depth| role(&format!("r{depth}"), &[], &[&format!("r{}", depth + 1)]));
        let mut policy: Policy = chain.chain([role("r1000", &["a.b.c"], &[])]).collect();
        assert_eq!(policy.permissions_of(["r0"]).len(), 1);
        assert_eq!(code(policy.create(role("top", &[], &["r0"]))), "inheritance_too_deep");
    }

    #[test]
    fn built_in_roles_stay_and_keep_what_they_permit() {
        let mut policy: Policy =
            [role("admin", &["*"], &[]), role("auditor", &["audit.*.read"], &[]), role("x", &["a.b.c"], &[])]
                .into_iter()
                .collect();
        for (change, refused) in [
            (role("admin", &[], &[]), true),
            (role("admin", &["*", "a.b.c"], &[]), true),
            (role("admin", &["*"], &["x"]), true),
            (role("auditor", &[], &[]), true),
            (role("auditor", &["audit.*.read", "a.b.c"], &["x"]), false),
        ] {
            let outcome = policy.update(change.clone());
            assert_eq!(outcome == Err(PolicyError::BuiltIn(change.name.clone())), refused, "{change:?} {outcome:?}");
        }
        assert_eq!(policy.delete(&name("admin")), Err(PolicyError::BuiltIn(name("admin"))));
        assert_eq!(
            policy.delete(&name("x")),
            Err(PolicyError::Inherited { inherited: name("x"), by: name("auditor") })
        );
    }
}
