//! The live tail: what is stored comes, once and in order, to who may see it, and nobody holds it up.

use std::time::Duration;

use async_nats::jetstream;
use platform_tests::http::{Http, Reply};
use platform_tests::people::Person;
use platform_tests::tail::Tail;
use platform_tests::{Platform, Setup, wait};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{edge, shared};

/// The id of the last event that is stored.
async fn last(http: &Http) -> u64 {
    Tail::position(http, "evt.>").await
}

#[tokio::test]
async fn events_come_as_they_are_stored_with_their_attributes() {
    let platform = edge().start().await;
    let admin = platform.admin().await;
    let mut tail = Tail::open(&admin, "evt.identity.*.registered", None).await;

    let person = Person::registered(&platform.http()).await;
    let me = platform.http().signed_in(&person.email, &person.password).await.get("/api/v1/users/me").await.json(200);
    Person::registered(&platform.http()).await;

    let event = tail.event().await;
    assert_eq!(event.event, "identity.user.registered");
    let data = &event.data;
    assert_eq!((&data["type"], &data["specversion"]), (&"identity.user.registered".into(), &"1.0".into()));
    assert_eq!((&data["source"], &data["subject"]), (&"urn:trunkline:service:identity".into(), &me["id"]));
    assert_eq!(data["data"], json!({ "userId": me["id"] }));
    assert_eq!(data["sequence"], event.id.unwrap().to_string());
    assert!(data["time"].as_str().unwrap().ends_with('Z') && !data["id"].as_str().unwrap().is_empty());
    let next = tail.event().await;
    assert_eq!(next.event, "identity.user.registered", "the sign-in between is not covered");
    assert!(next.id > event.id);
}

#[tokio::test]
async fn last_event_id_leaves_out_nothing_and_doubles_nothing() {
    let platform = edge().start().await;
    let (http, admin) = (platform.http(), platform.admin().await);
    for _ in 0..5 {
        Person::registered(&http).await;
    }

    // More comes while what is stored is read.
    let registering = async {
        for _ in 0..25 {
            Person::registered(&http).await;
        }
        platform.settled_outboxes().await;
        last(&admin).await
    };
    let reading = async {
        let mut tails = Vec::new();
        for _ in 0..4 {
            let mut tail = Tail::open(&admin, "evt.>", Some(0)).await;
            let mut ids = Vec::new();
            while ids.len() < 20 {
                ids.push(tail.event().await.id.unwrap());
            }
            tails.push((tail, ids));
        }
        tails
    };
    let (last, tails) = tokio::join!(registering, reading);

    for (mut tail, mut ids) in tails {
        while ids.last() < Some(&last) {
            ids.push(tail.event().await.id.unwrap());
        }
        assert!(ids.iter().copied().eq(1..=last), "each once and in order: {ids:?}");
    }
    let mut resumed = Tail::open(&admin, "evt.>", Some(last - 3)).await;
    assert_eq!(resumed.event().await.id, Some(last - 2));
}

#[tokio::test]
async fn bad_requests_get_clear_answers() {
    let platform = shared().await;
    let (http, admin) = (platform.http(), platform.admin().await);
    let person = Person::registered(&http).await;
    let user = http.signed_in(&person.email, &person.password).await;

    for filter in
        ["evt", "evt.identity", "evt.identity.user", "identity.%3E", "evt.%3E.a", "evt.a.b.c.d", "evt.a+b.%3E"]
    {
        let problem = Tail::refused(&admin, filter, None).await.problem(422, "validation_failed");
        assert_eq!(problem["errors"][0]["pointer"], "/subject", "{filter}");
    }
    let get = async |http: &Http, path: &str, id: Option<&str>| {
        let request = http.request(Method::GET, path);
        Reply::of(id.into_iter().fold(request, |request, id| request.header("last-event-id", id))).await
    };
    let unknown = get(&admin, "/api/v1/events?filter=evt.%3E", None).await.problem(422, "validation_failed");
    assert_eq!(unknown["errors"][0]["pointer"], "/filter");
    get(&admin, "/api/v1/events?subject=evt.%3E&subject=evt.%3E", None).await.problem(400, "duplicate_parameter");
    for id in ["x", "-1", "1.0", "99999999999999999999999"] {
        let problem = get(&admin, "/api/v1/events", Some(id)).await.problem(422, "validation_failed");
        assert_eq!(problem["errors"][0]["pointer"], "/Last-Event-ID", "{id}");
    }
    get(&http, "/api/v1/events", None).await.problem(401, "invalid_token");
    get(&http.with_token("garbage"), "/api/v1/events", None).await.problem(401, "invalid_token");
    for filter in ["evt.%3E", "evt.identity.%3E", "evt.*.user.created"] {
        let problem = Tail::refused(&user, filter, None).await.problem(403, "permission_denied");
        let needed = if filter.contains("identity") { "events.identity.read" } else { "events.*.read" };
        assert!(problem["detail"].as_str().unwrap().contains(needed), "{problem}");
    }
    let posted = admin.post("/api/v1/events", &json!({})).await;
    posted.problem(405, "method_not_allowed");
    let with_body = Reply::of(admin.request(Method::GET, "/api/v1/events").json(&json!({}))).await;
    with_body.problem(400, "unexpected_body");
}

#[tokio::test]
async fn stream_ends_with_its_token_and_says_so() {
    let platform = edge().set("auth.access_token_ttl_ms", "6000").start().await;
    let admin = platform.admin().await;
    let tail = Tail::open(&admin, "evt.>", None).await;

    assert_eq!(tail.end().await.0, "token_expired");
}

#[tokio::test]
async fn stopping_gateway_ends_its_streams_and_says_so() {
    let platform = edge().start().await;
    let admin = platform.admin().await;
    let tail = Tail::open(&admin, "evt.>", None).await;
    let process = platform.process("gateway", 1);

    let (stopped, (reason, _)) = tokio::join!(process.stop(), tail.end());

    stopped.unwrap();
    assert_eq!(reason, "stopping");
    assert_eq!(process.state().last_exit.as_deref(), Some("exit status: 0"));
}

#[tokio::test]
async fn signs_of_life_keep_a_quiet_stream_and_its_connection() {
    let setup = edge().set("gateway.events.heartbeat_ms", "300").set("gateway.idle_timeout_ms", "1000");
    let platform = setup.start().await;
    let admin = platform.admin().await;
    let mut tail = Tail::open(&admin, "evt.nobody.>", None).await;
    let started = std::time::Instant::now();
    let mut beats = 0;

    // Longer than an idle connection is kept.
    while started.elapsed() < Duration::from_secs(3) || beats < 5 {
        let block = tail.block().await.expect("the stream goes on");
        assert!(!block.comment.is_empty() && block.event.is_empty(), "{block:?}");
        beats += 1;
    }
    Person::registered(&platform.http()).await;
    let stored = last(&admin).await;

    wait::until("the position moves on, although nothing is for this client", async || {
        (tail.block().await.expect("the stream goes on").id >= Some(stored)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn stream_ends_before_the_first_event_after_its_permission_was_taken_away() {
    let platform = edge().start().await;
    let admin = platform.admin().await;
    let person = Person::registered(&platform.http()).await;
    let user = platform.http().signed_in(&person.email, &person.password).await;
    let me = user.get("/api/v1/users/me").await.json(200);
    let role = format!("/api/v1/users/{}/roles/admin", me["id"].as_str().unwrap());
    Reply::of(admin.request(Method::PUT, &role)).await.json(200);
    platform.hears_changes().await;
    let mut tail = Tail::open(&user, "evt.identity.user.registered", None).await;
    Person::registered(&platform.http()).await;
    assert!(tail.block().await.expect("it is shown").id.is_some());

    Reply::of(admin.request(Method::DELETE, &role)).await.json(200);
    Person::registered(&platform.http()).await;

    let end = loop {
        let block = tail.block().await.expect("it says why it ends");
        if block.comment.is_empty() {
            break block;
        }
    };
    assert_eq!((end.event.as_str(), &end.data["reason"]), ("end", &"permission_denied".into()), "{end:?}");
    assert!(tail.block().await.is_none());
}

#[tokio::test]
async fn streams_of_one_user_are_bounded() {
    let platform = edge().set("gateway.events.streams_per_user_max", "2").start().await;
    let admin = platform.admin().await;
    let first = Tail::open(&admin, "evt.>", None).await;
    let _second = Tail::open(&admin, "evt.>", None).await;

    let refused = Tail::refused(&admin, "evt.%3E", None).await;

    refused.problem(429, "too_many_streams");
    assert_eq!(refused.header("retry-after"), "5");
    drop(first);
    wait::until("the place is free", async || {
        let probe = Tail::try_open(&admin, "evt.>").await;
        probe.is_some().then_some(())
    })
    .await;
}

#[tokio::test]
async fn reader_that_takes_nothing_is_ended_and_can_come_back() {
    let platform = edge().set("gateway.events.buffer_messages", "16").start().await;
    let admin = platform.admin().await;
    let tail = Tail::open(&admin, "evt.identity.>", None).await;
    let began = last(&admin).await;

    // Far more than the sockets between can hold.
    let identity = jetstream::new(platform.user("identity").connect().await.client);
    let body = json!({ "userId": "x".repeat(200_000) }).to_string();
    let mut stored = Vec::new();
    for _ in 0..100 {
        stored.push(identity.publish("evt.identity.user.registered", body.clone().into()).await.unwrap().into_future());
    }
    for stored in futures::future::join_all(stored).await {
        stored.unwrap();
    }

    let (reason, reached) = tail.end().await;
    assert_eq!(reason, "slow_reader");
    let reached = reached.expect("it had some of them");
    assert!(reached > began && reached < began + 100, "{reached}");
    let mut resumed = Tail::open(&admin, "evt.identity.>", Some(reached)).await;
    for id in reached + 1..=began + 100 {
        assert_eq!(resumed.event().await.id, Some(id));
    }
}

#[tokio::test]
async fn event_that_the_feed_missed_comes_all_the_same() {
    let platform = edge().start().await;
    let (http, admin) = (platform.http(), platform.admin().await);
    let mut tail = Tail::open(&admin, "evt.identity.user.registered", None).await;

    configure(&platform, |config| config["republish"] = Value::Null).await;
    let missed = Person::registered(&http).await;
    platform.settled_outboxes().await;
    configure(&platform, |config| config["republish"] = json!({ "src": "evt.>", "dest": "live.evt.>" })).await;
    Person::registered(&http).await;

    let event = tail.event().await;
    let me = http.signed_in(&missed.email, &missed.password).await.get("/api/v1/users/me").await.json(200);
    assert_eq!(event.data["subject"], me["id"]);
    assert_eq!(tail.event().await.event, "identity.user.registered");
}

#[tokio::test]
async fn sequence_of_another_stream_begins_from_the_start_and_says_so() {
    let platform = edge().start().await;
    let admin = platform.admin().await;
    Person::registered(&platform.http()).await;
    platform.settled_outboxes().await;

    let mut tail = Tail::open(&admin, "evt.>", Some(1_000_000)).await;

    let gap = tail.event().await;
    assert_eq!((gap.event.as_str(), &gap.data["reason"], gap.id), ("gap", &"stream_anew".into(), Some(0)));
    assert_eq!(tail.event().await.id, Some(1));
}

#[tokio::test]
async fn events_that_have_aged_out_are_told_of_as_a_gap() {
    let platform = edge().start().await;
    let (http, admin) = (platform.http(), platform.admin().await);
    for _ in 0..3 {
        Person::registered(&http).await;
    }
    platform.settled_outboxes().await;
    let aged = last(&admin).await;
    let ages = |age: Duration, window: Duration| {
        move |config: &mut Value| {
            config["duplicate_window"] = json!(window.as_nanos());
            config["max_age"] = json!(age.as_nanos());
        }
    };
    configure(&platform, ages(Duration::from_secs(1), Duration::from_secs(1))).await;
    let ops = platform.user("ops").connect().await.client;
    wait::until("all events have aged out", async || {
        let answer = ops.request("$JS.API.STREAM.INFO.EVENTS", "".into()).await.ok()?;
        (serde_json::from_slice::<Value>(&answer.payload).ok()?["state"]["messages"] == 0).then_some(())
    })
    .await;
    configure(&platform, ages(Duration::from_hours(1), Duration::from_mins(2))).await;
    Person::registered(&http).await;
    platform.settled_outboxes().await;

    let mut tail = Tail::open(&admin, "evt.>", Some(1)).await;

    let gap = tail.event().await;
    let first: u64 = gap.data["firstSequence"].as_str().unwrap().parse().unwrap();
    assert_eq!((gap.event.as_str(), &gap.data["reason"], gap.id), ("gap", &"expired".into(), Some(first - 1)));
    assert!(first > aged, "{first} came behind {aged}");
    assert_eq!(tail.event().await.id, Some(first));
}

#[tokio::test]
async fn streams_outlive_a_restart_of_the_broker() {
    let platform = Setup::new().instances("audit", 0).own_servers().start().await;
    let (http, admin) = (platform.http(), platform.admin().await);
    let mut tail = Tail::open(&admin, "evt.identity.user.registered", None).await;
    Person::registered(&http).await;
    let before = tail.event().await.id.unwrap();

    platform.process("nats-server", 1).stop().await.unwrap();
    platform.process("nats-server", 1).start().await.unwrap();
    let person = Person::new();
    wait::until("the platform serves again", async || {
        let reply = http.post("/api/v1/registrations", &person.registration()).await;
        (reply.status == 202).then_some(())
    })
    .await;

    let event = tail.event().await;
    assert!(event.id > Some(before), "{event:?}");
    assert_eq!(event.event, "identity.user.registered");
}

/// Changes the stream of events as its provisioner.
async fn configure(platform: &Platform, change: impl FnOnce(&mut Value)) {
    let provisioner = platform.user("provision").connect().await.client;
    let answer = provisioner.request("$JS.API.STREAM.INFO.EVENTS", "".into()).await.unwrap();
    let mut config = serde_json::from_slice::<Value>(&answer.payload).unwrap()["config"].take();
    change(&mut config);
    let answer = provisioner.request("$JS.API.STREAM.UPDATE.EVENTS", config.to_string().into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer["error"].is_null(), "{answer}");
}
