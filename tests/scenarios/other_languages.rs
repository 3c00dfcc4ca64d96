//! Clients that know NATS and JSON and nothing of ours: another language, another library.

use std::collections::BTreeSet;

use platform_tests::{Setup, jobs, people::Person, python, wait};
use serde_json::{Value, json};

/// How many instances answer a discovery: two of auth, and one of everything else.
const INSTANCES: &str = "7";

#[tokio::test]
async fn python_client_signs_in_over_nats() {
    let platform = Setup::new().start().await;
    let person = Person::registered(&platform.http()).await;

    let printed =
        python::run(&platform.cache(), &platform.user("ops"), "login.py", &[&person.email, &person.password]).await;

    let reply: Value = serde_json::from_str(&printed).unwrap();
    let token = reply["body"]["accessToken"].as_str().expect("signed in");
    let me = platform.http().with_token(token).get("/api/v1/users/me").await.json(200);
    assert_eq!(me["email"], person.email);
}

#[tokio::test]
async fn python_client_reads_a_refused_login_as_a_problem() {
    let platform = Setup::new().start().await;

    let printed =
        python::run(&platform.cache(), &platform.user("ops"), "login.py", &["nobody@example.org", "wrong"]).await;

    let reply: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(reply["headers"]["Nats-Service-Error-Code"], "401");
    assert!(!reply["headers"]["Nats-Service-Error"].as_str().unwrap().is_empty());
    assert_eq!(reply["body"]["code"], "invalid_credentials");
}

#[tokio::test]
async fn python_client_submits_a_job_and_another_does_it() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;

    let printed = python::run(
        &platform.cache(),
        &platform.user("producer"),
        "job_producer.py",
        &["shop", "double", "one", r#"{"n":21}"#],
    )
    .await;
    python::run(&platform.cache(), &platform.user("worker"), "job_worker.py", &["shop", "double", "1"]).await;

    let stored: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(stored, json!({ "stream": "JOBS", "duplicate": false }));
    let job = jobs::job_in(&admin, "one", "SUCCEEDED").await;
    assert_eq!((&job["result"], &job["attempt"]), (&json!({ "doubled": 42 }), &json!(2)));
    assert_eq!((&job["errors"][0]["message"], &job["progress"]), (&json!("not yet"), &json!({ "percent": 50 })));
}

#[tokio::test]
async fn discovery_answers_as_adr_32_says() {
    let platform = Setup::new().instances("auth", 2).start().await;
    Person::registered(&platform.http()).await;

    let printed = python::run(&platform.cache(), &platform.user("ops"), "discover.py", &[INSTANCES]).await;

    let found: Value = serde_json::from_str(&printed).unwrap();
    for (verb, kind) in [("PING", "ping"), ("INFO", "info"), ("STATS", "stats")] {
        let answers = found[verb].as_array().unwrap();
        let names: Vec<&str> = answers.iter().map(|answer| answer["name"].as_str().unwrap()).collect();
        for (name, instances) in [("auth", 2), ("authz", 1), ("identity", 1), ("audit", 1), ("gateway", 1)] {
            let answering = names.iter().filter(|answering| **answering == name).count();
            assert_eq!(answering, instances, "{verb}: instances of {name} among {names:?}");
        }
        let ids: BTreeSet<&str> = answers.iter().map(|answer| answer["id"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), answers.len(), "{verb}: every instance has an id of its own");
        for answer in answers {
            assert_eq!(answer["type"], format!("io.nats.micro.v1.{kind}_response"));
            check_identity(answer);
        }
    }
    for info in found["INFO"].as_array().unwrap() {
        assert!(!text(info, "description").is_empty());
        let mut contracts = subjects::SERVICES.iter().copied().chain([&subjects::GATEWAY]);
        let contract = contracts.find(|service| service.name == text(info, "name"));
        let declared: BTreeSet<&str> =
            contract.expect("declared").endpoints.iter().map(|endpoint| endpoint.subject).collect();
        let announced: BTreeSet<&str> =
            info["endpoints"].as_array().unwrap().iter().map(|endpoint| text(endpoint, "subject")).collect();
        assert_eq!(announced, declared);
        for endpoint in info["endpoints"].as_array().unwrap() {
            assert!(is_name(text(endpoint, "name")));
            assert_eq!(endpoint["queue_group"], info["name"]);
        }
    }
    let mut requests = 0;
    for stats in found["STATS"].as_array().unwrap() {
        assert!(is_time(text(stats, "started")));
        for endpoint in stats["endpoints"].as_array().unwrap() {
            assert!(is_name(text(endpoint, "name")) && text(endpoint, "subject").starts_with("svc."));
            let _may_be_empty = text(endpoint, "last_error");
            for number in ["num_requests", "num_errors", "processing_time", "average_processing_time"] {
                assert!(endpoint[number].is_u64(), "{number} is a whole number: {endpoint}");
            }
            requests += endpoint["num_requests"].as_u64().unwrap();
        }
    }
    assert!(requests >= 1, "the registration was counted");
}

#[tokio::test]
async fn discovery_answers_on_qualified_subjects() {
    let platform = Setup::new().instances("auth", 2).start().await;
    let ops = platform.user("ops").connect().await;

    let both = wait::until("both answer", async || {
        let both = ops.gather("$SRV.PING.auth").await;
        (both.len() >= 2).then_some(both)
    })
    .await;
    let id = both[0]["id"].as_str().unwrap();
    let one = ops.gather(&format!("$SRV.INFO.auth.{id}")).await;
    let nobody = ops.gather("$SRV.PING.nobody").await;

    assert_eq!(both.len(), 2);
    assert_eq!(one.len(), 1);
    assert_eq!(one[0]["id"], id);
    assert!(nobody.is_empty());
}

fn check_identity(answer: &Value) {
    assert!(is_name(text(answer, "name")) && is_name(text(answer, "id")), "{answer}");
    let version: Vec<&str> = text(answer, "version").split('.').collect();
    assert!(version.len() == 3 && version[..2].iter().all(|part| part.parse::<u32>().is_ok()), "{answer}");
    let metadata = answer["metadata"].as_object().expect("metadata is never null");
    assert!(metadata.values().all(Value::is_string), "{answer}");
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|letter| letter.is_ascii_alphanumeric() || "_-".contains(letter))
}

/// RFC 3339 in UTC, as far as a reader of another language cares.
fn is_time(text: &str) -> bool {
    text.len() >= 20 && text.as_bytes()[10] == b'T' && text.ends_with('Z')
}

#[track_caller]
fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("{field} is text: {value}"))
}
