//! Roles of users: given, taken, shown; by whom they may be, and that an administrator stays.

use platform_tests::{Platform, broker::Broker, people::Person, wait};
use serde_json::{Value, json};

use crate::{CREATE_USER, GET_USER_ROLES, NOBODY, access_token, admin_token, count, pointers, services};

pub(crate) const ASSIGN: &str = "svc.identity.v1.assign_role";
pub(crate) const REMOVE: &str = "svc.identity.v1.remove_role";
pub(crate) const LIST: &str = "svc.identity.v1.list_user_roles";
pub(crate) const DISABLE: &str = "svc.identity.v1.disable_user";
pub(crate) const ENABLE: &str = "svc.identity.v1.enable_user";
pub(crate) const DELETE: &str = "svc.identity.v1.delete_user";

/// A platform with an administrator's token and id.
pub(crate) async fn start() -> (Platform, Broker, String, String) {
    let platform = services().instances("audit", 0).start().await;
    let ops = platform.user("ops").connect().await;
    let admin = admin_token(&platform, &ops).await;
    let me = ops.call_as(&admin, "svc.identity.v1.get_me", &json!({})).await.json();
    let id = me["id"].as_str().unwrap().to_owned();
    (platform, ops, admin, id)
}

/// A new user with these roles: id and access token.
pub(crate) async fn person(ops: &Broker, admin: &str, roles: &[&str]) -> (String, String) {
    let person = Person::new();
    let mut form = person.registration();
    form["roles"] = json!(roles);
    let user = ops.call_as(admin, CREATE_USER, &form).await.json();
    (user["id"].as_str().unwrap().to_owned(), access_token(ops, &person.email, &person.password).await)
}

/// A new role with these permissions.
pub(crate) async fn role(ops: &Broker, admin: &str, name: &str, permissions: &[&str]) {
    let role = json!({ "name": name, "permissions": permissions });
    ops.call_as(admin, "svc.authz.v1.create_role", &role).await.json();
}

fn of(user: &str, role: &str) -> Value {
    json!({ "userId": user, "role": role })
}

#[tokio::test]
async fn roles_are_given_shown_and_taken_and_each_change_is_told_once() {
    let (platform, ops, admin, _) = start().await;
    let (id, _) = person(&ops, &admin, &[]).await;

    for _ in 0..2 {
        ops.call_as(&admin, ASSIGN, &of(&id, "auditor")).await.json();
    }
    ops.call_as(&admin, ASSIGN, &of(&id, "user")).await.json();
    let first = ops.call_as(&admin, LIST, &json!({ "userId": id, "pageSize": 1 })).await.json();
    let second = json!({ "userId": id, "pageSize": 1, "pageToken": first["nextPageToken"] });
    let second = ops.call_as(&admin, LIST, &second).await.json();
    assert_eq!(first["items"], json!([{ "name": "auditor", "direct": true, "groups": [] }]));
    assert_eq!((&second["items"][0]["name"], &second["nextPageToken"]), (&json!("user"), &json!("")));
    for _ in 0..2 {
        ops.call_as(&admin, REMOVE, &of(&id, "auditor")).await.json();
    }
    let left = ops.call_as(&admin, LIST, &json!({ "userId": id })).await.json();
    assert_eq!(left["items"].as_array().unwrap().len(), 1);

    let told: Vec<String> = sqlx::query_scalar(
        "SELECT subject FROM identity.outbox WHERE subject LIKE 'evt.identity.user.role_%' ORDER BY id",
    )
    .fetch_all(&mut platform.superuser().await)
    .await
    .unwrap();
    let actions = ["role_assigned", "role_assigned", "role_removed"];
    assert_eq!(told, actions.map(|action| format!("evt.identity.user.{action}")));
}

#[tokio::test]
async fn roles_of_nobody_unknown_and_malformed_roles_are_refused() {
    let (_platform, ops, admin, id) = start().await;

    for subject in [ASSIGN, REMOVE] {
        ops.call_as(&admin, subject, &of(NOBODY, "auditor")).await.problem(404, "not_found");
        for (user, role, pointer, code) in
            [("me", "auditor", "/userId", "invalid_id"), (id.as_str(), "No Role", "/role", "invalid_role")]
        {
            let problem = ops.call_as(&admin, subject, &of(user, role)).await.problem(422, "validation_failed");
            assert_eq!(pointers(&problem), [(pointer, code)]);
        }
    }
    ops.call_as(&admin, ASSIGN, &of(&id, "nobody")).await.problem(404, "not_found");
    ops.call_as(&admin, LIST, &json!({ "userId": NOBODY })).await.problem(404, "not_found");
    for subject in [DISABLE, ENABLE, DELETE] {
        ops.call_as(&admin, subject, &json!({ "userId": NOBODY })).await.problem(404, "not_found");
    }
}

#[tokio::test]
async fn disabled_user_holds_nothing_and_is_enabled_as_they_were() {
    let (platform, ops, admin, _) = start().await;
    let (id, token) = person(&ops, &admin, &["auditor"]).await;
    let auth = platform.user("auth").connect().await;
    let user = json!({ "userId": id });

    for _ in 0..2 {
        let disabled = ops.call_as(&admin, DISABLE, &user).await.json();
        assert_eq!(disabled["state"], "DISABLED");
    }
    auth.call(GET_USER_ROLES, &user).await.problem(404, "not_found");
    let mut check = json!({ "userId": id, "permission": "audit.entries.read", "consistencyToken": "latest" });
    assert_eq!(ops.call_as(&admin, "svc.authz.v1.check", &check).await.json()["allowed"], false);
    for _ in 0..2 {
        let enabled = ops.call_as(&admin, ENABLE, &user).await.json();
        assert_eq!(enabled["state"], "ACTIVE");
    }
    let held = auth.call(GET_USER_ROLES, &user).await.json();
    assert_eq!((&held["roles"], &held["passwordVersion"]), (&json!(["auditor"]), &json!(2)), "disabled once");
    check["consistencyToken"] = "latest".into();
    assert_eq!(ops.call_as(&admin, "svc.authz.v1.check", &check).await.json()["allowed"], true);

    ops.call_as(&admin, DELETE, &user).await.json();
    ops.call_as(&admin, DELETE, &user).await.problem(404, "not_found");
    ops.call_as(&token, "svc.identity.v1.get_me", &json!({})).await.problem(401, "invalid_token");
    assert_eq!(count(&platform, "SELECT count(*) FROM identity.user_roles WHERE role = 'auditor'").await, 0);
    for (action, times) in [("disabled", 1), ("enabled", 1), ("deleted", 1)] {
        let told: i64 = sqlx::query_scalar("SELECT count(*) FROM identity.outbox WHERE subject = $1")
            .bind(format!("evt.identity.user.{action}"))
            .fetch_one(&mut platform.superuser().await)
            .await
            .unwrap();
        assert_eq!(told, times, "{action}");
    }
}

/// S44: by whichever way a role could come to somebody.
#[tokio::test]
async fn nobody_gives_a_role_that_permits_what_they_may_not_do() {
    let (platform, ops, admin, admin_id) = start().await;
    role(&ops, &admin, "assigner", &["identity.*"]).await;
    role(&ops, &admin, "narrow", &["identity.users.read"]).await;
    let (id, assigner) = person(&ops, &admin, &["assigner"]).await;
    let (other, _) = person(&ops, &admin, &[]).await;
    let (disabled, _) = person(&ops, &admin, &["auditor"]).await;
    ops.call_as(&admin, DISABLE, &json!({ "userId": disabled })).await.json();
    let group = async |name: &str| {
        let group = ops.call_as(&admin, "svc.identity.v1.create_group", &json!({ "name": name })).await.json();
        group["id"].as_str().unwrap().to_owned()
    };
    let (empty, auditors) = (group("Empty").await, group("Auditors").await);
    let give = json!({ "groupId": auditors, "role": "auditor" });
    ops.call_as(&admin, "svc.identity.v1.assign_group_role", &give).await.json();
    let mut form = Person::new().registration();
    form["roles"] = json!(["narrow", "admin"]);

    let attempts = [
        (ASSIGN, of(&id, "admin")),
        (ASSIGN, of(&other, "admin")),
        (ASSIGN, of(&id, "auditor")),
        (CREATE_USER, form.clone()),
        (ENABLE, json!({ "userId": disabled })),
        ("svc.identity.v1.assign_group_role", json!({ "groupId": empty, "role": "admin" })),
        ("svc.identity.v1.add_group_member", json!({ "groupId": auditors, "userId": id })),
        ("svc.identity.v1.add_group_member", json!({ "groupId": auditors, "userId": other })),
    ];
    for (subject, request) in &attempts {
        ops.call_as(&assigner, subject, request).await.problem(403, "privilege_escalation");
    }
    assert_eq!(
        count(&platform, "SELECT count(*) FROM identity.outbox WHERE subject LIKE 'audit.identity.%.denied'").await,
        i64::try_from(attempts.len()).unwrap(),
        "each refusal is recorded"
    );

    // What one may do oneself can be given, and one's own role be lost.
    form["roles"] = json!(["narrow"]);
    ops.call_as(&assigner, CREATE_USER, &form).await.json();
    ops.call_as(&assigner, ASSIGN, &of(&other, "assigner")).await.json();
    ops.call_as(&assigner, "svc.identity.v1.add_group_member", &json!({ "groupId": empty, "userId": id })).await.json();
    ops.call_as(&assigner, REMOVE, &of(&id, "assigner")).await.json();
    ops.call_as(&admin, ASSIGN, &of(&admin_id, "auditor")).await.json();
}

#[tokio::test]
async fn making_users_does_not_give_the_right_to_assign_roles() {
    let (_platform, ops, admin, _) = start().await;
    role(&ops, &admin, "maker", &["identity.users.*"]).await;
    let (_, maker) = person(&ops, &admin, &["maker"]).await;
    let mut form = Person::new().registration();

    form["roles"] = json!(["maker"]);
    ops.call_as(&maker, CREATE_USER, &form).await.problem(403, "permission_denied");
    form["roles"] = json!([]);
    ops.call_as(&maker, CREATE_USER, &form).await.json();
}

#[tokio::test]
async fn the_last_administrator_stays_by_whichever_way_they_would_go() {
    let (platform, ops, admin, admin_id) = start().await;
    let me = json!({ "userId": admin_id });
    let kept = async || {
        ops.call_as(&admin, REMOVE, &of(&admin_id, "admin")).await.problem(409, "last_administrator");
        ops.call_as(&admin, DISABLE, &me).await.problem(409, "last_administrator");
        ops.call_as(&admin, DELETE, &me).await.problem(409, "last_administrator");
    };
    kept().await;

    // A disabled one does not count.
    let (second, _) = person(&ops, &admin, &["admin"]).await;
    ops.call_as(&admin, DISABLE, &json!({ "userId": second })).await.json();
    kept().await;
    ops.call_as(&admin, DELETE, &json!({ "userId": second })).await.json();
    kept().await;

    // One by a group counts, and then that is the last.
    let group = ops.call_as(&admin, "svc.identity.v1.create_group", &json!({ "name": "Administrators" })).await.json();
    let group = group["id"].as_str().unwrap();
    let (member, token) = person(&ops, &admin, &[]).await;
    let membership = json!({ "groupId": group, "userId": member });
    let role = json!({ "groupId": group, "role": "admin" });
    ops.call_as(&admin, "svc.identity.v1.add_group_member", &membership).await.json();
    ops.call_as(&admin, "svc.identity.v1.assign_group_role", &role).await.json();
    ops.call_as(&admin, REMOVE, &of(&admin_id, "admin")).await.json();
    // The former administrator's own token is of no more use, the member's is.
    for (subject, request) in [
        ("svc.identity.v1.remove_group_member", membership),
        ("svc.identity.v1.remove_group_role", role),
        ("svc.identity.v1.delete_group", json!({ "groupId": group })),
        (DISABLE, json!({ "userId": member })),
        (DELETE, json!({ "userId": member })),
    ] {
        ops.call_as(&token, subject, &request).await.problem(409, "last_administrator");
    }

    for (operation, times) in [
        ("remove_role", 3),
        ("disable_user", 4),
        ("delete_user", 4),
        ("remove_group_member", 1),
        ("remove_group_role", 1),
        ("delete_group", 1),
    ] {
        let recorded: i64 = sqlx::query_scalar("SELECT count(*) FROM identity.outbox WHERE subject = $1")
            .bind(format!("audit.identity.{operation}.denied"))
            .fetch_one(&mut platform.superuser().await)
            .await
            .unwrap();
        assert_eq!(recorded, times, "{operation}");
    }
}

#[tokio::test]
async fn of_two_administrators_who_remove_each_other_at_once_one_stays() {
    let platform = services().instances("audit", 0).start().await;
    let ops = platform.user("ops").connect().await;
    let admin = admin_token(&platform, &ops).await;
    let me = ops.call_as(&admin, "svc.identity.v1.get_me", &json!({})).await.json();
    let administrators = "SELECT count(DISTINCT id) FROM identity.users LEFT JOIN identity.user_roles ON user_id = id
                          WHERE role = 'admin' AND state <> 'DISABLED'";

    for round in 0..10 {
        let (second, token) = person(&ops, &admin, &["admin"]).await;
        let way = [REMOVE, DISABLE, DELETE][round % 3];
        let mine = json!({ "userId": me["id"], "role": "admin" });
        let theirs = if way == REMOVE { of(&second, "admin") } else { json!({ "userId": second }) };
        let (one, other) = tokio::join!(ops.call_as(&token, REMOVE, &mine), ops.call_as(&admin, way, &theirs));

        let codes = (one.error_code, other.error_code);
        assert_eq!(count(&platform, administrators).await, 1, "{codes:?}");
        // Whoever stays makes the round good for the next.
        if codes.0 == 0 {
            ops.call_as(&token, ASSIGN, &mine).await.json();
            ops.call_as(&token, REMOVE, &of(&second, "admin")).await.json();
            // Where the broker is slow, a change is in force a moment after its answer.
            wait::until("the administrator is one again", async || {
                let listed = ops.call_as(&admin, LIST, &json!({ "userId": me["id"] })).await;
                (listed.error_code == 0).then_some(())
            })
            .await;
        }
    }
}
