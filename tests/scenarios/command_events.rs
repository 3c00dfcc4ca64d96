//! `trunkline events tail` as a person uses it: everything that is kept, then what comes, through a restart too.

use std::process::Stdio;

use platform_tests::{build, command::Up, http::Http, people::Person, wait};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};

#[tokio::test]
async fn tail_shows_what_is_kept_and_what_comes_and_survives_the_gateway() {
    let up = Up::start(&["--set", "gateway.rate_limits.enabled=false"]).await;
    let admin: Value = serde_json::from_slice(&std::fs::read(up.data().join("admin.json")).unwrap()).unwrap();
    let http = Http::new(admin["gatewayUrl"].as_str().unwrap());
    let person = Person::registered(&http).await;
    let me = http.signed_in(&person.email, &person.password).await.get("/api/v1/users/me").await.json(200);

    // What is kept, as lines and as JSON.
    let kept = ["events", "tail", "--since", "0", "--subject", "evt.identity.user.registered", "--count", "1"];
    let line = up.command(&kept).await;
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!((words[2], words[3]), ("identity.user.registered", me["id"].as_str().unwrap()), "{line}");
    let json: Value = serde_json::from_str(&up.command(&[&kept[..], &["--json"]].concat()).await).unwrap();
    assert_eq!((&json["type"], &json["sequence"]), (&"identity.user.registered".into(), &words[0].into()));

    // What comes, across the end of the gateway that showed it.
    let mut tail = tokio::process::Command::new(build::command().await)
        .args(["events", "tail", "--json", "--subject", "evt.identity.>", "--data"])
        .arg(up.data())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    let mut next = async || {
        let line = tokio::time::timeout(wait::WAIT_MAX, lines.next_line()).await.expect("a line comes").unwrap();
        serde_json::from_str::<Value>(&line.expect("the tail goes on")).unwrap()["sequence"]
            .as_str()
            .and_then(|sequence| sequence.parse::<u64>().ok())
            .expect("a sequence")
    };
    let gateway = admin["processes"].as_array().unwrap().iter().find(|process| process["name"] == "gateway").unwrap();
    tailing(gateway).await;
    Person::registered(&http).await;
    let first = next().await;

    let pid = rustix::process::Pid::from_raw(i32::try_from(gateway["pid"].as_u64().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    for _ in 0..2 {
        let person = Person::new();
        wait::until("the gateway serves again", async || {
            let request = http.request(reqwest::Method::POST, "/api/v1/registrations").json(&person.registration());
            request.send().await.is_ok_and(|answer| answer.status() == 202).then_some(())
        })
        .await;
    }

    let (second, third) = (next().await, next().await);
    assert!(first < second && second < third, "{first}, {second}, {third}");
    tail.kill().await.unwrap();
    let mut complaints = String::new();
    let mut errors = BufReader::new(tail.stderr.take().unwrap());
    tokio::io::AsyncReadExt::read_to_string(&mut errors, &mut complaints).await.unwrap();
    assert!(complaints.contains("coming back"), "it says that the connection was lost: {complaints}");
    up.stop().await;
}

/// Waits until somebody tails.
async fn tailing(gateway: &Value) {
    let metrics = Http::new(gateway["adminUrl"].as_str().expect("every process has an admin port"));
    wait::until("the tail is open", async || {
        metrics.get("/metrics").await.body.contains("trunkline_gateway_event_streams 1").then_some(())
    })
    .await;
}
