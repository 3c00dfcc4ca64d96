//! Scenario 4: a reader asks the cache; on a miss the repository reads the database, and the next read hits. Concurrent
//! misses of one key read once.

use platform_tests::{Platform, Setup, http::Http, people::Person, traces::Span, wait};

const SERVED: &str = "endpoint.identity.get_user";
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
    let (miss, hit) = (trace(&platform, 0).await, trace(&platform, 1).await);
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
    for number in 0..16 {
        read += reads(&trace(&platform, number).await);
    }
    // Who comes after the first has been answered hits; whoever comes before waits for it.
    assert_eq!(read, 1);
}

async fn someone(platform: &Platform, admin: &Http) -> String {
    let person = Person::registered(&platform.http()).await;
    let page = admin.get(&format!("/api/v1/users?query={}", person.email)).await.json(200);
    format!("/api/v1/users/{}", page["items"][0]["id"].as_str().expect("registered"))
}

/// The spans of the request for a user with this number, in the order in which identity answered them. Its endpoint's span
/// ends last.
async fn trace(platform: &Platform, number: usize) -> Vec<Span> {
    wait::until(&format!("the spans of request {number}"), async || {
        let spans = platform.traces().spans();
        let mut served = spans.iter().filter(|span| span.service == "identity" && span.name == SERVED);
        let root = served.nth(number)?;
        Some(spans.iter().filter(|span| span.trace_id == root.trace_id).cloned().collect())
    })
    .await
}

fn reads(trace: &[Span]) -> usize {
    trace.iter().filter(|span| span.is(&("identity", READ))).count()
}
