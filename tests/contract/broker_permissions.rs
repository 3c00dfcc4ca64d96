//! What one stolen broker credential can do: what the contract says and nothing else (reliability.md §6.1). Every
//! refusal stands beside something the same user may do, so that refusing everything does not pass.

use platform_tests::{Platform, Setup, wire::Wire};
use subjects::broker::permissions;

/// Subjects that nobody but their owner, or nobody at all, may publish to.
const FOREIGN_PUBLISH: &[&str] = &[
    "$JS.API.STREAM.CREATE.EVIL",
    "$JS.API.STREAM.UPDATE.AUDIT",
    "$JS.API.STREAM.DELETE.AUDIT",
    "$JS.API.STREAM.PURGE.AUDIT",
    "$JS.API.STREAM.MSG.GET.AUDIT",
    "$JS.API.STREAM.MSG.DELETE.AUDIT",
    "$JS.API.STREAM.SNAPSHOT.AUDIT",
    "$JS.API.STREAM.RESTORE.EVIL",
    "$JS.API.DIRECT.GET.AUDIT",
    "$JS.API.DIRECT.GET.EVENTS.evt.config.settings.updated",
    "$JS.API.CONSUMER.CREATE.AUDIT",
    "$JS.API.CONSUMER.CREATE.AUDIT.evil",
    "$JS.API.CONSUMER.DURABLE.CREATE.AUDIT.evil",
    "$JS.API.CONSUMER.DELETE.AUDIT.audit",
    "$KV.config.evil",
    "$SYS.REQ.SERVER.PING",
    "$SYS.REQ.USER.INFO",
    "live.evt.identity.user.registered",
    "evt.evil",
    "evt.config.settings.updated",
    "audit.config.evil",
    "audit.evil",
    "due.mail.send",
    "$JS.API.STREAM.PURGE.JOBS",
    "$JS.API.STREAM.PURGE.SCHEDULES",
    "$JS.API.STREAM.UPDATE.JOBS",
    "$JS.API.STREAM.DELETE.JOBS",
    "$JS.API.STREAM.MSG.DELETE.EVENTS",
    "$JS.API.CONSUMER.CREATE.SCHEDULES.evil",
    "dlq.evt.evil.identity.user.registered",
    "replay.evt.evil",
    "replayed.evt.evil.1",
    "svc.auth.v1.nothing",
    "svc.identity.v1.nothing",
    "svc.evil",
    "anything",
];

/// Subjects that nobody but their owner, or nobody at all, may subscribe to; with the queue group to try.
const FOREIGN_SUBSCRIBE: &[(&str, Option<&str>)] = &[
    (">", None),
    ("*", None),
    ("svc.>", None),
    ("svc.>", Some("auth")),
    ("svc.*.v1.login", None),
    ("_INBOX.>", None),
    ("_INBOX.*.x", None),
    ("_INBOX.*.>", None),
    ("$JS.>", None),
    ("$JS.API.>", None),
    ("$JS.ACK.>", None),
    ("$JS.EVENT.ADVISORY.>", None),
    ("$KV.>", None),
    ("$SYS.>", None),
    ("$SRV.>", None),
    ("evt.>", None),
    ("audit.>", None),
    ("dlq.>", None),
    ("replay.>", None),
    ("replay.evt.audit", None),
    ("replay.evt.audit", Some("evil")),
];

#[tokio::test]
async fn services_publish_only_what_the_contract_says() {
    let platform = Setup::new().without_services().start().await;
    for user in subjects::broker::users().into_iter().filter(|user| *user != subjects::broker::PROVISION) {
        let mut wire = platform.user(user).wire().await;
        let allowed = permissions(user).expect("a user of the contract").publish;

        for subject in FOREIGN_PUBLISH {
            refused(wire.publish(subject, None, b"{}").await, "publish", user, subject);
        }
        // Whatever another user may publish and this one may not.
        for other in subjects::broker::users() {
            for subject in &permissions(other).expect("a user of the contract").publish {
                let subject = literal(subject);
                if !allowed.iter().any(|pattern| matches(pattern, &subject)) {
                    refused(wire.publish(&subject, None, b"{}").await, "publish", user, &subject);
                }
            }
        }

        let inbox = format!("_INBOX.{user}.control");
        if allowed.iter().any(|pattern| matches(pattern, &inbox)) {
            control(&mut wire, user, &inbox).await;
        } else {
            let subject = literal(allowed.first().expect("may publish something"));
            assert_eq!(wire.publish(&subject, None, b"").await.unwrap(), [""; 0], "{user} may publish {subject}");
        }
    }
}

#[tokio::test]
async fn services_subscribe_only_what_the_contract_says() {
    let platform = Setup::new().without_services().start().await;
    for user in subjects::broker::users() {
        let mut wire = platform.user(user).wire().await;

        for (subject, queue) in FOREIGN_SUBSCRIBE {
            refused(wire.subscribe(subject, *queue).await, "subscribe", user, subject);
        }
        for service in subjects::SERVICES {
            let name = service.name;
            let served = format!("svc.{name}.>");
            // Reading along plainly, from a queue group of one's own, or within a foreign one: even one's own subjects.
            refused(wire.subscribe(&served, None).await, "subscribe", user, &served);
            refused(wire.subscribe(&served, Some("evil")).await, "subscribe", user, &served);
            for endpoint in service.endpoints {
                refused(wire.subscribe(endpoint.subject, None).await, "subscribe", user, endpoint.subject);
                if user != name {
                    refused(wire.subscribe(endpoint.subject, Some(name)).await, "subscribe", user, endpoint.subject);
                }
            }
            if user != name {
                for foreign in [
                    format!("_INBOX.{name}.>"),
                    format!("_INBOX.{name}.x"),
                    format!("$SRV.PING.{name}"),
                    format!("$SRV.INFO.{name}.*"),
                    format!("audit.{name}.>"),
                ] {
                    refused(wire.subscribe(&foreign, None).await, "subscribe", user, &foreign);
                }
            }
        }

        // Watching is for who declares it; ops may watch what is live, and nobody may forge or overhear all heartbeats.
        let may = permissions(user).expect("a user of the contract").subscribe;
        for watched in
            ["live.>", "live.evt.>", "live.evt.identity.user.registered", "live.jobs.x", "beat.>", "beat.auth"]
        {
            if !may.iter().any(|pattern| matches(pattern, watched)) {
                refused(wire.subscribe(watched, None).await, "subscribe", user, watched);
            }
        }

        for pattern in permissions(user).expect("a user of the contract").subscribe {
            let (subject, queue) = pattern.split_once(' ').map_or((pattern.as_str(), None), |(s, q)| (s, Some(q)));
            assert_eq!(wire.subscribe(subject, queue).await.unwrap(), [""; 0], "{user} may subscribe {pattern}");
        }
    }
}

#[tokio::test]
async fn events_and_audit_records_are_published_by_their_owner_alone() {
    let platform = Setup::new().without_services().start().await;
    let events = subjects::SERVICES.iter().flat_map(|service| service.events.iter());
    let mut tried = 0;
    for event in events {
        assert!(event.subject.starts_with(&format!("evt.{}.", event.service)));
        for user in subjects::broker::users() {
            let mut wire = platform.user(user).wire().await;
            for subject in [event.subject.to_owned(), format!("audit.{}", event.action())] {
                if user == event.service {
                    // Asked of the permissions and not of the broker: a stored forgery would be one.
                    let allowed = permissions(user).expect("a user of the contract").publish;
                    assert!(allowed.iter().any(|pattern| matches(pattern, &subject)), "{user} owns {subject}");
                } else {
                    refused(wire.publish(&subject, None, b"{}").await, "publish", user, &subject);
                }
                tried += 1;
            }
        }
    }
    assert!(tried > 0, "the contract has events");
}

#[tokio::test]
async fn internal_endpoints_refuse_ops_and_every_caller_they_do_not_name() {
    let platform = Setup::new().start().await;
    let internal = subjects::endpoints()
        .filter_map(|endpoint| match endpoint.access {
            subjects::Access::Internal(callers) => Some((endpoint.subject, callers)),
            _ => None,
        })
        .collect::<Vec<_>>();
    assert!(!internal.is_empty(), "the contract has internal endpoints");

    for (subject, callers) in internal {
        for user in subjects::broker::users() {
            let mut wire = platform.user(user).wire().await;
            let inbox = format!("_INBOX.{user}.answer");
            assert_eq!(wire.subscribe(&inbox, None).await.unwrap(), [""; 0]);
            let answer = wire.publish(subject, Some(&inbox), b"{}").await;
            if callers.contains(&user) {
                assert_eq!(answer.unwrap(), [""; 0], "{user} may call {subject}");
                let answered = wire.next_message(platform_tests::wait::WAIT_MAX).await.unwrap();
                assert!(answered.is_some(), "{subject} answers {user}");
            } else {
                refused(answer, "publish", user, subject);
            }
        }
    }
}

#[tokio::test]
async fn nobody_connects_without_a_key_of_the_platform() {
    let platform = Setup::new().without_services().start().await;
    let url = &platform.user("ops").url;
    let stranger = nkeys::KeyPair::new_user().seed().unwrap();

    assert!(Wire::connect(url, None).await.is_err(), "without a key");
    assert!(Wire::connect(url, Some(&stranger)).await.is_err(), "with a key of nobody's");
    assert!(Wire::connect(url, Some(&platform.user("ops").seed)).await.is_ok(), "with the key of ops");
}

#[tokio::test]
async fn no_stream_captures_requests_or_answers() {
    let platform = Setup::new().without_services().start().await;

    let streams = streams(&platform).await;

    let names: Vec<&str> = streams.iter().map(|stream| stream["config"]["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"EVENTS") && names.contains(&"AUDIT"), "{names:?}");
    for stream in &streams {
        let config = &stream["config"];
        for subject in config["subjects"].as_array().into_iter().flatten() {
            let subject = subject.as_str().unwrap();
            for endpoint in subjects::endpoints() {
                assert!(!matches(subject, endpoint.subject), "{subject} of {config} captures {}", endpoint.subject);
            }
            let first = subject.split('.').next().unwrap();
            assert!(!["svc", "_INBOX", "$SRV", "*", ">"].contains(&first), "{config} captures {subject}");
        }
        assert!(config["mirror"].is_null(), "{config} takes from elsewhere");
        assert_eq!(config["storage"], "file");
        let (unremovable, unpurgeable) = (config["deny_delete"] == true, config["deny_purge"] == true);
        match config["name"].as_str().unwrap() {
            // DESIGN.md §7: the jobs service takes single jobs out, and purges what was given up.
            "SCHEDULES" => {
                assert!(config["sources"].is_null() && config["discard"] == "old", "{config}");
                for bound in ["max_bytes", "max_msgs", "max_age"] {
                    assert!(config[bound].as_i64().is_none_or(|bound| bound <= 0), "{config} would lose schedules");
                }
                continue;
            }
            "JOBS" => {
                assert_eq!(config["sources"].as_array().map(Vec::len), Some(1), "{config}");
                assert_eq!(config["sources"][0]["name"], "SCHEDULES");
                assert!(
                    unpurgeable && config["allow_rollup_hdrs"] != true && config["allow_msg_ttl"] != true,
                    "{config}"
                );
            }
            "JOBS_DLQ" => assert!(config["sources"].is_null() && unremovable, "{config}"),
            // DESIGN.md §6: nothing stored is lost or removed by hand.
            _ => assert!(config["sources"].is_null() && unremovable && unpurgeable, "{config}"),
        }
        assert_eq!(config["discard"], "new");
        assert!(config["max_bytes"].as_i64().is_some_and(|bytes| bytes > 0), "{config} is bounded");
    }
}

async fn streams(platform: &Platform) -> Vec<serde_json::Value> {
    let ops = platform.user("ops").connect().await;
    let answer = ops.client.request("$JS.API.STREAM.LIST", "".into()).await.expect("ops looks at streams");
    let list: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    list["streams"].as_array().expect("streams").clone()
}

/// Publishes to itself and reads it: the connection works and its user may do what it should.
async fn control(wire: &mut Wire, user: &str, inbox: &str) {
    assert_eq!(wire.subscribe(inbox, None).await.unwrap(), [""; 0], "{user} reads its own inbox");
    assert_eq!(wire.publish(inbox, None, b"control").await.unwrap(), [""; 0], "{user} answers into inboxes");
    let message = wire.next_message(platform_tests::wait::WAIT_MAX).await.unwrap();
    assert_eq!(message.expect("delivered").payload, b"control", "{user}");
}

#[track_caller]
fn refused(answer: anyhow::Result<Vec<String>>, what: &str, user: &str, subject: &str) {
    let said = answer.unwrap_or_else(|error| panic!("{user}, {what} {subject}: the connection broke: {error:#}"));
    let violation = said.iter().any(|line| line.to_lowercase().contains("permissions violation"));
    assert!(violation, "{user} may {what} {subject}: the broker said {said:?}");
}

/// A subject that the pattern covers.
fn literal(pattern: &str) -> String {
    pattern.replace(['*', '>'], "x")
}

/// Whether a subject pattern covers a literal subject.
fn matches(pattern: &str, subject: &str) -> bool {
    let mut words = subject.split('.');
    for part in pattern.split('.') {
        match (part, words.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (part, Some(word)) if part == word => {}
            _ => return false,
        }
    }
    words.next().is_none()
}
