//! Scenario 5: a service saves, the database confirms, the key is removed from the cache in every instance, and after that
//! the caller hears of success. A read that began before the write cannot put the old value back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use platform_tests::{Platform, Setup, http::Http, people::Person, wait};
use serde_json::{Value, json};

const ENTRIES: &str = "trunkline_cache_entries{cache=\"users\"}";
const DROPPED: &str = "trunkline_cache_invalidations_total{cache=\"users\"}";

/// So long after its caller was told that a change is in force, a machine that stands still for a while may show the old value.
const TOLD_MAX: Duration = Duration::from_secs(5);

/// Writes while others read.
const WRITES: usize = 20;

#[tokio::test]
async fn write_is_seen_by_every_instance_before_its_caller_hears_of_success() {
    let platform = Setup::new().instances("identity", 2).start().await;
    let admin = platform.admin().await;
    let user = someone(&platform, &admin).await;
    platform.hears_changes().await;
    let stale = platform.metric("identity", ENTRIES).await;
    wait::until("both instances have it at hand", async || {
        assert_eq!(admin.get(&user).await.json(200)["state"], "UNVERIFIED");
        (platform.metric("identity", ENTRIES).await >= stale + 2.0).then_some(())
    })
    .await;
    let dropped = platform.metric("identity", DROPPED).await;

    let answer = admin.post(&format!("{user}/disable"), &json!({})).await.json(200);

    assert_eq!(answer["state"], "DISABLED");
    heard_everywhere(&admin, &user, &answer).await;
    for _ in 0..20 {
        assert_eq!(admin.get(&user).await.json(200)["state"], "DISABLED", "in every instance");
    }
    assert!(platform.metric("identity", DROPPED).await >= dropped + 2.0, "dropped in both");
}

#[tokio::test]
async fn no_read_puts_an_old_value_back_while_others_write() {
    let platform = Setup::new().instances("identity", 2).start().await;
    let admin = platform.admin().await;
    let user = someone(&platform, &admin).await;
    platform.hears_changes().await;
    let done = Arc::new(AtomicBool::new(false));
    let readers = futures::future::join_all((0..4).map(|_| {
        let (admin, user, done) = (admin.clone(), user.clone(), Arc::clone(&done));
        async move {
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) {
                admin.get(&user).await.json(200);
                reads += 1;
            }
            reads
        }
    }));
    let writer = async {
        for number in 0..WRITES {
            let (verb, state) =
                if number.is_multiple_of(2) { ("disable", "DISABLED") } else { ("enable", "UNVERIFIED") };
            let answer = admin.post(&format!("{user}/{verb}"), &json!({})).await.json(200);
            heard_everywhere(&admin, &user, &answer).await;
            for _ in 0..4 {
                assert_eq!(admin.get(&user).await.json(200)["state"], state, "after write {number}");
            }
        }
        done.store(true, Ordering::Relaxed);
    };

    let (reads, ()) = futures::future::join(readers, writer).await;

    assert!(reads.iter().sum::<usize>() >= WRITES, "they read meanwhile");
}

/// Whoever is told of success with a token finds the change in force, give or take what the other instance takes to hear what
/// this one has heard. Without one the broker took longer than a change waits, and each instance hears of it in its own time.
async fn heard_everywhere(admin: &Http, user: &str, answer: &Value) {
    let is_told = !answer["consistencyToken"].as_str().unwrap_or_default().is_empty();
    let mut in_a_row = 0;
    let (began, mut last) = (Instant::now(), Duration::ZERO);
    // More than that many answers of one of two instances do not come in a row.
    wait::until("every instance shows it", async || {
        if admin.get(user).await.json(200)["state"] == answer["state"] {
            in_a_row += 1;
        } else {
            (in_a_row, last) = (0, began.elapsed());
        }
        (in_a_row >= 12).then_some(())
    })
    .await;
    assert!(!is_told || last < TOLD_MAX, "the old value was shown {last:?} after the answer: {answer}");
}

async fn someone(platform: &Platform, admin: &Http) -> String {
    let person = Person::registered(&platform.http()).await;
    let page = admin.get(&format!("/api/v1/users?query={}", person.email)).await.json(200);
    format!("/api/v1/users/{}", page["items"][0]["id"].as_str().expect("registered"))
}
