//! Mail to users of what administrators did: enqueued with the change, sent by identity, and nothing of it in the job.

use std::path::Path;
use std::time::Duration;

use futures::future::join_all;
use kernel::data::relay::LOCK_CLASS;
use platform_tests::{Platform, Setup, Signal, http::Http, jobs, mail::MailServer, people::Person, wait};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

/// A user made by an administrator.
async fn create(admin: &Http, person: &Person) -> String {
    let user = admin.post("/api/v1/users", &person.registration()).await.json(201);
    user["id"].as_str().unwrap().to_owned()
}

/// The ids of a user's jobs of mail, the oldest first. The history has them when their runner has told of them.
async fn jobs_of(platform: &Platform, user: &str) -> Vec<String> {
    let select = "SELECT (headers ->> 'Nats-Msg-Id') FROM identity.outbox WHERE stream = 'JOBS' \
                  AND convert_from(payload, 'UTF8')::json ->> 'userId' = $1 ORDER BY id";
    let ids: Vec<String> =
        sqlx::query_scalar(select).bind(user).fetch_all(&mut platform.superuser().await).await.unwrap();
    ids.iter().map(|id| id.strip_prefix("mail.send:").expect("an id of the queue").to_owned()).collect()
}

fn letters_in(folder: &Path) -> Vec<String> {
    let Ok(files) = std::fs::read_dir(folder) else { return Vec::new() };
    let whole = files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "eml"));
    whole.map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

/// The letters of the mailbox folder to one address.
fn letters_to(platform: &Platform, address: &str) -> Vec<String> {
    let line = format!("<{address}>\r\n");
    letters_in(&platform.folder().join("mail")).into_iter().filter(|letter| letter.contains(&line)).collect()
}

async fn on_server(server: &MailServer) -> Platform {
    Setup::new().set("identity.mail_url", server.url()).start().await
}

#[tokio::test]
async fn a_user_is_told_of_what_an_administrator_did() {
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let (person, other) = (Person::new(), Person::registered(&platform.http()).await);

    let user = create(&admin, &person).await;
    let created = jobs::job_in(&admin, &jobs_of(&platform, &user).await[0], "SUCCEEDED").await;
    let path = format!("/api/v1/users/{user}/roles/auditor");
    assert_eq!(admin.put(&path, &json!({})).await.status / 100, 2);
    // Nothing is changed, so nobody is told.
    assert_eq!(admin.put(&path, &json!({})).await.status / 100, 2);
    assert_eq!(admin.delete(&path).await.status / 100, 2);

    let ids = jobs_of(&platform, &user).await;
    assert_eq!(ids.len(), 3);
    for id in &ids {
        jobs::job_in(&admin, id, "SUCCEEDED").await;
    }
    let letters = letters_to(&platform, &person.email);
    assert_eq!(letters.len(), 3, "{letters:?}");
    let [welcome, changed @ ..] =
        &["An account was made for you", "Your roles were changed", "Your roles were changed"];
    let about =
        |subject: &str| letters.iter().filter(|letter| letter.contains(&format!("Subject: {subject}\r\n"))).count();
    assert_eq!((about(welcome), about(changed[0])), (1, 2));
    assert!(letters_to(&platform, &other.email).is_empty(), "who registers knows of it");

    // The job says whom and why, and nothing that is theirs.
    assert_eq!(created["args"], json!({ "userId": user, "purpose": "ACCOUNT_CREATED" }));
    let stored = format!("{created}");
    assert!(!stored.contains(&person.email) && !stored.contains(&person.password) && !stored.contains("Somebody"));
    assert!(letters.iter().all(|letter| !letter.contains(&person.password)));
}

#[tokio::test]
async fn members_of_a_group_are_told_when_it_gives_them_roles() {
    let platform = Setup::new().start().await;
    let (admin, person) = (platform.admin().await, Person::new());
    let user = create(&admin, &person).await;
    let group = admin.post("/api/v1/groups", &json!({ "name": "Readers" })).await.json(201);
    let group = format!("/api/v1/groups/{}", group["id"].as_str().unwrap());
    let member = format!("{group}/members/{user}");

    assert_eq!(admin.put(&member, &json!({})).await.status / 100, 2);
    assert_eq!(admin.delete(&member).await.status / 100, 2);
    assert_eq!(jobs_of(&platform, &user).await.len(), 1, "a group without roles changes none");
    assert_eq!(admin.put(&format!("{group}/roles/auditor"), &json!({})).await.status / 100, 2);
    assert_eq!(admin.put(&member, &json!({})).await.status / 100, 2);

    let ids = jobs_of(&platform, &user).await;
    assert_eq!(ids.len(), 2);
    jobs::job_in(&admin, &ids[1], "SUCCEEDED").await;
    let letters = letters_to(&platform, &person.email);
    assert!(letters.iter().any(|letter| letter.contains("Your roles now: auditor")), "{letters:?}");
}

/// The letters to one address under this subject.
fn letters_about(platform: &Platform, address: &str, subject: &str) -> Vec<String> {
    let line = format!("Subject: {subject}\r\n");
    letters_to(platform, address).into_iter().filter(|letter| letter.contains(&line)).collect()
}

#[tokio::test]
async fn a_user_is_told_of_another_password_and_not_which() {
    let platform = Setup::new().start().await;
    let (admin, person) = (platform.admin().await, Person::new());
    let user = create(&admin, &person).await;
    let (set, chosen) = (Person::new().password, Person::new().password);

    admin.patch(&format!("/api/v1/users/{user}"), &json!({ "password": set })).await.json(200);
    // A name is no secret, and nobody is told of it.
    admin.patch(&format!("/api/v1/users/{user}"), &json!({ "displayName": "Ann" })).await.json(200);
    let own = platform.http().signed_in(&person.email, &set).await;
    let change = json!({ "currentPassword": set, "newPassword": chosen });
    assert_eq!(own.post("/api/v1/users/me/password", &change).await.status, 204);

    let ids = jobs_of(&platform, &user).await;
    assert_eq!(ids.len(), 3);
    let mut told = String::new();
    for (id, purpose) in ids.iter().zip(["ACCOUNT_CREATED", "PASSWORD_SET", "PASSWORD_CHANGED"]) {
        let job = jobs::job_in(&admin, id, "SUCCEEDED").await;
        assert_eq!(job["args"], json!({ "userId": user, "purpose": purpose }));
        told.push_str(&job.to_string());
    }
    for subject in ["You have another password", "Your password was changed"] {
        let letters = letters_about(&platform, &person.email, subject);
        assert_eq!(letters.len(), 1, "{subject}");
        told.push_str(&letters[0]);
    }
    assert!(!told.contains(&set) && !told.contains(&chosen) && !told.contains(&person.password));
    own.get("/api/v1/users/me").await.json(200);
    platform.http().login(&person.email, &chosen).await;
}

/// The ids of the jobs that tell many, the oldest first.
async fn spreads(platform: &Platform) -> Vec<String> {
    let select = "SELECT substr(headers ->> 'Nats-Msg-Id', length('mail.spread:') + 1) FROM identity.outbox \
                  WHERE stream = 'JOBS' AND starts_with(headers ->> 'Nats-Msg-Id', 'mail.spread:') ORDER BY id";
    sqlx::query_scalar(select).fetch_all(&mut platform.superuser().await).await.unwrap()
}

#[tokio::test]
async fn members_are_told_when_the_roles_of_their_group_change() {
    let platform = Setup::new().start().await;
    let (admin, people) = (platform.admin().await, [Person::new(), Person::new()]);
    let (outsider, former) = (Person::new(), Person::new());
    let made = admin.post("/api/v1/groups", &json!({ "name": "Readers" })).await.json(201);
    let group = format!("/api/v1/groups/{}", made["id"].as_str().unwrap());
    create(&admin, &outsider).await;
    let mut members = Vec::new();
    for person in people.iter().chain([&former]) {
        let user = create(&admin, person).await;
        assert_eq!(admin.put(&format!("{group}/members/{user}"), &json!({})).await.status, 200);
        members.push(user);
    }
    assert_eq!(admin.delete(&format!("{group}/members/{}", members[2])).await.status, 200);
    let letters = |person: &Person| letters_about(&platform, &person.email, "Your roles were changed");

    // Given, given again, taken, taken again, given, and gone with the group.
    let role = format!("{group}/roles/auditor");
    let mut told = 0;
    for (change, spread) in
        [("put", true), ("put", false), ("delete", true), ("delete", false), ("put", true), ("", true)]
    {
        let reply = match change {
            "put" => admin.put(&role, &json!({})).await,
            "delete" => admin.delete(&role).await,
            _ => admin.delete(&group).await,
        };
        assert_eq!(reply.status, 200, "{reply:?}");
        let jobs = spreads(&platform).await;
        told += usize::from(spread);
        assert_eq!(jobs.len(), told);
        if spread {
            let job = jobs::job_in(&admin, &jobs[told - 1], "SUCCEEDED").await;
            assert_eq!((&job["args"]["noticeId"].is_string(), &job["result"]), (&true, &json!({ "letters": 2 })));
            wait::until("both have their letter", async || {
                people.iter().all(|person| letters(person).len() == told).then_some(())
            })
            .await;
        }
    }

    for person in &people {
        let with_it = letters(person).iter().filter(|letter| letter.contains("Your roles now: auditor")).count();
        assert_eq!(with_it, 2, "what holds when it is written");
    }
    assert!(letters(&outsider).is_empty() && letters(&former).is_empty());
}

/// Whoever was in a group gets one letter, although the job that has them written is cut off in the middle.
#[tokio::test]
async fn many_members_are_told_once_each_however_often_the_job_is_cut_off() {
    const MEMBERS: i64 = 450;
    let platform = Setup::new().start().await;
    let admin = platform.admin().await;
    let group = admin.post("/api/v1/groups", &json!({ "name": "Everybody" })).await.json(201);
    let mut database = platform.superuser().await;
    let fill = "WITH made AS ( \
                    INSERT INTO identity.users (id, email, email_normalised, display_name, state, email_verified, created_at, updated_at) \
                    SELECT gen_random_uuid(), name, name, name, 'ACTIVE', false, now(), now() \
                    FROM (SELECT 'member' || number || '@example.org' AS name FROM generate_series(1, $2) AS number) AS given \
                    RETURNING id) \
                INSERT INTO identity.group_members (group_id, user_id, added_at) SELECT $1::uuid, id, now() FROM made";
    sqlx::query(fill).bind(group["id"].as_str().unwrap()).bind(MEMBERS).execute(&mut database).await.unwrap();
    // Nothing is sent until one member of the last step cannot be struck off.
    let held = hold_outbox(&platform).await;
    let role = format!("/api/v1/groups/{}/roles/auditor", group["id"].as_str().unwrap());
    assert_eq!(admin.put(&role, &json!({})).await.status, 200);
    let mut holder = platform.superuser().await;
    let mut holding = holder.begin().await.unwrap();
    let last = "SELECT user_id FROM identity.notice_recipients ORDER BY user_id DESC LIMIT 1 FOR UPDATE";
    sqlx::query(last).execute(&mut *holding).await.unwrap();
    held.close().await.unwrap();

    // It may come to its own end before that, if it has waited for long enough, and waits again then.
    wait::until("the last step waits", async || (recipients(&platform).await == 50).then_some(())).await;
    wait::until("its session is ended", async || {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
                   AND usename <> current_user AND wait_event_type = 'Lock' AND query LIKE '%notice_recipients%'";
        let ended: Option<bool> = sqlx::query_scalar(end).fetch_optional(&mut database).await.unwrap();
        ended.filter(|ended| *ended).map(|_| ())
    })
    .await;
    assert_eq!(recipients(&platform).await, 50);
    holding.rollback().await.unwrap();

    let job = jobs::job_in(&admin, &spreads(&platform).await[0], "SUCCEEDED").await;
    assert_eq!((job["attempt"].as_u64() >= Some(2), &job["result"]), (true, &json!({ "letters": 50 })), "{job}");
    let letters: (i64, i64) = sqlx::query_as(
        "SELECT count(*), count(DISTINCT convert_from(payload, 'UTF8')::json ->> 'userId') FROM identity.outbox \
         WHERE stream = 'JOBS' AND subject = 'jobs.mail.send.low'",
    )
    .fetch_one(&mut database)
    .await
    .unwrap();
    assert_eq!(letters, (MEMBERS, MEMBERS));
    assert_eq!(recipients(&platform).await, 0);
}

/// Who is still to be written to.
async fn recipients(platform: &Platform) -> i64 {
    let count = sqlx::query_scalar("SELECT count(*) FROM identity.notice_recipients");
    count.fetch_one(&mut platform.superuser().await).await.unwrap()
}

#[tokio::test]
async fn what_a_mail_server_refuses_for_now_is_sent_later_and_what_it_refuses_for_good_is_given_up() {
    let server = MailServer::start().await;
    let platform = on_server(&server).await;
    let (admin, patient, unwanted) = (platform.admin().await, Person::new(), Person::new());

    server.refuse(1, "451 4.7.1 Later");
    let user = create(&admin, &patient).await;
    let id = &jobs_of(&platform, &user).await[0];
    // Within five seconds, by chance.
    let job = wait::until("it is sent later", async || {
        let job = jobs::job_in(&admin, id, "SUCCEEDED").await;
        (!job["errors"].as_array().unwrap().is_empty()).then_some(job)
    })
    .await;
    assert_eq!(job["errors"][0]["message"], "the mail server does not take it just now: 451");
    assert_eq!((&job["attempt"], server.refused()), (&json!(2), 1));
    assert_eq!(server.letters_to(&patient.email).len(), 1);

    server.refuse(1, "550 5.1.1 Unknown");
    let user = create(&admin, &unwanted).await;
    let id = &jobs_of(&platform, &user).await[0];
    let job = jobs::job_in(&admin, id, "DEAD_LETTER").await;
    assert_eq!(job["attempt"], 1);
    let letter = wait::until("the dead letter", async || {
        let letter = admin.get(&format!("/api/v1/dead-letters/{id}")).await;
        (letter.status == 200).then(|| letter.json(200))
    })
    .await;
    assert_eq!(letter["reason"], "PERMANENT");
    // The server said the address; it is nowhere.
    let told = format!("{job}{letter}{}", platform.logs());
    assert!(told.contains("550") && !told.contains(&unwanted.email), "{letter}");
    assert!(server.letters_to(&unwanted.email).is_empty());
}

#[tokio::test]
async fn mail_to_who_is_gone_is_dropped() {
    let server = MailServer::start().await;
    let platform = on_server(&server).await;
    let (admin, person) = (platform.admin().await, Person::new());
    // However often it is tried before the user is gone.
    server.refuse(1_000, "451 4.7.1 Later");
    let user = create(&admin, &person).await;
    let id = &jobs_of(&platform, &user).await[0];
    wait::until("it is refused", async || (server.refused() > 0).then_some(())).await;

    assert_eq!(admin.delete(&format!("/api/v1/users/{user}")).await.status / 100, 2);
    // By hand, so that nobody waits for chance; unless it is just being tried.
    wait::until("it is tried again", async || {
        let retried = admin.post(&format!("/api/v1/jobs/{id}/retry"), &json!({})).await.status == 200;
        let job = admin.get(&format!("/api/v1/jobs/{id}")).await;
        (retried || job.status == 200 && job.json(200)["state"] == "SUCCEEDED").then_some(())
    })
    .await;

    let job = jobs::job_in(&admin, id, "SUCCEEDED").await;
    assert_eq!(job["result"], json!({ "dropped": "there is no such user any more" }));
    assert!(server.letters_to(&person.email).is_empty());
}

#[tokio::test]
async fn no_name_adds_a_header_or_a_recipient() {
    let server = MailServer::start().await;
    let platform = on_server(&server).await;
    let (admin, person) = (platform.admin().await, Person::new());
    let user = create(&admin, &person).await;
    jobs::job_in(&admin, &jobs_of(&platform, &user).await[0], "SUCCEEDED").await;
    // Over the API no such name is taken; nothing may rest on that.
    let evil = "Ann\r\nBcc: eve@example.org\r\n\r\nanother body";
    let rename = sqlx::query("UPDATE identity.users SET display_name = $1 WHERE id = $2::uuid").bind(evil).bind(&user);
    rename.execute(&mut platform.superuser().await).await.unwrap();

    assert_eq!(admin.put(&format!("/api/v1/users/{user}/roles/auditor"), &json!({})).await.status / 100, 2);
    jobs::job_in(&admin, &jobs_of(&platform, &user).await[1], "SUCCEEDED").await;

    let letters = server.letters_to(&person.email);
    let letter = letters.iter().find(|letter| letter.text.contains("Subject: Your roles were changed")).unwrap();
    assert_eq!(letter.to, [person.email.as_str()]);
    let (head, body) = letter.text.split_once("\r\n\r\n").unwrap();
    assert!(head.lines().all(|line| !line.to_ascii_lowercase().starts_with("bcc")), "{head}");
    assert!(body.starts_with("Hello Ann Bcc: eve@example.org another body,\r\n"), "{body}");
    assert!(server.letters_to("eve@example.org").is_empty());
}

/// The lock under which identity's outbox is sent, so that what is committed stays there.
async fn hold_outbox(platform: &Platform) -> PgConnection {
    let mut session = platform.superuser().await;
    let lock = "SELECT pg_advisory_lock($1, 'identity'::regnamespace::oid::int)";
    sqlx::query(lock).bind(LOCK_CLASS).execute(&mut session).await.unwrap();
    session
}

async fn count_users(platform: &Platform) -> i64 {
    let count = sqlx::query_scalar("SELECT count(*) FROM identity.users");
    count.fetch_one(&mut platform.superuser().await).await.unwrap()
}

#[tokio::test]
async fn a_change_and_its_job_survive_a_kill_together_or_were_never_made() {
    let platform = Setup::new().own_servers().start().await;
    let (admin, person) = (platform.admin().await, Person::new());

    // Committed, and killed before anything could be sent.
    let held = hold_outbox(&platform).await;
    let user = create(&admin, &person).await;
    // Refused, so not made and not told.
    admin.post("/api/v1/users", &person.registration()).await.problem(409, "email_taken");
    let process = platform.process("identity", 1);
    let before = process.state().starts;
    process.signal(Signal::KILL).await.unwrap();
    assert!(letters_to(&platform, &person.email).is_empty());
    held.close().await.unwrap();
    wait::until("identity starts again", async || (process.state().starts > before).then_some(())).await;

    let ids = jobs_of(&platform, &user).await;
    assert_eq!(ids.len(), 1);
    let told = wait::until("the job is done", async || {
        // While it comes back, nothing is known.
        let job = admin.get(&format!("/api/v1/jobs/{}", ids[0])).await;
        let job: Value = serde_json::from_str(&job.body).ok()?;
        (job["state"] == "SUCCEEDED").then_some(job)
    })
    .await;
    assert_eq!(told["attempt"], 1);
    assert_eq!(letters_to(&platform, &person.email).len(), 1);

    // Killed at any moment of many changes: each user who is there was written to once, and nobody else.
    let (mut people, mut asked) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let before = count_users(&platform).await;
        for _ in 0..6 {
            let person = Person::new();
            let (admin, body) = (admin.clone(), person.registration());
            people.push(person);
            #[expect(clippy::disallowed_methods, reason = "the test waits for it")]
            asked.push(tokio::spawn(async move { admin.post("/api/v1/users", &body).await }));
        }
        wait::until("one of them is made", async || (count_users(&platform).await > before).then_some(())).await;
        let before = process.state().starts;
        process.signal(Signal::KILL).await.unwrap();
        wait::until("identity starts again", async || (process.state().starts > before).then_some(())).await;
        process.ready(wait::WAIT_MAX).await.unwrap();
    }
    // Whatever they were told: some of it was said by nobody.
    join_all(asked).await;
    let mut database = platform.superuser().await;
    // What a killed process held comes again after 30 s.
    wait::within(Duration::from_mins(3), "all mail is sent", async || {
        let open: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM identity.outbox WHERE stream = 'JOBS' AND NOT EXISTS (SELECT FROM jobs.jobs \
             WHERE state = 'SUCCEEDED' AND 'mail.send:' || jobs.id = outbox.headers ->> 'Nats-Msg-Id')",
        )
        .fetch_one(&mut database)
        .await
        .unwrap();
        (open == 0).then_some(())
    })
    .await;
    let made: Vec<String> =
        sqlx::query_scalar("SELECT email FROM identity.users").fetch_all(&mut database).await.unwrap();
    for person in people {
        let letters = letters_to(&platform, &person.email).len();
        assert_eq!(letters, usize::from(made.contains(&person.email)), "{}", person.email);
    }
}

#[tokio::test]
async fn what_was_sent_is_not_sent_again_when_the_queue_is_lost() {
    let server = MailServer::start().await;
    let platform = Setup::new().own_servers().set("identity.mail_url", server.url()).start().await;
    let (admin, before, after) = (platform.admin().await, Person::new(), Person::new());
    let user = create(&admin, &before).await;
    let done = jobs_of(&platform, &user).await.remove(0);
    jobs::job_in(&admin, &done, "SUCCEEDED").await;

    let nats = platform.process("nats-server", 1);
    let starts = nats.state().starts;
    wait::until("the store is deleted", async || std::fs::remove_dir_all(platform.stream_store()).ok()).await;
    nats.signal(Signal::KILL).await.unwrap();
    wait::until("the broker is back", async || (nats.state().starts > starts).then_some(())).await;
    nats.ready(wait::WAIT_MAX).await.unwrap();
    platform.make_streams().await;
    let admin = wait::until("somebody can sign in", async || {
        let file = platform.folder().join("admin.json");
        let file: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let credentials = json!({ "email": file["email"], "password": file["password"] });
        let reply = platform.http().post("/api/v1/auth/login", &credentials).await;
        (reply.status == 200).then(|| platform.http().with_token(reply.json(200)["accessToken"].as_str().unwrap()))
    })
    .await;
    wait::until("a user is made", async || {
        (admin.post("/api/v1/users", &after.registration()).await.status == 201).then_some(())
    })
    .await;

    wait::until("the next letter", async || (server.letters_to(&after.email).len() == 1).then_some(())).await;
    let mut database = platform.superuser().await;
    wait::until("the job is in the queue again", async || {
        let sent_again = "SELECT count(*) FROM identity.outbox \
                          WHERE stream = 'JOBS' AND lost_at IS NOT NULL AND acked_at IS NOT NULL";
        let sent_again: i64 = sqlx::query_scalar(sent_again).fetch_one(&mut database).await.unwrap();
        (sent_again == 1).then_some(())
    })
    .await;
    wait::until("the queue is empty", async || (platform.outstanding("JOBS", "normal_mail").await == 0).then_some(()))
        .await;
    assert_eq!(server.letters_to(&before.email).len(), 1);
}
