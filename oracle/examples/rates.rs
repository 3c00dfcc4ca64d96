//! Decisions per second of our engine, of a bare look-up in a hash set, of cedar with grants as data, and of casbin: one
//! thread, questions half of which are allowed, by turns in one run. `trunkline bench authz` runs it.
//!
//! `rates [users] [roles] [permissions] [seconds a side]`

#![allow(clippy::unwrap_used, reason = "it ends where something is wrong")]

use std::collections::{HashMap, HashSet};
use std::hint::black_box;
use std::time::{Duration, Instant};

use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicySet, Request,
    RestrictedExpression,
};
use oracle::domain::{Description, Engine, Pattern, Policy, Principal, Role, RoleName};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// Roles of one user, and permissions of one role.
const ROLES_PER_USER: usize = 3;
const PERMISSIONS_PER_ROLE: usize = 30;
/// Questions that are asked in a circle: more than fit into the caches of a core.
const QUESTIONS: usize = 65_536;
/// Turns; the median counts.
const ROUNDS: usize = 5;
/// Users whose grants cedar is given: its entities take too much memory for all.
const CEDAR_USERS: usize = 1_000;

struct World {
    permissions: Vec<String>,
    roles: Vec<Vec<usize>>,
    users: Vec<Vec<usize>>,
}

impl World {
    fn new(users: usize, roles: usize, permissions: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(7);
        let permissions: Vec<String> =
            (0..permissions).map(|n| format!("s{}.r{}.a{}", n / 100, n / 10 % 10, n % 10)).collect();
        let mut some =
            |count: usize, of: usize| -> Vec<usize> { (0..count).map(|_| rng.random_range(0..of)).collect() };
        let roles: Vec<Vec<usize>> = (0..roles).map(|_| some(PERMISSIONS_PER_ROLE, permissions.len())).collect();
        let users = (0..users).map(|_| some(ROLES_PER_USER, roles.len())).collect();
        Self { permissions, roles, users }
    }

    /// Half are allowed: a permission of one of the user's roles, then any.
    fn questions(&self, users: usize) -> Vec<(u32, String)> {
        let mut rng = StdRng::seed_from_u64(11);
        (0..QUESTIONS)
            .map(|number| {
                let user = rng.random_range(0..users);
                let permission = if number % 2 == 0 {
                    let role = self.users[user][rng.random_range(0..ROLES_PER_USER)];
                    self.roles[role][rng.random_range(0..PERMISSIONS_PER_ROLE)]
                } else {
                    rng.random_range(0..self.permissions.len())
                };
                (u32::try_from(user).unwrap(), self.permissions[permission].clone())
            })
            .collect()
    }

    fn policy(&self) -> Policy {
        let roles = self.roles.iter().enumerate().map(|(number, permissions)| Role {
            name: RoleName::parse("/name", &format!("r{number}")).unwrap(),
            description: Description::default(),
            permissions: permissions.iter().map(|index| Pattern::parse(&self.permissions[*index]).unwrap()).collect(),
            inherits: std::collections::BTreeSet::new(),
            built_in: false,
        });
        roles.collect()
    }
}

/// Asks in a circle for as long; gives answers a second.
fn rate(duration: Duration, questions: &[(u32, String)], mut ask: impl FnMut(u32, &str) -> bool) -> f64 {
    let began = Instant::now();
    let (mut asked, mut allowed) = (0_u64, 0_u64);
    'all: loop {
        for chunk in questions.chunks(256) {
            for (user, permission) in chunk {
                allowed += u64::from(ask(*user, permission));
            }
            asked += chunk.len() as u64;
            if began.elapsed() >= duration {
                break 'all;
            }
        }
    }
    black_box(allowed);
    asked as f64 / began.elapsed().as_secs_f64()
}

struct Cedar {
    authorizer: Authorizer,
    policies: PolicySet,
    entities: Entities,
    action: EntityUid,
}

/// One policy, grants as data: each user bears the set of what they may do.
fn cedar(world: &World) -> Cedar {
    let policies = "permit(principal, action, resource) when { principal.may.contains(context.permission) };";
    let users = world.users.iter().take(CEDAR_USERS).enumerate().map(|(number, roles)| {
        let may: HashSet<usize> = roles.iter().flat_map(|role| world.roles[*role].iter().copied()).collect();
        let may = may.into_iter().map(|index| RestrictedExpression::new_string(world.permissions[index].clone()));
        let attributes = HashMap::from([("may".to_owned(), RestrictedExpression::new_set(may))]);
        Entity::new(uid("User", &number.to_string()), attributes, HashSet::new()).unwrap()
    });
    Cedar {
        authorizer: Authorizer::new(),
        policies: policies.parse().unwrap(),
        entities: Entities::from_entities(users, None).unwrap(),
        action: uid("Action", "do"),
    }
}

fn uid(kind: &str, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.parse::<EntityTypeName>().unwrap(), EntityId::new(id))
}

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).map(|text| text.parse().unwrap()).collect();
    let number = |place: usize, default: usize| numbers.get(place).copied().unwrap_or(default);
    let world = World::new(number(0, 100_000), number(1, 1_000), number(2, 10_000));
    let duration = Duration::from_secs(number(3, 1) as u64);

    let began = Instant::now();
    let engine = Engine::new(world.policy(), [], 1);
    let made_ms = began.elapsed().as_secs_f64() * 1e3;
    let principals: Vec<Principal> = world
        .users
        .iter()
        .map(|roles| {
            let names: Vec<String> = roles.iter().map(|role| format!("r{role}")).collect();
            engine.principal(names.iter().map(String::as_str))
        })
        .collect();
    // The limit: what each user may do, looked up in one set with the same hash.
    let numbered: HashMap<&str, u32, foldhash::fast::RandomState> =
        world.permissions.iter().zip(0..).map(|(name, index)| (name.as_str(), index)).collect();
    let bare: HashSet<(u32, &str), foldhash::fast::RandomState> = world
        .users
        .iter()
        .zip(0..)
        .flat_map(|(roles, user)| {
            let permissions = roles.iter().flat_map(|role| &world.roles[*role]);
            permissions.map(move |index| (user, *index))
        })
        .map(|(user, index)| (user, world.permissions[index].as_str()))
        .collect();
    let per_user: Vec<HashSet<&str, foldhash::fast::RandomState>> = world
        .users
        .iter()
        .map(|roles| {
            roles.iter().flat_map(|role| &world.roles[*role]).map(|index| world.permissions[*index].as_str()).collect()
        })
        .collect();
    assert_eq!(numbered.len(), world.permissions.len(), "permissions have names of their own");
    let cedar = cedar(&world);
    let questions = world.questions(world.users.len());
    let few = world.questions(CEDAR_USERS.min(world.users.len()));

    let ours = |user: u32, permission: &str| engine.decide(&principals[user as usize], permission).unwrap();
    let whole_set = |user: u32, permission: &str| bare.contains(&(user, permission));
    let own_set = |user: u32, permission: &str| per_user[user as usize].contains(permission);
    for (user, permission) in &questions {
        assert_eq!(ours(*user, permission), whole_set(*user, permission), "{user} {permission}");
    }
    let by_cedar = |user: u32, permission: &str| {
        let context = [("permission".to_owned(), RestrictedExpression::new_string(permission.to_owned()))];
        let context = Context::from_pairs(context).unwrap();
        let principal = uid("User", &user.to_string());
        let request = Request::new(principal, cedar.action.clone(), cedar.action.clone(), context, None).unwrap();
        cedar.authorizer.is_authorized(&request, &cedar.policies, &cedar.entities).decision() == Decision::Allow
    };
    for (user, permission) in few.iter().take(1_000) {
        assert_eq!(ours(*user, permission), by_cedar(*user, permission), "{user} {permission}");
    }

    let mut rates: [Vec<f64>; 5] = Default::default();
    for _ in 0..ROUNDS {
        rates[0].push(rate(duration, &questions, ours));
        rates[1].push(rate(duration, &questions, own_set));
        rates[2].push(rate(duration, &questions, whole_set));
        rates[3].push(rate(duration, &few, ours));
        rates[4].push(rate(duration, &few, by_cedar));
    }
    let [ours, own_set, whole_set, ours_few, by_cedar] = rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    });
    println!(
        "in process, one thread: {} users, {} roles, {} permissions; the engine was made in {made_ms:.0} ms",
        world.users.len(),
        world.roles.len(),
        world.permissions.len()
    );
    println!("  {:<44} {ours:>14.0} decisions/s", "engine, uncached");
    println!(
        "  {:<44} {own_set:>14.0} look-ups/s   engine/set {:.2}",
        "bare hash set, one for each user",
        ours / own_set
    );
    println!(
        "  {:<44} {whole_set:>14.0} look-ups/s   engine/set {:.2}",
        "bare hash set, one for all",
        ours / whole_set
    );
    println!("  {:<44} {ours_few:>14.0} decisions/s", format!("engine, the first {CEDAR_USERS} users"));
    println!(
        "  {:<44} {by_cedar:>14.0} decisions/s  engine/cedar {:.1}",
        format!("cedar, grants as data, the first {CEDAR_USERS} users"),
        ours_few / by_cedar
    );
}
