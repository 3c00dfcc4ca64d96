//! Scenario 4: a reader asks the cache; on a miss the repository reads the database, and the next read hits. Concurrent
//! misses of one key read once.

use platform_tests::{Platform, Setup, http::Http, people::Person, traces::Span};

const SERVED: (&str, &str) = ("identity", "endpoint.identity.get_user");
const READ: &str = "storage.user.find";

#[tokio::test]
async fn entity_is_read_on_a_miss_and_the_next_read_hits() {
    let platform = Setup::new().traces().start().await;
    let admin = platform.admin().await;
    platform.hears_changes().await;
    let path = someone(&platform, &admin).await;

    let first = admin.get(&path).await;
    let second = admin.get(&path).await;

    assert_eq!(first.json(200), second.json(200));
    let traces = platform.traces();
    let (miss, hit) = (traces.of_reply(&first, &[SERVED]).await, traces.of_reply(&second, &[SERVED]).await);
    assert!(reads(&miss) == 1 && reads(&hit) == 0, "the first reads the database, the second does not");
    assert!(platform.metric("identity", "trunkline_cache_fills_total{cache=\"users\"}").await >= 1.0);
    assert!(platform.metric("identity", "trunkline_cache_hits_total{cache=\"users\"}").await >= 1.0);
}

#[tokio::test]
async fn concurrent_misses_of_one_key_read_once() {
    let platform = Setup::new().traces().start().await;
    let admin = platform.admin().await;
    platform.hears_changes().await;
    // With that, the decision itself is made beforehand, so that only the entity is missed.
    let path = someone(&platform, &admin).await;

    let replies = futures::future::join_all((0..16).map(|_| admin.get(&path))).await;

    assert!(replies.iter().all(|reply| reply.status == 200));
    let mut read = 0;
    for reply in &replies {
        read += reads(&platform.traces().of_reply(reply, &[SERVED]).await);
    }
    // Who comes after the first has been answered hits; whoever comes before waits for it.
    assert_eq!(read, 1);
}

async fn someone(platform: &Platform, admin: &Http) -> String {
    let person = Person::registered(&platform.http()).await;
    let page = admin.get(&format!("/api/v1/users?query={}", person.email)).await.json(200);
    format!("/api/v1/users/{}", page["items"][0]["id"].as_str().expect("registered"))
}

fn reads(trace: &[Span]) -> usize {
    trace.iter().filter(|span| span.is(&("identity", READ))).count()
}
