//! On random policies: the same answers as casbin's, which knows nothing of how ours are found; and what is explained is
//! what is decided.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use casbin::{CoreApi as _, DefaultModel, Enforcer, MemoryAdapter, MgmtApi as _};
use oracle::Case;
use oracle::domain::{Engine, Holdings, Pattern, Step, explain};

/// Policies; `ORACLE_POLICIES` sets another number.
const POLICIES: u64 = 10_000;

/// Roles by `g`; patterns as regular expressions, so that nothing of our matching is in it.
const MODEL: &str = "
[request_definition]
r = sub, perm
[policy_definition]
p = sub, pattern
[role_definition]
g = _, _
[policy_effect]
e = some(where (p.eft == allow))
[matchers]
m = g(r.sub, p.sub) && regexMatch(r.perm, p.pattern)
";

/// A last `*` is all the rest, any other is one word.
fn regular_expression(pattern: &str) -> String {
    let words: Vec<&str> = pattern.split('.').collect();
    let (last, front) = words.split_last().unwrap();
    let front = front.iter().map(|word| if *word == "*" { r"[^.]+" } else { word });
    let words: Vec<&str> = front.chain([if *last == "*" { ".+" } else { last }]).collect();
    format!("^{}$", words.join(r"\."))
}

async fn ask_casbin(enforcer: &mut Enforcer, case: &Case) -> bool {
    enforcer.clear_policy().await.unwrap();
    let row = |one: &str, other: &str| vec![one.to_owned(), other.to_owned()];
    let (mut permits, mut holds) = (Vec::new(), Vec::new());
    for (name, patterns, inherits) in &case.roles {
        permits.extend(patterns.iter().map(|pattern| row(name, &regular_expression(pattern))));
        holds.extend(inherits.iter().map(|inherited| row(name, inherited)));
    }
    holds.extend(case.own.iter().map(|role| row("user", role)));
    for (group, roles) in &case.groups {
        holds.push(row("user", group));
        holds.extend(roles.iter().map(|role| row(group, role)));
    }
    permits.sort();
    permits.dedup();
    enforcer.add_policies(permits).await.unwrap();
    enforcer.add_grouping_policies(holds).await.unwrap();
    enforcer.enforce(("user", case.asked.as_str())).unwrap()
}

#[tokio::test]
async fn answers_are_casbins_and_explanations_agree() {
    let model = DefaultModel::from_str(MODEL).await.unwrap();
    let mut enforcer = Enforcer::new(model, MemoryAdapter::default()).await.unwrap();
    let policies = std::env::var("ORACLE_POLICIES").map_or(POLICIES, |text| text.parse().unwrap());
    let mut allowed = 0;

    for seed in 0..policies {
        let case = Case::random(seed);
        let asked = Pattern::parse(&case.asked).unwrap();
        let held = case.holdings();
        let engine = Engine::new(case.policy(), [], seed);
        // Asked as one that the engine has worked out beforehand, too.
        let prepared = Engine::new(case.policy(), [&asked], seed);

        let ours = engine.decide(&engine.principal(held.roles()), &case.asked).unwrap();
        let ours_prepared = prepared.decide(&prepared.principal(held.roles()), &case.asked).unwrap();
        let theirs = ask_casbin(&mut enforcer, &case).await;
        let told = explain(&engine, &held, &asked);

        assert_eq!((ours, ours_prepared, told.allowed), (theirs, theirs, theirs), "{seed}: {case:?}");
        assert_eq!(told.path.is_empty(), !ours, "{seed}: {told:?}");
        check_what_would_change_it(&engine, &held, &asked, &case);
        allowed += u64::from(ours);
    }

    assert!(allowed > policies / 10 && allowed < policies - policies / 10, "{allowed} of {policies} are allowed");
}

/// What an explanation offers does what it says: a near role, held, permits; without every way's first role, it is denied.
fn check_what_would_change_it(engine: &Engine, held: &Holdings, asked: &Pattern, case: &Case) {
    let told = explain(engine, held, asked);
    if told.allowed {
        let (Some(Step::Role(first)), Some(Step::Permission(pattern))) =
            (told.path.iter().find(|step| matches!(step, Step::Role(_))), told.path.last())
        else {
            panic!("{case:?}: {told:?}");
        };
        assert!(held.roles().any(|role| role == first) && Pattern::parse(pattern).unwrap().covers(asked), "{told:?}");
        let others: Vec<&String> = told
            .near_misses
            .iter()
            .filter_map(|near| if let Step::Role(name) = &near.step { Some(name) } else { None })
            .chain([first])
            .collect();
        let left: Vec<&str> = held.roles().filter(|role| !others.iter().any(|other| other == role)).collect();
        assert_eq!(engine.decide(&engine.principal(left), asked.as_str()), Ok(false), "{case:?}: {told:?}");
    } else {
        for near in told.near_misses.iter().filter(|near| near.detail.starts_with("permits")) {
            let Step::Role(name) = &near.step else { panic!("{told:?}") };
            let with: Vec<&str> = held.roles().chain([name.as_str()]).collect();
            assert_eq!(engine.decide(&engine.principal(with), asked.as_str()), Ok(true), "{case:?}: {told:?}");
        }
    }
}
