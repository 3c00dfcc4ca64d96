//! Why a user may or may not: the way from the user to the permission, what comes close, and what would change it.
//!
//! Walks the policy itself rather than what the engine has worked out from it, so that the two prove each other.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Engine, GroupHolding, Holdings, Pattern, Policy, Role};

/// Near misses at most, of each kind.
const NEAR_MISSES_MAX: usize = 5;

/// Names told in a hint at most.
const NAMES_MAX: usize = 3;

/// The answer with its reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The answer.
    pub allowed: bool,
    /// A shortest way, where allowed; else empty.
    pub path: Vec<Step>,
    /// Where denied: roles that permit it and are not held, then what is held and comes close. Where allowed: the other ways.
    pub near_misses: Vec<NearMiss>,
    /// What would change the answer.
    pub hint: String,
}

/// A step of a way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A group that the user is in.
    Group {
        /// A UUID.
        id: String,
        /// What people call it.
        name: String,
    },
    /// A role: held by the user or the group, or inherited by the role before it.
    Role(String),
    /// What the role before it permits.
    Permission(String),
}

/// Something that nearly makes, or also makes, the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearMiss {
    /// What.
    pub step: Step,
    /// In which way.
    pub detail: String,
}

/// One way from the user to the permission.
struct Way<'a> {
    group: Option<&'a GroupHolding>,
    line: Vec<&'a Role>,
    pattern: &'a Pattern,
}

/// Explains whether these holdings permit all that `asked` covers.
pub fn explain(engine: &Engine, held: &Holdings, asked: &Pattern) -> Explanation {
    if !held.counts {
        return Explanation {
            allowed: false,
            path: Vec::new(),
            near_misses: Vec::new(),
            hint: "There is no such user, or they are disabled: then nothing is permitted. Enable the user first."
                .to_owned(),
        };
    }
    let ways = find_ways(engine.policy(), held, asked);
    if let Some(shortest) = ways.iter().min_by_key(|way| way.line.len() + usize::from(way.group.is_some())) {
        return Explanation {
            allowed: true,
            path: shortest.steps(),
            near_misses: other_ways(&ways, shortest),
            hint: how_to_deny(&ways),
        };
    }
    let mut missing = engine.roles_that_permit(asked);
    // The least that would do comes first.
    missing.sort_by_cached_key(|role| {
        engine.policy().permissions_of([role.name.as_str()]).into_iter().map(Pattern::breadth).sum::<u64>()
    });
    Explanation {
        allowed: false,
        path: Vec::new(),
        near_misses: near_misses(engine.policy(), held, asked, &missing),
        hint: how_to_allow(engine.policy(), held, asked, &missing),
    }
}

impl Way<'_> {
    fn steps(&self) -> Vec<Step> {
        let group = self.group.map(|group| Step::Group { id: group.id.clone(), name: group.name.clone() });
        let roles = self.line.iter().map(|role| Step::Role(role.name.to_string()));
        group.into_iter().chain(roles).chain([Step::Permission(self.pattern.as_str().to_owned())]).collect()
    }

    /// Whether both begin with the same group and role.
    fn begins_as(&self, other: &Self) -> bool {
        self.line.first().map(|role| &role.name) == other.line.first().map(|role| &role.name)
            && self.group.map(|group| &group.id) == other.group.map(|group| &group.id)
    }
}

/// For each held role, of the user's own and of each group, the shortest way through it, if there is one.
fn find_ways<'a>(policy: &'a Policy, held: &'a Holdings, asked: &Pattern) -> Vec<Way<'a>> {
    let mut lines: HashMap<&str, Option<(Vec<&Role>, &Pattern)>> = HashMap::new();
    let mut ways = Vec::new();
    let own = held.own.iter().map(|role| (None, role));
    let by_groups = held.groups.iter().flat_map(|group| group.roles.iter().map(move |role| (Some(group), role)));
    for (group, role) in own.chain(by_groups) {
        let line = lines.entry(role).or_insert_with(|| find_line(policy, role, asked));
        if let Some((line, pattern)) = line.clone() {
            ways.push(Way { group, line, pattern });
        }
    }
    ways
}

/// The shortest line of inheritance from a role to one that itself permits what is asked.
fn find_line<'a>(policy: &'a Policy, from: &str, asked: &Pattern) -> Option<(Vec<&'a Role>, &'a Pattern)> {
    let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
    // Nearest first, so the first that permits ends a shortest line.
    let reached = policy.with_inherited(from);
    let (place, pattern) = reached.iter().enumerate().find_map(|(place, role)| {
        role.permissions.iter().find(|pattern| pattern.covers(asked)).map(|pattern| (place, pattern))
    })?;
    for role in &reached {
        for inherited in &role.inherits {
            came_from.entry(inherited.as_str()).or_insert(role.name.as_str());
        }
    }
    let mut line = vec![reached[place]];
    while let Some(role) = line.last().filter(|role| role.name.as_str() != from) {
        line.push(policy.find(came_from.get(role.name.as_str())?)?);
    }
    line.reverse();
    Some((line, pattern))
}

fn other_ways(ways: &[Way<'_>], shortest: &Way<'_>) -> Vec<NearMiss> {
    let others = ways.iter().filter(|way| !way.begins_as(shortest)).take(2 * NEAR_MISSES_MAX);
    others
        .filter_map(|way| {
            let role = way.line.first()?;
            let detail = match way.group {
                Some(group) => format!("permits it too, by the group {}", group.name),
                None => "permits it too".to_owned(),
            };
            Some(NearMiss { step: Step::Role(role.name.to_string()), detail })
        })
        .collect()
}

fn near_misses(policy: &Policy, held: &Holdings, asked: &Pattern, missing: &[&Role]) -> Vec<NearMiss> {
    let not_held = missing.iter().take(NEAR_MISSES_MAX).map(|role| NearMiss {
        step: Step::Role(role.name.to_string()),
        detail: "permits it, and the user does not hold it".to_owned(),
    });
    let names: BTreeSet<&str> = held.roles().collect();
    let gone = names.iter().filter(|name| policy.find(name).is_none()).take(NEAR_MISSES_MAX).map(|name| NearMiss {
        step: Step::Role((*name).to_owned()),
        detail: "is held, and there is no such role".to_owned(),
    });
    let permitted = policy.permissions_of(names.iter().copied());
    let close = permitted.iter().filter(|pattern| pattern.distance(asked) <= 1).take(NEAR_MISSES_MAX);
    let close = close.map(|pattern| NearMiss {
        step: Step::Permission(pattern.as_str().to_owned()),
        detail: if pattern.distance(asked) == 0 {
            "is permitted, and is only some of what is asked".to_owned()
        } else {
            "is permitted, and differs in one word".to_owned()
        },
    });
    not_held.chain(gone).chain(close).collect()
}

fn how_to_deny(ways: &[Way<'_>]) -> String {
    let sources: BTreeSet<String> = ways
        .iter()
        .filter_map(|way| {
            let role = &way.line.first()?.name;
            Some(match way.group {
                Some(group) => format!("the role {role} by the group {}", group.name),
                None => format!("the role {role}"),
            })
        })
        .collect();
    format!("It is denied once the user has lost {}.", list(sources.iter().map(String::as_str), "and"))
}

fn how_to_allow(policy: &Policy, held: &Holdings, asked: &Pattern, missing: &[&Role]) -> String {
    let asked = asked.as_str();
    let mut ways = Vec::new();
    if !missing.is_empty() {
        let names = list(missing.iter().take(NAMES_MAX).map(|role| role.name.as_str()), "or");
        ways.push(format!("assign the role {names} to the user or to a group of theirs"));
    }
    let held: BTreeSet<&str> = held.roles().filter(|name| policy.find(name).is_some()).collect();
    match held.first() {
        Some(role) => ways.push(format!("grant {asked} to a role that the user holds, such as {role}")),
        None if missing.is_empty() => ways.push(format!("grant {asked} to a role and assign that to the user")),
        None => {}
    }
    format!("To permit it, {}.", ways.join(", or "))
}

/// `a`, `a or b`, `a, b or c`.
fn list<'a>(names: impl Iterator<Item = &'a str>, word: &str) -> String {
    let names: Vec<&str> = names.collect();
    match names.as_slice() {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} {word} {last}", first.join(", ")),
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
        Engine::new(policy.collect(), [], 1)
    }

    fn held(own: &[&str], groups: &[(&str, &[&str])]) -> Holdings {
        let texts = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Holdings {
            counts: true,
            own: texts(own),
            groups: groups
                .iter()
                .map(|(name, roles)| GroupHolding {
                    id: format!("id of {name}"),
                    name: (*name).to_owned(),
                    roles: texts(roles),
                })
                .collect(),
        }
    }

    fn asked(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    fn role(name: &str) -> Step {
        Step::Role(name.to_owned())
    }

    fn permission(name: &str) -> Step {
        Step::Permission(name.to_owned())
    }

    const ROLES: &[(&str, &[&str], &[&str])] = &[
        ("admin", &["*"], &[]),
        ("auditor", &["audit.*.read"], &[]),
        ("lead", &["identity.users.create"], &["support"]),
        ("support", &["identity.users.read"], &["auditor"]),
    ];

    #[test]
    fn the_path_goes_through_groups_and_inheritance_to_the_pattern() {
        let told = explain(&engine(ROLES), &held(&[], &[("Second line", &["lead"])]), &asked("audit.entries.read"));

        assert!(told.allowed);
        let group = Step::Group { id: "id of Second line".to_owned(), name: "Second line".to_owned() };
        assert_eq!(told.path, [group, role("lead"), role("support"), role("auditor"), permission("audit.*.read")]);
        assert_eq!(told.hint, "It is denied once the user has lost the role lead by the group Second line.");
    }

    #[test]
    fn the_shortest_way_is_told_and_the_others_are_near() {
        let told = explain(
            &engine(ROLES),
            &held(&["lead"], &[("Audit", &["auditor", "support"])]),
            &asked("audit.entries.read"),
        );

        assert_eq!(told.path.len(), 3, "by the group: {:?}", told.path);
        let near: Vec<_> = told.near_misses.iter().map(|near| near.step.clone()).collect();
        assert_eq!(near, [role("lead"), role("support")]);
        assert_eq!(
            told.hint,
            "It is denied once the user has lost the role auditor by the group Audit, the role lead and the role support by \
             the group Audit."
        );
    }

    #[test]
    fn a_denial_tells_what_is_missing_and_what_comes_close() {
        let told = explain(&engine(ROLES), &held(&["support", "gone"], &[]), &asked("identity.users.create"));

        assert!(!told.allowed && told.path.is_empty());
        let near: Vec<_> = told.near_misses.iter().map(|near| near.step.clone()).collect();
        assert_eq!(near, [role("lead"), role("admin"), role("gone"), permission("identity.users.read")]);
        assert_eq!(
            told.hint,
            "To permit it, assign the role lead or admin to the user or to a group of theirs, or grant identity.users.create \
             to a role that the user holds, such as support."
        );
    }

    #[test]
    fn who_does_not_count_and_who_holds_nothing_are_told_so() {
        let engine = engine(&[("auditor", &["audit.*.read"], &[])]);

        let nobody = explain(&engine, &Holdings::default(), &asked("audit.entries.read"));
        assert!(!nobody.allowed && nobody.hint.starts_with("There is no such user"));
        let nothing = explain(&engine, &held(&[], &[]), &asked("identity.users.read"));
        assert_eq!(nothing.hint, "To permit it, grant identity.users.read to a role and assign that to the user.");
    }
}
