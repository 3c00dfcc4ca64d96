//! The samples for producers and workers in other languages do what the documentation says of them.

use platform_tests::broker::User;
use platform_tests::{Platform, Setup, http::Http, jobs, node, python, wait};
use serde_json::{Value, json};

const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/jobs");

const ORDER: &str = r#"{"items":[{"price":1.5,"count":2}]}"#;
const EMPTY_ORDER: &str = r#"{"items":[]}"#;

#[tokio::test]
async fn python_samples_submit_orders_and_work_them_off() {
    let platform = Setup::new().start().await;
    let cache = platform.cache();
    let run = async |user: User, sample: &str, argument: &str| {
        python::run(&cache, &user, &format!("{SAMPLES}/python/{sample}.py"), &[argument]).await
    };

    let (_worked, ids) = tokio::join!(run(platform.user("worker"), "worker", "2"), async {
        let producer = platform.user("producer");
        [run(producer.clone(), "producer", ORDER).await, run(producer, "producer", EMPTY_ORDER).await]
    });

    check_orders(&platform.admin().await, ids).await;
}

#[tokio::test]
async fn typescript_samples_submit_orders_and_work_them_off() {
    let platform = Setup::new().start().await;
    let cache = platform.cache();
    let run = async |user: User, sample: &str, argument: &str| node::run(&cache, &user, sample, &[argument]).await;

    let (_worked, ids) = tokio::join!(run(platform.user("worker"), "worker", "2"), async {
        let producer = platform.user("producer");
        [run(producer.clone(), "producer", ORDER).await, run(producer, "producer", EMPTY_ORDER).await]
    });

    check_orders(&platform.admin().await, ids).await;
}

#[tokio::test]
async fn go_samples_are_go() {
    let cache = platform_tests::servers::cache();
    let files = ["producer", "worker"].map(|sample| format!("{SAMPLES}/go/{sample}/main.go"));

    python::parse_go(&cache, &files.each_ref().map(String::as_str)).await;
}

/// Runs them where the `nats` CLI is installed, and has them read by the shell anywhere.
#[tokio::test]
async fn shell_samples_submit_orders_and_work_them_off() {
    for sample in ["producer", "worker", "total"] {
        let script = format!("{SAMPLES}/shell/{sample}.sh");
        let read = tokio::process::Command::new("bash").args(["-n", &script]).status().await.unwrap();
        assert!(read.success(), "{sample}");
    }
    let is_there = tokio::process::Command::new("nats").arg("--version").output().await.is_ok();
    if !is_there {
        return;
    }

    let platform = Setup::new().start().await;
    let _worker = shell(&platform, "worker", "worker", &[]).spawn().unwrap();
    let stored = shell(&platform, "producer", "producer", &[ORDER, "one"]).output().await.unwrap();

    let stored: Value = serde_json::from_slice(&stored.stdout).unwrap();
    assert_eq!(stored["stream"], "JOBS");
    let job = jobs::job_in(&platform.admin().await, "one", "SUCCEEDED").await;
    assert_eq!(job["result"], json!({ "total": 3 }));
}

fn shell(platform: &Platform, user: &str, sample: &str, arguments: &[&str]) -> tokio::process::Command {
    let user = platform.user(user);
    let mut command = tokio::process::Command::new("bash");
    command.arg(format!("{SAMPLES}/shell/{sample}.sh")).args(arguments).kill_on_drop(true);
    command.env("NATS_URL", &user.url).env("NATS_NKEY", &user.key_file);
    command
}

/// The first is an order that is done, the second one of which no attempt can make anything.
async fn check_orders(admin: &Http, ids: [String; 2]) {
    let [done, useless] = ids.map(|printed| printed.trim().to_owned());
    let job = jobs::job_in(admin, &done, "SUCCEEDED").await;
    assert_eq!(job["result"]["total"].as_f64(), Some(3.0));
    assert_eq!(job["progress"], json!({ "percent": 50 }));
    assert_eq!(job["maxAttempts"], 5);
    let letter = wait::until("the useless order is a dead letter", async || {
        let reply = admin.get(&format!("/api/v1/dead-letters/{useless}")).await;
        (reply.status == 200).then(|| reply.json(200))
    })
    .await;
    assert_eq!((&letter["reason"], &letter["attempt"]), (&json!("PERMANENT"), &json!(1)), "{letter}");
}
