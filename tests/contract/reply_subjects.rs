//! The confused deputy: a caller names a reply subject that the responder, not the caller, may publish to
//! (reliability.md §0.3). Such requests are dropped and counted; nothing is published on the caller's behalf.

use platform_tests::{Platform, Setup, wait};

/// Reply subjects with which auth would harm itself or others. The last ones auth's own user may even publish to, so
/// only the kernel stands before them.
const TRICKS: &[&str] = &[
    "$JS.API.STREAM.PURGE.AUDIT",
    "$JS.API.STREAM.DELETE.AUDIT",
    "svc.identity.v1.register",
    "$KV.config.auth",
    "live.evt.auth.session.created",
    "evt.auth.session.created",
    "audit.auth.session.created",
    "_INBOX",
    "_INBOXES.x",
];

#[tokio::test]
async fn requests_that_want_their_answer_elsewhere_are_dropped() {
    let platform = Setup::new().start().await;
    platform.admin().await;
    platform.settled().await;
    let before = stored(&platform).await;
    let mut ops = platform.user("ops").wire().await;

    for trick in TRICKS {
        let said = ops.publish("svc.auth.v1.get_jwks", Some(trick), b"{}").await.unwrap();
        assert_eq!(said, [""; 0], "the broker lets {trick} pass: it judges subjects, not replies");
    }

    // The same request with an inbox of its own is answered, after those before it on this connection.
    let inbox = "_INBOX.ops.control";
    assert_eq!(ops.subscribe(inbox, None).await.unwrap(), [""; 0]);
    ops.publish("svc.auth.v1.get_jwks", Some(inbox), b"{}").await.unwrap();
    let answer = ops.next_message(wait::WAIT_MAX).await.unwrap().expect("an honest request is answered");
    assert!(String::from_utf8_lossy(&answer.payload).contains("keys"));
    assert_eq!(stored(&platform).await, before, "nothing was purged, deleted or forged");
    let counted = platform.metric("auth", "dropped").await;
    assert!(counted >= f64::from(u8::try_from(TRICKS.len()).unwrap()), "dropped requests are counted: {counted}");
}

#[tokio::test]
async fn requests_without_a_reply_subject_have_no_effect() {
    let platform = Setup::new().start().await;
    let person = platform_tests::people::Person::new();
    let mut ops = platform.user("ops").wire().await;

    ops.publish("svc.identity.v1.register", None, person.registration().to_string().as_bytes()).await.unwrap();

    // An honest registration after it on the same connection is served; by then the other would have been too.
    let control = platform_tests::people::Person::new();
    let broker = platform.user("ops").connect().await;
    broker.call("svc.identity.v1.register", &control.registration()).await.json();
    let mut database = platform.superuser().await;
    let users: Vec<String> = sqlx::query_scalar("SELECT email FROM identity.users WHERE email = ANY($1)")
        .bind([person.email, control.email.clone()])
        .fetch_all(&mut database)
        .await
        .unwrap();
    assert_eq!(users, [control.email]);
}

/// Messages in each stream: (first, last) sequence.
async fn stored(platform: &Platform) -> Vec<(u64, u64)> {
    let ops = platform.user("ops").connect().await;
    let mut stored = Vec::new();
    for stream in ["AUDIT", "EVENTS"] {
        let answer = ops.client.request(format!("$JS.API.STREAM.INFO.{stream}"), "".into()).await.expect("answered");
        let info: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
        let number = |name: &str| info["state"][name].as_u64().unwrap_or_else(|| panic!("{stream}: {info}"));
        stored.push((number("first_seq"), number("last_seq")));
    }
    stored
}
