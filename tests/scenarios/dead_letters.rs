//! What a consumer cannot handle is kept, shown and, after a repair, handled once: `trunkline events dead-letters`.

use platform_tests::{command::Up, wait};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

const SUBJECT: &str = "audit.identity.user.tested";

#[tokio::test]
async fn dead_letter_is_listed_shown_and_replayed_after_a_repair() {
    let impatient = ["--set", "consumers.attempts_max=3", "--set", "consumers.redelivery_delay_min_ms=20"];
    let up = Up::start(&[&["--sync", "interval"], &impatient[..]].concat()).await;
    let mut database = PgConnection::connect(&up.admin().postgres_url.unwrap()).await.unwrap();
    let broken = "ALTER TABLE audit.entries ADD CONSTRAINT broken CHECK (action <> 'identity.user.tested') NOT VALID";
    sqlx::raw_sql(broken).execute(&mut database).await.unwrap();
    let identity = async_nats::jetstream::new(up.user("identity").connect().await.client);

    // One that the consumer cannot handle now, and one that it never will.
    let record = json!({
        "id": "0198a000-0000-7000-8000-000000000001", "time": "2026-01-02T03:04:05.000006Z", "outcome": "SUCCESS",
        "actor": { "type": "SERVICE", "id": "identity" }, "target": { "type": "user", "id": "u-1" },
    });
    for body in [record.to_string(), "{".to_owned()] {
        identity.publish(SUBJECT, body.into()).await.unwrap().await.unwrap();
    }
    let listed = wait::until("two dead letters", async || {
        let listed = list(&up, &[]).await;
        (listed.len() == 2).then_some(listed)
    })
    .await;

    let (repairable, hopeless) = {
        let reason = |letter: &Value| letter["reason"].as_str().unwrap().contains("undecodable");
        let (hopeless, repairable): (Vec<Value>, Vec<Value>) = listed.into_iter().partition(reason);
        (repairable[0].clone(), hopeless[0].clone())
    };
    for letter in [&repairable, &hopeless] {
        assert_eq!((&letter["consumer"], &letter["subject"]), (&json!("audit"), &json!(SUBJECT)));
        assert_eq!(
            (&letter["state"], &letter["stream"], &letter["attempts"]),
            (&json!("DEAD"), &json!("AUDIT"), &json!(3))
        );
    }
    let (repairable, hopeless) = (repairable["sequence"].as_str().unwrap(), hopeless["sequence"].as_str().unwrap());
    let shown: Value = serde_json::from_str(&dead_letters(&up, &["show", repairable, "--json"]).await).unwrap();
    assert_eq!(serde_json::from_str::<Value>(shown["body"].as_str().unwrap()).unwrap(), record);
    assert_eq!(shown["headers"]["Dead-Letter-Subject"], SUBJECT);
    assert!(dead_letters(&up, &["show", repairable]).await.contains("Dead-Letter-Reason"));
    assert_eq!(list(&up, &["--consumer", "audit", "--subject", "audit.identity.>", "--limit", "1"]).await.len(), 1);
    assert_eq!(list(&up, &["--subject", "evt.>"]).await.len(), 0);
    let (said, _) = up.failing(&["events", "dead-letters", "replay", repairable]).await;
    assert!(said.contains("replay_failed"), "{said}");

    sqlx::raw_sql("ALTER TABLE audit.entries DROP CONSTRAINT broken").execute(&mut database).await.unwrap();
    assert!(dead_letters(&up, &["replay", repairable]).await.contains("handled by audit"));
    assert!(dead_letters(&up, &["replay", repairable]).await.contains("before"));
    let (said, _) = up.failing(&["events", "dead-letters", "replay", hopeless]).await;
    assert!(said.contains("undecodable") || said.contains("replay_failed"), "{said}");

    let dead = list(&up, &[]).await;
    assert_eq!(dead.len(), 1, "{dead:?}");
    assert_eq!(dead[0]["sequence"], hopeless);
    assert_eq!(list(&up, &["--all"]).await.len(), 2);
    let entries: i64 = sqlx::query_scalar("SELECT count(*) FROM audit.entries WHERE action = 'identity.user.tested'")
        .fetch_one(&mut database)
        .await
        .unwrap();
    assert_eq!(entries, 1);
    wait::until("the replay is in the log", async || {
        let recorded = "SELECT count(*) FROM audit.entries WHERE action = 'audit.dead_letter.replayed'";
        let recorded: i64 = sqlx::query_scalar(recorded).fetch_one(&mut database).await.unwrap();
        (recorded >= 1).then_some(())
    })
    .await;
    up.stop().await;
}

async fn dead_letters(up: &Up, arguments: &[&str]) -> String {
    up.command(&[&["events", "dead-letters"], arguments].concat()).await
}

async fn list(up: &Up, arguments: &[&str]) -> Vec<Value> {
    let text = dead_letters(up, &[&["list", "--json"], arguments].concat()).await;
    text.lines().map(|line| serde_json::from_str(line).expect("one object a line")).collect()
}
