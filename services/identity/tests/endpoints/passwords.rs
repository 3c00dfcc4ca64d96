//! What is kept of users is changed: by administrators, and their passwords by themselves.

use platform_tests::{Platform, Setup, broker::Broker, people::Person, wait};
use serde_json::{Value, json};

use crate::roles::{DELETE, DISABLE, ENABLE, person, role, start};
use crate::{
    CREATE_USER, GET_ME, GET_USER, GET_USER_ROLES, LIST_USERS, NOBODY, access_token, admin_token, pointers, services,
};

const UPDATE: &str = "svc.identity.v1.update_user";
const CHANGE: &str = "svc.identity.v1.change_password";
const LOGIN: &str = "svc.auth.v1.login";

/// A password that nobody else has.
fn password() -> String {
    Person::new().password
}

/// A new user with these roles: who they are, and their id.
async fn create(ops: &Broker, admin: &str, roles: &[&str]) -> (Person, String) {
    let person = Person::new();
    let mut form = person.registration();
    form["roles"] = json!(roles);
    let user = ops.call_as(admin, CREATE_USER, &form).await.json();
    (person, user["id"].as_str().unwrap().to_owned())
}

async fn is_password(ops: &Broker, email: &str, password: &str) -> bool {
    let answer = ops.call(LOGIN, &json!({ "email": email, "password": password })).await;
    if answer.error_code != 0 {
        answer.problem(401, "invalid_credentials");
    }
    answer.error_code == 0
}

/// The bodies of what identity wrote for this subject, in order.
async fn written(platform: &Platform, subject: &str) -> Vec<Value> {
    let select = "SELECT convert_from(payload, 'UTF8') FROM identity.outbox WHERE subject = $1 ORDER BY id";
    let bodies: Vec<String> =
        sqlx::query_scalar(select).bind(subject).fetch_all(&mut platform.superuser().await).await.unwrap();
    bodies.iter().map(|body| serde_json::from_str(body).unwrap()).collect()
}

#[tokio::test]
async fn changed_name_is_shown_by_every_instance() {
    let platform = services().instances("audit", 0).instances("identity", 2).start().await;
    let ops = platform.user("ops").connect().await;
    let admin = admin_token(&platform, &ops).await;
    let (person, id) = create(&ops, &admin, &[]).await;
    let before = ops.call_as(&admin, GET_USER, &json!({ "userId": id })).await.json();

    for name in ["Ann", " Ann Example "] {
        // Both instances have the user at hand.
        for _ in 0..8 {
            ops.call_as(&admin, GET_USER, &json!({ "userId": id })).await.json();
        }
        let changed = ops.call_as(&admin, UPDATE, &json!({ "userId": id, "displayName": name })).await.json();
        assert_eq!((&changed["displayName"], &changed["email"]), (&json!(name.trim()), &json!(person.email)));
        assert_ne!(changed["updatedAt"], before["updatedAt"]);
        // The answer waits for the other instance to hear of it, but not for ever.
        wait::until("both show it", async || {
            for _ in 0..8 {
                if ops.call_as(&admin, GET_USER, &json!({ "userId": id })).await.json() != changed {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }

    assert!(is_password(&ops, &person.email, &person.password).await);
    assert_eq!(
        written(&platform, "evt.identity.user.updated").await,
        [json!({ "userId": id }), json!({ "userId": id })]
    );
    assert_eq!(written(&platform, "evt.identity.user.password_changed").await, [] as [Value; 0]);
}

#[tokio::test]
async fn password_set_by_an_administrator_counts_and_the_one_before_does_not() {
    let (platform, ops, admin, _) = start().await;
    let (person, id) = create(&ops, &admin, &[]).await;
    let given = password();

    let change = json!({ "userId": id, "displayName": "Ann", "password": given });
    let changed = ops.call_as(&admin, UPDATE, &change).await.json();

    assert_eq!(changed["displayName"], "Ann");
    assert!(!is_password(&ops, &person.email, &person.password).await);
    assert!(is_password(&ops, &person.email, &given).await);
    let event = json!({ "userId": id, "passwordVersion": 2, "keptSessionId": "" });
    assert_eq!(written(&platform, "evt.identity.user.password_changed").await, [event]);
    assert_eq!(written(&platform, "evt.identity.user.updated").await, [json!({ "userId": id })]);
    let records = written(&platform, "audit.identity.user.password_changed").await;
    assert_eq!((records.len(), &records[0]["target"]["id"]), (1, &json!(id)), "{records:?}");
    let auth = platform.user("auth").connect().await;
    assert_eq!(auth.call(GET_USER_ROLES, &json!({ "userId": id })).await.json()["passwordVersion"], 2);
}

#[tokio::test]
async fn change_of_nobody_or_of_nothing_and_bad_values_are_refused() {
    let (platform, ops, admin, _) = start().await;
    let (person, id) = create(&ops, &admin, &[]).await;

    for (request, faults) in [
        (json!({ "userId": "me", "displayName": "Ann" }), vec![("/userId", "invalid_id")]),
        (json!({ "userId": id }), vec![("", "required")]),
        (json!({ "userId": id, "displayName": " " }), vec![("/displayName", "required")]),
        (json!({ "userId": id, "password": "" }), vec![("/password", "password_too_short")]),
        (json!({ "userId": id, "password": person.email }), vec![("/password", "password_too_common")]),
        (
            json!({ "userId": id, "displayName": "A\nB", "password": "x".repeat(1_025) }),
            vec![("/password", "password_too_long"), ("/displayName", "invalid_characters")],
        ),
    ] {
        let problem = ops.call_as(&admin, UPDATE, &request).await.problem(422, "validation_failed");
        assert_eq!(pointers(&problem), faults);
    }
    for change in
        [json!({ "userId": NOBODY, "displayName": "Ann" }), json!({ "userId": NOBODY, "password": password() })]
    {
        ops.call_as(&admin, UPDATE, &change).await.problem(404, "not_found");
    }
    assert!(is_password(&ops, &person.email, &person.password).await);
    assert_eq!(written(&platform, "evt.identity.user.updated").await, [] as [Value; 0]);
}

/// Of all who edit users, and whatever they give.
#[tokio::test]
async fn who_was_changed_meanwhile_keeps_name_password_and_state() {
    let (platform, ops, admin, _) = start().await;
    let (person, id) = create(&ops, &admin, &[]).await;
    let user = json!({ "userId": id });
    let shown = async || ops.call_as(&admin, GET_USER, &user).await.json();
    let seen = shown().await["revision"].as_str().unwrap().to_owned();
    let edit = json!({ "userId": id, "displayName": "Ann" });
    let changed = ops.call_as(&admin, UPDATE, &edit).await.json();
    assert_ne!(changed["revision"], *seen);

    let (bearer, if_match) = (format!("Bearer {admin}"), format!("\"{seen}\""));
    let headers = [("Authorization", bearer.as_str()), ("If-Match", if_match.as_str())];
    for (subject, request) in [
        (UPDATE, json!({ "userId": id, "displayName": "Lost" })),
        (UPDATE, json!({ "userId": id, "password": password() })),
        (DISABLE, user.clone()),
        (ENABLE, user.clone()),
        (DELETE, user.clone()),
    ] {
        ops.send(subject, &headers, request.to_string().into()).await.problem(412, "precondition_failed");
    }

    assert_eq!(shown().await, changed);
    assert!(is_password(&ops, &person.email, &person.password).await);
    for (subject, times) in [("updated", 1), ("password_changed", 0), ("disabled", 0), ("enabled", 0), ("deleted", 0)] {
        let told = written(&platform, &format!("evt.identity.user.{subject}")).await;
        assert_eq!(told.len(), times, "{subject}: {told:?}");
    }
    // One revision wherever they are shown, and another only where something is changed of that.
    let token = access_token(&ops, &person.email, &person.password).await;
    let change = json!({ "currentPassword": person.password, "newPassword": password() });
    ops.call_as(&token, CHANGE, &change).await.json();
    assert_eq!(ops.call_as(&token, GET_ME, &json!({})).await.json(), changed);
    let listed = ops.call_as(&admin, LIST_USERS, &json!({ "query": person.email })).await.json();
    assert_eq!(listed["items"], json!([changed]));
    let group = ops.call_as(&admin, "svc.identity.v1.create_group", &json!({ "name": "Team" })).await.json();
    let membership = json!({ "groupId": group["id"], "userId": id });
    ops.call_as(&admin, "svc.identity.v1.add_group_member", &membership).await.json();
    let members = json!({ "groupId": group["id"] });
    let members = ops.call_as(&admin, "svc.identity.v1.list_group_members", &members).await.json();
    assert_eq!(members["items"], json!([changed]));
    let disabled = ops.call_as(&admin, DISABLE, &user).await.json();
    assert_ne!(disabled["revision"], changed["revision"]);
    assert_eq!(ops.call_as(&admin, DISABLE, &user).await.json()["revision"], disabled["revision"]);
}

/// S44: a password is a way to all that its user may do.
#[tokio::test]
async fn nobody_sets_the_password_of_who_may_do_what_they_may_not() {
    let (platform, ops, admin, admin_id) = start().await;
    role(&ops, &admin, "keeper", &["identity.users.*"]).await;
    let (keeper_id, keeper) = person(&ops, &admin, &["keeper"]).await;
    let (auditor, auditor_id) = create(&ops, &admin, &["auditor"]).await;
    let (member, member_id) = create(&ops, &admin, &[]).await;
    let (_, disabled_id) = create(&ops, &admin, &["admin"]).await;
    ops.call_as(&admin, DISABLE, &json!({ "userId": disabled_id })).await.json();
    let group = ops.call_as(&admin, "svc.identity.v1.create_group", &json!({ "name": "Auditors" })).await.json();
    let give = json!({ "groupId": group["id"], "role": "auditor" });
    ops.call_as(&admin, "svc.identity.v1.assign_group_role", &give).await.json();
    let membership = json!({ "groupId": group["id"], "userId": member_id });
    ops.call_as(&admin, "svc.identity.v1.add_group_member", &membership).await.json();

    let targets = [&admin_id, &auditor_id, &member_id, &disabled_id];
    for target in targets {
        // Also where the password would not be taken: the refusal tells nothing of it.
        for password in [password(), "short".to_owned()] {
            let change = json!({ "userId": target, "password": password, "displayName": "Taken" });
            ops.call_as(&keeper, UPDATE, &change).await.problem(403, "privilege_escalation");
        }
    }

    for person in [&auditor, &member] {
        assert!(is_password(&ops, &person.email, &person.password).await);
    }
    assert_eq!(written(&platform, "evt.identity.user.updated").await, [] as [Value; 0]);
    let refused = written(&platform, "audit.identity.update_user.denied").await;
    let of_targets = refused.iter().filter(|record| targets.iter().any(|id| record["target"]["id"] == ***id));
    assert_eq!((refused.len(), of_targets.count()), (8, 8), "{refused:?}");

    // A name gives nothing, and who holds no more may be helped.
    ops.call_as(&keeper, UPDATE, &json!({ "userId": admin_id, "displayName": "Root" })).await.json();
    let (other, other_id) = create(&ops, &admin, &["keeper"]).await;
    let given = password();
    ops.call_as(&keeper, UPDATE, &json!({ "userId": other_id, "password": given })).await.json();
    assert!(is_password(&ops, &other.email, &given).await);
    ops.call_as(&keeper, UPDATE, &json!({ "userId": keeper_id, "displayName": "Keeper" })).await.json();
}

/// A token alone, which may be stolen, must not make the account somebody else's.
#[tokio::test]
async fn nobody_sets_their_own_password_without_the_present_one() {
    let (platform, ops, admin, admin_id) = start().await;

    for id in [admin_id.clone(), admin_id.to_uppercase()] {
        for password in [password(), "short".to_owned()] {
            let change = json!({ "userId": id, "displayName": "Taken", "password": password });
            let refused = ops.call_as(&admin, UPDATE, &change).await.problem(403, "own_password");
            assert!(refused["detail"].as_str().unwrap().contains("/api/v1/users/me/password"), "{refused}");
        }
    }

    let me = ops.call_as(&admin, GET_ME, &json!({})).await.json();
    assert_ne!(me["displayName"], "Taken");
    assert_eq!(written(&platform, "evt.identity.user.password_changed").await, [] as [Value; 0]);
    let refused = written(&platform, "audit.identity.update_user.denied").await;
    assert!(refused.len() == 4 && refused.iter().all(|record| record["target"]["id"] == *admin_id), "{refused:?}");
    ops.call_as(&admin, UPDATE, &json!({ "userId": admin_id, "displayName": "Ann" })).await.json();
}

/// S10: a token does not find the password out either, over whichever way and instance, and a restart does not help.
#[tokio::test]
async fn the_present_password_is_tried_five_times_and_then_each_three_minutes() {
    let platform = Setup::new().instances("audit", 0).instances("identity", 2).start().await;
    let ops = platform.user("ops").connect().await;
    let admin = admin_token(&platform, &ops).await;
    let (person, id) = create(&ops, &admin, &[]).await;
    let token = access_token(&ops, &person.email, &person.password).await;
    let http = platform.http().with_token(&token);
    let given = password();
    let change = |current: &str| json!({ "currentPassword": current, "newPassword": given });
    let wait = async |statement: &'static str| {
        let done = sqlx::query(statement).bind(&id).execute(&mut platform.superuser().await).await.unwrap();
        assert_eq!(done.rows_affected(), 1);
    };
    let is_soon = |seconds: &str| (1..=240).contains(&seconds.parse::<u32>().unwrap());

    let wrong = change("wrong in every way");
    let answers = futures::future::join_all((0..12).map(|_| ops.call_as(&token, CHANGE, &wrong))).await;
    let tried = answers.iter().filter(|answer| answer.error_code == 422).count();
    let refused: Vec<_> = answers.iter().filter(|answer| answer.error_code != 422).collect();
    assert_eq!((tried, refused.len()), (5, 7), "{answers:?}");
    for answer in refused {
        answer.problem(429, "too_many_attempts");
        assert!(is_soon(&answer.retry_after), "{answer:?}");
    }

    // As far as it goes, so that what follows may take its time.
    wait("UPDATE identity.credentials SET guess_until = now() + interval '15 minutes' WHERE user_id = $1::uuid").await;
    platform.restart_services().await;
    for current in ["wrong in every way", &person.password] {
        ops.call_as(&token, CHANGE, &change(current)).await.problem(429, "too_many_attempts");
        let refused = http.post("/api/v1/users/me/password", &change(current)).await;
        refused.problem(429, "too_many_attempts");
        assert!(is_soon(refused.header("retry-after")), "{refused:?}");
    }
    // Whoever has the password signs in as ever.
    assert!(is_password(&ops, &person.email, &person.password).await);

    // Three minutes later it is tried once more, and then again not.
    wait("UPDATE identity.credentials SET guess_until = now() + interval '12 minutes' WHERE user_id = $1::uuid").await;
    let problem = ops.call_as(&token, CHANGE, &wrong).await.problem(422, "validation_failed");
    assert_eq!(pointers(&problem), [("/currentPassword", "wrong_password")]);
    let refused = http.post("/api/v1/users/me/password", &change(&person.password)).await;
    refused.problem(429, "too_many_attempts");
    let denied = written(&platform, "audit.identity.change_password.denied").await;
    assert_eq!(denied.len(), 6, "what was tried is on record: {denied:?}");

    // Who knows it, has all tries again, also where the new one is not taken.
    wait("UPDATE identity.credentials SET guess_until = now() + interval '12 minutes' WHERE user_id = $1::uuid").await;
    let bad = json!({ "currentPassword": person.password, "newPassword": "short" });
    for _ in 0..6 {
        let problem = ops.call_as(&token, CHANGE, &bad).await.problem(422, "validation_failed");
        assert_eq!(pointers(&problem), [("/newPassword", "password_too_short")]);
    }
    assert_eq!(http.post("/api/v1/users/me/password", &change(&person.password)).await.status, 204);
    assert!(is_password(&ops, &person.email, &given).await);

    // Who was given another by an administrator, too: what was tried of the former says nothing of it.
    wait("UPDATE identity.credentials SET guess_until = now() + interval '15 minutes' WHERE user_id = $1::uuid").await;
    let anew = password();
    ops.call_as(&admin, UPDATE, &json!({ "userId": id, "password": anew })).await.json();
    let token = access_token(&ops, &person.email, &anew).await;
    let own = json!({ "currentPassword": anew, "newPassword": password() });
    assert_eq!(ops.call_as(&token, CHANGE, &own).await.error_code, 0);
}

#[tokio::test]
async fn users_change_their_own_password_by_the_present_one() {
    let (platform, ops, admin, _) = start().await;
    let (person, id) = create(&ops, &admin, &[]).await;
    let token = access_token(&ops, &person.email, &person.password).await;
    let change = async |current: &str, new: &str| {
        ops.call_as(&token, CHANGE, &json!({ "currentPassword": current, "newPassword": new })).await
    };
    let given = password();

    for wrong in ["", "wrong in every way", &"x".repeat(1_025)] {
        let problem = change(wrong, &given).await.problem(422, "validation_failed");
        assert_eq!(pointers(&problem), [("/currentPassword", "wrong_password")]);
    }
    let problem = change(&person.password, "short").await.problem(422, "validation_failed");
    assert_eq!(pointers(&problem), [("/newPassword", "password_too_short")]);
    let problem = change(&person.password, &person.email).await.problem(422, "validation_failed");
    assert_eq!(pointers(&problem), [("/newPassword", "password_too_common")]);
    assert!(is_password(&ops, &person.email, &person.password).await);
    change(&person.password, &given).await.json();

    assert!(!is_password(&ops, &person.email, &person.password).await);
    assert!(is_password(&ops, &person.email, &given).await);
    let told = written(&platform, "evt.identity.user.password_changed").await;
    assert_eq!((told.len(), &told[0]["userId"], &told[0]["passwordVersion"]), (1, &json!(id), &json!(2)));
    assert!(!told[0]["keptSessionId"].as_str().unwrap().is_empty());
    let refused = written(&platform, "audit.identity.change_password.denied").await;
    assert!(refused.len() == 3 && refused.iter().all(|record| record["target"]["id"] == *id), "{refused:?}");

    // Who is gone, or may not sign in, has no password to change.
    assert_eq!(ops.call(CHANGE, &json!({})).await.any_problem()["status"], 401);
    ops.call_as(&admin, DISABLE, &json!({ "userId": id })).await.json();
    change(&given, &password()).await.problem(401, "invalid_token");
    ops.call_as(&admin, DELETE, &json!({ "userId": id })).await.json();
    change(&given, &password()).await.problem(401, "invalid_token");
    ops.call_as(&token, GET_ME, &json!({})).await.problem(401, "invalid_token");
}

#[tokio::test]
async fn of_changes_at_once_by_one_password_one_is_made() {
    let platform = services().instances("audit", 0).instances("identity", 2).start().await;
    let ops = platform.user("ops").connect().await;
    let admin = admin_token(&platform, &ops).await;
    let (person, _) = create(&ops, &admin, &[]).await;
    let token = access_token(&ops, &person.email, &person.password).await;
    let given: Vec<String> = (0..4).map(|_| password()).collect();

    let answers = futures::future::join_all(given.iter().map(|new| {
        let change = json!({ "currentPassword": person.password, "newPassword": new });
        let (ops, token) = (&ops, &token);
        async move { ops.call_as(token, CHANGE, &change).await }
    }))
    .await;

    let mut made = 0;
    for (answer, password) in answers.iter().zip(&given) {
        let taken = answer.error_code == 0;
        if !taken {
            let problem = answer.problem(422, "validation_failed");
            assert_eq!(pointers(&problem), [("/currentPassword", "wrong_password")]);
        }
        assert_eq!(is_password(&ops, &person.email, password).await, taken);
        made += usize::from(taken);
    }
    assert_eq!(made, 1);
    assert_eq!(written(&platform, "evt.identity.user.password_changed").await.len(), 1);
}
