//! Random policies and questions, for those who compare engines. Deliberately not of any engine's own making: roles,
//! inheritance, groups and patterns as plain text.
//!
//! A workspace of its own: casbin and cedar would turn on features of what the services are built from. So authz's domain,
//! which is pure, is taken in by its path.

#[allow(dead_code, reason = "what only the service needs")]
#[path = "../../services/authz/src/domain/mod.rs"]
pub mod domain;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use domain::{Description, GroupHolding, Holdings, Pattern, Policy, Role, RoleName};

/// Words that permissions are made of: few, so that patterns meet.
const WORDS: [[&str; 4]; 3] = [
    ["identity", "audit", "jobs", "auth"],
    ["users", "roles", "entries", "queues"],
    ["read", "create", "delete", "export"],
];

/// A policy with somebody in it, and a question.
#[derive(Clone, Debug)]
pub struct Case {
    /// Name, patterns as somebody would write them, names of inherited roles. Without a cycle: a role inherits earlier ones.
    pub roles: Vec<(String, Vec<String>, Vec<String>)>,
    /// The user's own roles; not each of them exists.
    pub own: Vec<String>,
    /// The user's groups with their roles.
    pub groups: Vec<(String, Vec<String>)>,
    /// `identity.users.read`, without wildcards.
    pub asked: String,
}

impl Case {
    /// One of 2^64, always the same for the same number.
    pub fn random(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let rng = &mut rng;
        let mut roles: Vec<(String, Vec<String>, Vec<String>)> = Vec::new();
        for number in 0..rng.random_range(1..8) {
            let patterns = (0..rng.random_range(0..4)).map(|_| pattern(rng)).collect();
            let inherits = roles.iter().filter(|_| rng.random_bool(0.3)).map(|(name, ..)| name.clone()).collect();
            roles.push((format!("r{number}"), patterns, inherits));
        }
        let mut some = |chance: f64| -> Vec<String> {
            let names = roles.iter().map(|(name, ..)| name.clone()).chain(["gone".to_owned()]);
            names.filter(|_| rng.random_bool(chance)).collect()
        };
        let own = some(0.2);
        let groups = [("g0", 0.1), ("g1", 0.2)].map(|(name, chance)| (name.to_owned(), some(chance)));
        let asked = WORDS.map(|words| words[rng.random_range(0..words.len())]).join(".");
        Self { roles, own, groups: groups.into(), asked }
    }

    /// As authz's domain takes it.
    ///
    /// # Panics
    /// Where a name or pattern is none of authz's, which is never.
    pub fn policy(&self) -> Policy {
        self.roles
            .iter()
            .map(|(name, patterns, inherits)| Role {
                name: RoleName::parse("/name", name).expect("a name"),
                description: Description::default(),
                permissions: patterns.iter().map(|text| Pattern::parse(text).expect("a pattern")).collect(),
                inherits: inherits.iter().map(|name| RoleName::parse("/inherits", name).expect("a name")).collect(),
                built_in: false,
            })
            .collect()
    }

    /// What the user holds.
    pub fn holdings(&self) -> Holdings {
        let groups = self.groups.iter();
        let groups =
            groups.map(|(name, roles)| GroupHolding { id: name.clone(), name: name.clone(), roles: roles.clone() });
        Holdings { counts: true, own: self.own.clone(), groups: groups.collect() }
    }
}

/// Wildcards of each kind, and often none.
fn pattern(rng: &mut StdRng) -> String {
    let words = WORDS.map(|words| words[rng.random_range(0..words.len())]);
    match rng.random_range(0..16) {
        0 => "*".to_owned(),
        1 | 2 => format!("{}.*", words[0]),
        3 | 4 => format!("{}.{}.*", words[0], words[1]),
        5 | 6 => format!("{}.*.{}", words[0], words[2]),
        7 => format!("*.{}.{}", words[1], words[2]),
        8 => format!("*.*.{}", words[2]),
        9 => format!("*.{}.*", words[1]),
        _ => words.join("."),
    }
}
