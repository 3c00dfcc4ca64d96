//! What authz promises, seen through NATS. Flows that cross services are told in the scenarios of `tests/`.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::time::{Duration, Instant};

use platform_tests::{Platform, Setup, broker::Broker, people::Person, wait};
use serde_json::{Value, json};
use trunkline::platform::admin::AdminFile;

const LIST_ROLES: &str = "svc.authz.v1.list_roles";
const CREATE_ROLE: &str = "svc.authz.v1.create_role";
const GET_ROLE: &str = "svc.authz.v1.get_role";
const UPDATE_ROLE: &str = "svc.authz.v1.update_role";
const DELETE_ROLE: &str = "svc.authz.v1.delete_role";
const GRANT: &str = "svc.authz.v1.grant_permission";
const REVOKE: &str = "svc.authz.v1.revoke_permission";
const LIST_PERMISSIONS: &str = "svc.authz.v1.list_permissions";
const CHECK: &str = "svc.authz.v1.check";
const CHECK_BATCH: &str = "svc.authz.v1.check_batch";
const EXPLAIN: &str = "svc.authz.v1.explain";
const LIST_USER_PERMISSIONS: &str = "svc.authz.v1.list_user_permissions";
const AUTHORIZE: &str = "svc.authz.v1.authorize";

/// An id that nobody has.
const NOBODY: &str = "0197f000-0000-7000-8000-000000000000";

/// Where a decision must be there at the latest: the default timeout of an operation.
const DEADLINE: Duration = Duration::from_secs(5);

/// Auth, identity and authz, and an administrator's token.
async fn start() -> (Platform, Broker, String) {
    let platform = Setup::new().instances("gateway", 0).instances("audit", 0).start().await;
    let ops = platform.user("ops").connect().await;
    let admin = AdminFile::in_folder(platform.folder()).read().unwrap();
    let token = sign_in(&ops, &admin.email, &admin.password).await;
    (platform, ops, token)
}

async fn sign_in(ops: &Broker, email: &str, password: &str) -> String {
    let tokens = ops.call("svc.auth.v1.login", &json!({ "email": email, "password": password })).await.json();
    tokens["accessToken"].as_str().unwrap().to_owned()
}

/// A new user with these roles: id and access token.
async fn person(ops: &Broker, admin: &str, roles: &[&str]) -> (String, String) {
    let person = Person::new();
    let mut form = person.registration();
    form["roles"] = json!(roles);
    let user = ops.call_as(admin, "svc.identity.v1.create_user", &form).await.json();
    (user["id"].as_str().unwrap().to_owned(), sign_in(ops, &person.email, &person.password).await)
}

async fn role(ops: &Broker, admin: &str, name: &str, permissions: &[&str], inherits: &[&str]) -> Value {
    let role = json!({ "name": name, "description": "", "permissions": permissions, "inherits": inherits });
    ops.call_as(admin, CREATE_ROLE, &role).await.json()
}

fn names(page: &Value) -> Vec<&str> {
    page["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect()
}

fn pointers(problem: &Value) -> Vec<(&str, &str)> {
    let errors = problem["errors"].as_array().unwrap().iter();
    errors.map(|error| (error["pointer"].as_str().unwrap(), error["code"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn roles_are_made_changed_shown_and_deleted() {
    let (_platform, ops, admin) = start().await;

    let made = role(&ops, &admin, "support", &["identity.*.read"], &["auditor"]).await;
    assert_eq!(made["permissions"], json!(["identity.*.read"]));
    assert_eq!((&made["inherits"], &made["builtIn"]), (&json!(["auditor"]), &json!(false)));
    ops.call_as(&admin, CREATE_ROLE, &json!({ "name": "support" })).await.problem(409, "role_exists");

    let users = json!({ "role": "support", "permission": "identity.users.*" });
    let granted = ops.call_as(&admin, GRANT, &users).await.json();
    assert_eq!(granted["permissions"], json!(["identity.*.read", "identity.users.*"]));
    let same = ops.call_as(&admin, GRANT, &users).await.json();
    assert_eq!((&same["permissions"], &same["updatedAt"]), (&granted["permissions"], &granted["updatedAt"]));
    let revoke = json!({ "role": "support", "permission": "identity.*.read" });
    let revoked = ops.call_as(&admin, REVOKE, &revoke).await.json();
    assert_eq!(revoked["permissions"], json!(["identity.users.*"]));

    // What is left out of a change stays, and an empty list is not left out.
    let change = json!({ "role": "support", "description": "First line" });
    let described = ops.call_as(&admin, UPDATE_ROLE, &change).await.json();
    assert_eq!((&described["description"], &described["inherits"]), (&json!("First line"), &json!(["auditor"])));
    let change = json!({ "role": "support", "permissions": ["identity.users.read"], "inherits": [] });
    let updated = ops.call_as(&admin, UPDATE_ROLE, &change).await.json();
    assert_eq!((&updated["description"], &updated["inherits"]), (&json!("First line"), &json!([])));
    let mut shown = ops.call_as(&admin, GET_ROLE, &json!({ "role": "support" })).await.json();
    shown["consistencyToken"] = updated["consistencyToken"].clone();
    assert_eq!(shown, updated);

    let first = ops.call_as(&admin, LIST_ROLES, &json!({ "pageSize": 3 })).await.json();
    let rest = json!({ "pageSize": 3, "pageToken": first["nextPageToken"] });
    let rest = ops.call_as(&admin, LIST_ROLES, &rest).await.json();
    assert_eq!((names(&first), names(&rest)), (vec!["admin", "auditor", "support"], vec!["user"]));
    assert_eq!(rest["nextPageToken"], "");

    ops.call_as(&admin, DELETE_ROLE, &json!({ "role": "support" })).await.json();
    for subject in [GET_ROLE, DELETE_ROLE, UPDATE_ROLE] {
        ops.call_as(&admin, subject, &json!({ "role": "support" })).await.problem(404, "not_found");
    }
    ops.call_as(&admin, GRANT, &users).await.problem(404, "not_found");
    ops.call_as(&admin, REVOKE, &users).await.problem(404, "not_found");
}

#[tokio::test]
async fn every_change_of_a_role_is_told_and_recorded() {
    let (platform, ops, admin) = start().await;

    role(&ops, &admin, "support", &[], &[]).await;
    let audit = json!({ "role": "support", "permission": "audit.*" });
    ops.call_as(&admin, GRANT, &audit).await.json();
    ops.call_as(&admin, REVOKE, &audit).await.json();
    ops.call_as(&admin, REVOKE, &audit).await.json(); // Changes nothing, so nothing is told.
    ops.call_as(&admin, UPDATE_ROLE, &json!({ "role": "support", "description": "x" })).await.json();
    ops.call_as(&admin, DELETE_ROLE, &json!({ "role": "support" })).await.json();

    let written = async |stream: &str| {
        let subjects: Vec<String> =
            sqlx::query_scalar("SELECT subject FROM authz.outbox WHERE stream = $1 ORDER BY id")
                .bind(stream)
                .fetch_all(&mut platform.superuser().await)
                .await
                .unwrap();
        subjects
    };
    let actions = ["created", "permission_granted", "permission_revoked", "updated", "deleted"];
    assert_eq!(written("EVENTS").await, actions.map(|action| format!("evt.authz.role.{action}")));
    assert_eq!(written("AUDIT").await, actions.map(|action| format!("audit.authz.role.{action}")));
}

#[tokio::test]
async fn what_cannot_be_a_role_is_refused_with_its_field() {
    let (_platform, ops, admin) = start().await;
    role(&ops, &admin, "a", &[], &[]).await;
    role(&ops, &admin, "b", &[], &["a"]).await;
    let huge = "a.".repeat(510 * 1024); // With its request, all that the broker takes.
    let many: Vec<String> = (0..1_001).map(|number| format!("r{number}.x.y")).collect();

    for (request, pointer, code) in [
        (json!({ "name": "" }), "/name", "invalid_role"),
        (json!({ "name": "No Role" }), "/name", "invalid_role"),
        (json!({ "name": "c", "description": "\u{0}" }), "/description", "invalid_characters"),
        (json!({ "name": "c", "permissions": ["identity"] }), "/permissions", "invalid_permission"),
        (json!({ "name": "c", "permissions": ["identity.users.read.all"] }), "/permissions", "invalid_permission"),
        (json!({ "name": "c", "permissions": [huge] }), "/permissions", "invalid_permission"),
        (json!({ "name": "c", "permissions": many }), "/permissions", "too_many"),
        (json!({ "name": "c", "permissions": ["identity.users.reed"] }), "/permissions", "unknown_permission"),
        (json!({ "name": "c", "permissions": ["nobody.*"] }), "/permissions", "unknown_permission"),
        (json!({ "name": "c", "inherits": ["nobody"] }), "/inherits", "unknown_role"),
        (json!({ "name": "c", "inherits": ["c"] }), "/inherits", "inheritance_cycle"),
    ] {
        let began = Instant::now();
        let problem = ops.call_as(&admin, CREATE_ROLE, &request).await.problem(422, "validation_failed");
        assert_eq!(pointers(&problem), [(pointer, code)]);
        assert!(began.elapsed() < DEADLINE);
    }
    for (subject, request, pointer, code) in [
        (UPDATE_ROLE, json!({ "role": "a", "inherits": ["b"] }), "/inherits", "inheritance_cycle"),
        (GET_ROLE, json!({ "role": "../a" }), "/role", "invalid_role"),
        (GRANT, json!({ "role": "a", "permission": "a.b" }), "/permission", "invalid_permission"),
        (GRANT, json!({ "role": "a", "permission": "a.b.c" }), "/permission", "unknown_permission"),
    ] {
        let problem = ops.call_as(&admin, subject, &request).await.problem(422, "validation_failed");
        assert_eq!(pointers(&problem), [(pointer, code)]);
    }
}

#[tokio::test]
async fn two_changes_at_once_cannot_make_a_cycle_together() {
    let (_platform, ops, admin) = start().await;
    role(&ops, &admin, "a", &[], &[]).await;
    role(&ops, &admin, "b", &[], &[]).await;

    let requests = [json!({ "role": "a", "inherits": ["b"] }), json!({ "role": "b", "inherits": ["a"] })];
    let answers = futures::future::join_all(requests.iter().map(|it| ops.call_as(&admin, UPDATE_ROLE, it))).await;

    let mut codes: Vec<u16> = answers.iter().map(|answer| answer.error_code).collect();
    codes.sort_unstable();
    assert_eq!(codes, [0, 422]);
}

#[tokio::test]
async fn inheritance_is_bounded_and_what_is_stored_deeper_is_decided_within_the_deadline() {
    let (platform, ops, admin) = start().await;
    for depth in 0..32 {
        let above = format!("r{}", depth - 1);
        let inherits: &[&str] = if depth == 0 { &[] } else { &[&above] };
        role(&ops, &admin, &format!("r{depth}"), &[], inherits).await;
    }
    let deeper = json!({ "name": "r32", "inherits": ["r31"] });
    let problem = ops.call_as(&admin, CREATE_ROLE, &deeper).await.problem(422, "validation_failed");
    assert_eq!(pointers(&problem), [("/inherits", "inheritance_too_deep")]);

    // Whatever is stored, even a cycle of a thousand, a decision ends.
    for statement in [
        "INSERT INTO authz.roles SELECT 'd' || n, '', false, now(), now() FROM generate_series(0, 999) n",
        "INSERT INTO authz.role_inherits SELECT 'd' || n, 'd' || (n + 1) % 1000 FROM generate_series(0, 999) n",
        "INSERT INTO authz.role_permissions VALUES ('d999', 'identity.users.read')",
        "INSERT INTO identity.user_roles SELECT id, 'd0', now() FROM identity.users",
    ] {
        sqlx::query(statement).execute(&mut platform.superuser().await).await.unwrap();
    }
    let id: String = sqlx::query_scalar("SELECT id::text FROM identity.users")
        .fetch_one(&mut platform.superuser().await)
        .await
        .unwrap();
    let question = json!({ "userId": id, "permission": "identity.users.read", "consistencyToken": "latest" });
    for subject in [CHECK, EXPLAIN] {
        let began = Instant::now();
        assert_eq!(ops.call_as(&admin, subject, &question).await.json()["allowed"], true);
        assert!(began.elapsed() < DEADLINE, "{subject}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn built_in_roles_cannot_be_deleted_or_emptied() {
    let (_platform, ops, admin) = start().await;

    for name in ["admin", "auditor", "user"] {
        let shown = ops.call_as(&admin, GET_ROLE, &json!({ "role": name })).await.json();
        assert_eq!(shown["builtIn"], true);
        ops.call_as(&admin, DELETE_ROLE, &json!({ "role": name })).await.problem(409, "role_built_in");
    }
    for (subject, request) in [
        (REVOKE, json!({ "role": "admin", "permission": "*" })),
        (REVOKE, json!({ "role": "auditor", "permission": "audit.*.read" })),
        (UPDATE_ROLE, json!({ "role": "admin", "permissions": [] })),
        (UPDATE_ROLE, json!({ "role": "admin", "permissions": ["audit.*"] })),
        (UPDATE_ROLE, json!({ "role": "auditor", "permissions": [] })),
    ] {
        ops.call_as(&admin, subject, &request).await.problem(409, "role_built_in");
    }
}

#[tokio::test]
async fn a_role_that_is_held_or_inherited_is_not_deleted_and_its_name_not_reused() {
    let (platform, ops, admin) = start().await;
    role(&ops, &admin, "base", &["audit.entries.read"], &[]).await;
    role(&ops, &admin, "heir", &[], &["base"]).await;
    let (id, _) = person(&ops, &admin, &["heir"]).await;

    ops.call_as(&admin, DELETE_ROLE, &json!({ "role": "base" })).await.problem(409, "role_inherited");
    ops.call_as(&admin, DELETE_ROLE, &json!({ "role": "heir" })).await.problem(409, "role_held");

    // Somebody who holds a name without a role, whatever made it so, must not get the role made under it.
    sqlx::query("INSERT INTO identity.user_roles VALUES ($1::uuid, 'ghost', now())")
        .bind(&id)
        .execute(&mut platform.superuser().await)
        .await
        .unwrap();
    ops.call_as(&admin, CREATE_ROLE, &json!({ "name": "ghost" })).await.problem(409, "role_held");
    let remove = json!({ "userId": id, "role": "ghost" });
    ops.call_as(&admin, "svc.identity.v1.remove_role", &remove).await.json();
    role(&ops, &admin, "ghost", &[], &[]).await;
}

/// S44: who was about to be given the old role must not come by the new one.
#[tokio::test]
async fn the_name_of_a_deleted_role_rests_until_nobody_can_be_about_to_assign_it() {
    let (platform, ops, admin) = start().await;
    let mut database = platform.superuser().await;
    role(&ops, &admin, "passing", &[], &[]).await;
    let strong = json!({ "name": "passing", "permissions": ["identity.*"] });

    ops.call_as(&admin, DELETE_ROLE, &json!({ "role": "passing" })).await.json();
    // Said anew, so that this may take its time.
    sqlx::query("UPDATE authz.deleted_roles SET deleted_at = now()").execute(&mut database).await.unwrap();
    let refused = ops.call_as(&admin, CREATE_ROLE, &strong).await;

    refused.problem(409, "role_just_deleted");
    assert!((1..=16).contains(&refused.retry_after.parse::<u32>().unwrap()), "{refused:?}");
    let is_back = "UPDATE authz.deleted_roles SET deleted_at = deleted_at - interval '16 seconds'";
    sqlx::query(is_back).execute(&mut database).await.unwrap();
    ops.call_as(&admin, CREATE_ROLE, &strong).await.json();

    // What rests no more is forgotten.
    role(&ops, &admin, "other", &[], &[]).await;
    ops.call_as(&admin, DELETE_ROLE, &json!({ "role": "other" })).await.json();
    let noted: Vec<String> =
        sqlx::query_scalar("SELECT name FROM authz.deleted_roles").fetch_all(&mut database).await.unwrap();
    assert_eq!(noted, ["other"]);
}

#[tokio::test]
async fn permissions_are_those_of_the_contract() {
    let (_platform, ops, admin) = start().await;

    let page = ops.call_as(&admin, LIST_PERMISSIONS, &json!({ "pageSize": 500 })).await.json();

    let entry = page["items"].as_array().unwrap().iter().find(|item| item["name"] == "audit.entries.read").unwrap();
    assert_eq!(entry["service"], "audit");
    assert!(entry["description"].as_str().unwrap().contains("ListEntries"), "{entry}");
    let listed = names(&page);
    assert!(listed.contains(&"events.identity.read") && listed.is_sorted(), "{listed:?}");
    for endpoint in subjects::endpoints() {
        if let subjects::Access::Permission(permission) = endpoint.access {
            assert!(listed.contains(&permission), "{permission}");
        }
    }
    let first = ops.call_as(&admin, LIST_PERMISSIONS, &json!({ "pageSize": 2 })).await.json();
    let second = json!({ "pageSize": 2, "pageToken": first["nextPageToken"] });
    let second = ops.call_as(&admin, LIST_PERMISSIONS, &second).await.json();
    assert_eq!([names(&first), names(&second)].concat(), listed[..4]);
}

#[tokio::test]
async fn check_batch_and_explain_agree_on_own_roles_groups_and_inheritance() {
    let (_platform, ops, admin) = start().await;
    role(&ops, &admin, "reader", &["identity.*.read"], &[]).await;
    role(&ops, &admin, "lead", &["identity.users.create"], &["reader"]).await;
    let (by_role, _) = person(&ops, &admin, &["lead"]).await;
    let (by_group, _) = person(&ops, &admin, &[]).await;
    let group = ops.call_as(&admin, "svc.identity.v1.create_group", &json!({ "name": "Team" })).await.json();
    let assign = json!({ "groupId": group["id"], "role": "reader" });
    ops.call_as(&admin, "svc.identity.v1.assign_group_role", &assign).await.json();
    let add = json!({ "groupId": group["id"], "userId": by_group });
    let added = ops.call_as(&admin, "svc.identity.v1.add_group_member", &add).await.json();
    let token = latest_of(&added);

    let questions = [
        (by_role.as_str(), "identity.users.create", true),
        (&by_role, "identity.groups.read", true),
        (&by_role, "identity.*.read", true),
        (&by_role, "identity.*", false),
        (&by_role, "audit.entries.read", false),
        (&by_group, "identity.users.read", true),
        (&by_group, "identity.users.create", false),
        (NOBODY, "identity.users.read", false),
    ];
    let question = |user: &str, permission: &str| json!({ "userId": user, "permission": permission });
    let checks: Vec<Value> = questions.iter().map(|(user, permission, _)| question(user, permission)).collect();
    // From what is kept, and from what is stored.
    for token in [token, "latest".into()] {
        let batch = json!({ "checks": checks, "consistencyToken": token });
        let batch = ops.call_as(&admin, CHECK_BATCH, &batch).await.json();
        for (index, (user, permission, allowed)) in questions.iter().enumerate() {
            let mut question = question(user, permission);
            question["consistencyToken"] = token.clone();
            let checked = ops.call_as(&admin, CHECK, &question).await.json();
            let told = ops.call_as(&admin, EXPLAIN, &question).await.json();
            assert_eq!(checked, json!({ "allowed": allowed }), "{permission}");
            assert_eq!(batch["results"][index]["allowed"], *allowed, "{permission}");
            assert_eq!(told["allowed"], *allowed, "{permission}");
            assert_eq!(told["path"].as_array().unwrap().is_empty(), !allowed, "{told}");
            assert!(!told["hint"].as_str().unwrap().is_empty());
        }
    }
    let told = ops.call_as(&admin, EXPLAIN, &question(&by_group, "identity.users.read")).await.json();
    assert_eq!(
        told["path"],
        json!([
            { "type": "GROUP", "name": "Team", "id": group["id"] },
            { "type": "ROLE", "name": "reader", "id": "" },
            { "type": "PERMISSION", "name": "identity.*.read", "id": "" },
        ])
    );
    let told = ops.call_as(&admin, EXPLAIN, &question(&by_group, "identity.users.create")).await.json();
    assert_eq!(told["nearMisses"][0]["name"], "lead");
    assert!(told["hint"].as_str().unwrap().contains("assign the role lead"), "{told}");

    let listed = ops.call_as(&admin, LIST_USER_PERMISSIONS, &json!({ "userId": by_role })).await.json();
    let expected = ["identity.*.read", "identity.users.create"].map(|name| json!({ "name": name, "roles": ["lead"] }));
    assert_eq!(listed["items"], json!(expected));
    ops.call_as(&admin, LIST_USER_PERMISSIONS, &json!({ "userId": NOBODY })).await.problem(404, "not_found");
}

#[tokio::test]
async fn one_may_ask_about_oneself_and_not_about_others() {
    let (_platform, ops, admin) = start().await;
    let (id, token) = person(&ops, &admin, &["auditor"]).await;
    let (other, _) = person(&ops, &admin, &[]).await;
    let ask = |user: &str| json!({ "userId": user, "permission": "audit.entries.read" });

    assert_eq!(ops.call_as(&token, CHECK, &ask(&id)).await.json(), json!({ "allowed": true }));
    assert_eq!(ops.call_as(&token, EXPLAIN, &ask(&id)).await.json()["allowed"], true);
    ops.call_as(&token, CHECK, &ask(&other)).await.problem(403, "permission_denied");
    ops.call_as(&token, EXPLAIN, &ask(&other)).await.problem(403, "permission_denied");
    let both = json!({ "checks": [ask(&id), ask(&other)] });
    ops.call_as(&token, CHECK_BATCH, &both).await.problem(403, "permission_denied");
    ops.call_as(&token, LIST_USER_PERMISSIONS, &json!({ "userId": id })).await.problem(403, "permission_denied");
    assert_eq!(ops.call(CHECK, &ask(&id)).await.any_problem()["status"], 401);

    role(&ops, &admin, "asker", &["authz.decisions.read"], &[]).await;
    let (_, asker) = person(&ops, &admin, &["asker"]).await;
    assert_eq!(ops.call_as(&asker, CHECK, &ask(&id)).await.json(), json!({ "allowed": true }));
}

#[tokio::test]
async fn malformed_and_unknown_questions_are_refused_with_their_field() {
    let (_platform, ops, admin) = start().await;
    let huge = "x".repeat(510 * 1024);

    for (user, permission, pointer, code) in [
        ("", "audit.entries.read", "/userId", "invalid_id"),
        ("me", "audit.entries.read", "/userId", "invalid_id"),
        ("' OR 1=1 --", "audit.entries.read", "/userId", "invalid_id"),
        (NOBODY, "", "/permission", "invalid_permission"),
        (NOBODY, "audit.entries", "/permission", "invalid_permission"),
        (NOBODY, &huge, "/permission", "invalid_permission"),
        (NOBODY, "audit.entries.reed", "/permission", "unknown_permission"),
        (NOBODY, "nobody.*", "/permission", "unknown_permission"),
    ] {
        let question = json!({ "userId": user, "permission": permission });
        let began = Instant::now();
        for subject in [CHECK, EXPLAIN] {
            let problem = ops.call_as(&admin, subject, &question).await.problem(422, "validation_failed");
            assert_eq!(pointers(&problem), [(pointer, code)], "{permission:.20}");
        }
        let batch = json!({ "checks": [{ "userId": NOBODY, "permission": "audit.entries.read" }, question] });
        let problem = ops.call_as(&admin, CHECK_BATCH, &batch).await.problem(422, "validation_failed");
        assert_eq!(pointers(&problem), [(format!("/checks/1{pointer}").as_str(), code)]);
        assert!(began.elapsed() < DEADLINE);
    }
    let question = json!({ "userId": NOBODY, "permission": "audit.entries.read", "consistencyToken": "yesterday" });
    let problem = ops.call_as(&admin, CHECK, &question).await.problem(422, "validation_failed");
    assert_eq!(pointers(&problem), [("/consistencyToken", "invalid")]);
    let check = json!({ "userId": NOBODY, "permission": "audit.entries.read" });
    let many = json!({ "checks": vec![check; 1_001] });
    let problem = ops.call_as(&admin, CHECK_BATCH, &many).await.problem(422, "validation_failed");
    assert_eq!(pointers(&problem), [("/checks", "too_many")]);
    assert_eq!(ops.call_as(&admin, CHECK_BATCH, &json!({})).await.json(), json!({ "results": [] }));
}

#[tokio::test]
async fn what_only_a_role_that_one_does_not_hold_names_can_be_asked_for() {
    let (platform, ops, admin) = start().await;
    role(&ops, &admin, "old", &[], &[]).await;
    let (id, token) = person(&ops, &admin, &["user"]).await;
    // As a version before this left it, which declared more.
    let old = "INSERT INTO authz.role_permissions VALUES ('old', 'old.th_ngs.read'), ('old', 'older.*')";
    sqlx::query(old).execute(&mut platform.superuser().await).await.unwrap();

    for (permission, is_known) in [
        ("old.th_ngs.read", true),
        ("old.*", true),
        ("old.*.read", true),
        ("*.th_ngs.read", true),
        ("*.*.read", true),
        ("*.th_ngs.*", true),
        ("old.things.read", false),
        ("old.things.*", false),
        ("*.things.*", false),
        ("old.*.create", false),
        ("older.*", false),
        ("older.things.read", false),
        ("ol.*", false),
    ] {
        let question = json!({ "userId": id, "permission": permission, "consistencyToken": "latest" });
        let batch = json!({ "checks": [{ "userId": id, "permission": permission }], "consistencyToken": "latest" });
        let (checked, told) =
            (ops.call_as(&token, CHECK, &question).await, ops.call_as(&token, EXPLAIN, &question).await);
        let batch = ops.call_as(&token, CHECK_BATCH, &batch).await;
        if is_known {
            assert_eq!(checked.json()["allowed"], false, "{permission}");
            assert_eq!(told.json()["allowed"], false, "{permission}");
            assert_eq!(batch.json()["results"][0]["allowed"], false, "{permission}");
        } else {
            for answer in [checked, told] {
                let problem = answer.problem(422, "validation_failed");
                assert_eq!(pointers(&problem), [("/permission", "unknown_permission")], "{permission}");
            }
            let problem = batch.problem(422, "validation_failed");
            assert_eq!(pointers(&problem), [("/checks/0/permission", "unknown_permission")], "{permission}");
        }
    }
}

/// Anybody may ask for the truth about themselves, and must not keep everybody else from being answered by that.
#[tokio::test]
async fn of_many_who_ask_why_and_want_the_truth_one_at_a_time_reads_it() {
    const MANY: u32 = 20;
    let (platform, ops, admin) = start().await;
    let (id, token) = person(&ops, &admin, &["auditor"]).await;
    let question = json!({ "userId": id, "permission": "audit.entries.read", "consistencyToken": "latest" });
    let mut holder = platform.superuser().await;
    let mut observer = platform.superuser().await;

    // While nobody can read the roles, all are there at once: those of whom time runs out come again.
    let readers = wait::until("all wait", async || {
        for statement in ["BEGIN", "LOCK TABLE authz.role_permissions IN ACCESS EXCLUSIVE MODE"] {
            sqlx::raw_sql(statement).execute(&mut holder).await.unwrap();
        }
        let asking = futures::future::join_all((0..MANY).map(|_| ops.call_as(&token, EXPLAIN, &question)));
        let looking = async {
            let began = Instant::now();
            let mut readers = None;
            while readers.is_none() && began.elapsed() < DEADLINE {
                if platform.metric("authz", "trunkline_requests_in_flight").await >= f64::from(MANY) {
                    let blocked = "SELECT count(*) FROM pg_locks WHERE NOT granted
                                   AND relation = 'authz.role_permissions'::regclass";
                    let blocked: i64 = sqlx::query_scalar(blocked).fetch_one(&mut observer).await.unwrap();
                    readers = Some(blocked).filter(|blocked| *blocked > 0);
                }
            }
            sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
            readers
        };
        let (answers, readers) = futures::future::join(asking, looking).await;
        for answer in answers {
            match answer.error_code {
                503 | 504 => {}
                _ => assert_eq!(answer.json()["allowed"], true),
            }
        }
        readers
    })
    .await;

    assert_eq!(readers, 1);
    assert_eq!(ops.call_as(&token, EXPLAIN, &question).await.json()["allowed"], true);
}

/// S44: none of the ways through roles gives anybody what they lack.
#[tokio::test]
async fn nobody_makes_a_role_that_permits_what_they_may_not_do() {
    let (platform, ops, admin) = start().await;
    role(&ops, &admin, "strong", &["identity.*"], &[]).await;
    role(&ops, &admin, "role-keeper", &["authz.roles.*", "identity.users.*"], &["auditor"]).await;
    let (_, keeper) = person(&ops, &admin, &["role-keeper"]).await;

    let attempts = [
        (CREATE_ROLE, json!({ "name": "mine", "permissions": ["*"] })),
        (CREATE_ROLE, json!({ "name": "mine", "permissions": ["identity.*"] })),
        (CREATE_ROLE, json!({ "name": "mine", "permissions": ["*.users.read"] })),
        (CREATE_ROLE, json!({ "name": "mine", "permissions": ["audit.*"] })),
        (CREATE_ROLE, json!({ "name": "mine", "permissions": ["authz.decisions.read"] })),
        (CREATE_ROLE, json!({ "name": "mine", "inherits": ["admin"] })),
        (CREATE_ROLE, json!({ "name": "mine", "permissions": ["identity.users.read"], "inherits": ["strong"] })),
        (GRANT, json!({ "role": "role-keeper", "permission": "*" })),
        (GRANT, json!({ "role": "user", "permission": "identity.roles.assign" })),
        (UPDATE_ROLE, json!({ "role": "role-keeper", "permissions": ["identity.*"] })),
        (UPDATE_ROLE, json!({ "role": "role-keeper", "inherits": ["auditor", "strong"] })),
        // By a role that one's own inherits.
        (GRANT, json!({ "role": "auditor", "permission": "audit.entries.export" })),
    ];
    for (subject, request) in &attempts {
        ops.call_as(&keeper, subject, request).await.problem(403, "privilege_escalation");
    }
    let recorded: i64 =
        sqlx::query_scalar("SELECT count(*) FROM authz.outbox WHERE subject LIKE 'audit.authz.%.denied'")
            .fetch_one(&mut platform.superuser().await)
            .await
            .unwrap();
    assert_eq!(recorded, i64::try_from(attempts.len()).unwrap(), "each refusal is recorded");

    // What one may do oneself can be given, in part too, and what is there already stays.
    let mine = json!({ "name": "mine", "permissions": ["identity.users.read", "audit.*.read", "authz.roles.*"] });
    ops.call_as(&keeper, CREATE_ROLE, &mine).await.json();
    let change = json!({ "role": "strong", "permissions": ["identity.*", "identity.users.create"] });
    ops.call_as(&keeper, UPDATE_ROLE, &change).await.json();
    let all = json!({ "role": "strong", "permission": "identity.*" });
    ops.call_as(&keeper, REVOKE, &all).await.json();
    // And what was taken cannot be given back by who lacks it.
    ops.call_as(&keeper, GRANT, &all).await.problem(403, "privilege_escalation");
}

#[tokio::test]
async fn authorize_tells_what_its_answer_rests_on() {
    let (platform, ops, admin) = start().await;
    role(&ops, &admin, "lead", &[], &["auditor"]).await;
    let (id, _) = person(&ops, &admin, &["lead"]).await;
    let identity = platform.user("identity").connect().await;

    let question = json!({ "userId": id, "permission": "audit.entries.read" });
    let answer = identity.call(AUTHORIZE, &question).await.json();

    assert_eq!((&answer["allowed"], &answer["roles"]), (&json!(true), &json!(["auditor", "lead"])));
    assert_eq!(answer["groupIds"], json!([]));
    let truth = json!({ "userId": id, "permission": "audit.entries.read", "consistencyToken": "latest" });
    assert_eq!(identity.call(AUTHORIZE, &truth).await.json()["allowed"], true);
    let nobody = json!({ "userId": NOBODY, "permission": "audit.entries.read" });
    let nobody = identity.call(AUTHORIZE, &nobody).await.json();
    assert_eq!((&nobody["allowed"], &nobody["roles"]), (&json!(false), &json!([])));
    // A permission that nobody declares here may be another version's: it is denied, not refused.
    let newer = json!({ "userId": id, "permission": "audit.entries.purge" });
    assert_eq!(identity.call(AUTHORIZE, &newer).await.json()["allowed"], false);
    identity.call(AUTHORIZE, &json!({ "userId": "me", "permission": "*" })).await.problem(422, "validation_failed");
}

#[tokio::test]
async fn a_group_of_a_hundred_thousand_is_decided_and_changed_within_the_deadline() {
    let (platform, ops, admin) = start().await;
    let group = ops.call_as(&admin, "svc.identity.v1.create_group", &json!({ "name": "Everybody" })).await.json();
    let mut database = platform.superuser().await;
    for statement in [
        "INSERT INTO identity.users SELECT gen_random_uuid(), 'u' || n || '@example.org', 'u' || n || '@example.org', 'U',
             'ACTIVE', false, now(), now() FROM generate_series(1, 100000) n",
        "INSERT INTO identity.group_members SELECT groups.id, users.id, now() FROM identity.users, identity.groups
         WHERE display_name = 'U'",
    ] {
        sqlx::query(statement).execute(&mut database).await.unwrap();
    }
    let member: String = sqlx::query_scalar("SELECT id::text FROM identity.users WHERE email = 'u77777@example.org'")
        .fetch_one(&mut database)
        .await
        .unwrap();
    let check = async |token: &Value| {
        let question = json!({ "userId": member, "permission": "audit.entries.read", "consistencyToken": token });
        let began = Instant::now();
        let answer = ops.call_as(&admin, CHECK, &question).await.json();
        assert!(began.elapsed() < DEADLINE);
        answer["allowed"].as_bool().unwrap()
    };
    assert!(!check(&json!("")).await);

    let change = json!({ "groupId": group["id"], "role": "auditor" });
    let assigned = ops.call_as(&admin, "svc.identity.v1.assign_group_role", &change).await.json();
    assert!(check(&latest_of(&assigned)).await);
    let page = json!({ "groupId": group["id"], "pageSize": 500 });
    let page = ops.call_as(&admin, "svc.identity.v1.list_group_members", &page).await.json();
    assert_eq!(page["items"].as_array().unwrap().len(), 500);
    assert_ne!(page["nextPageToken"], "");
    let removed = ops.call_as(&admin, "svc.identity.v1.remove_group_role", &change).await.json();
    assert!(!check(&latest_of(&removed)).await);
    let delete = json!({ "groupId": group["id"] });
    ops.call_as(&admin, "svc.identity.v1.delete_group", &delete).await.json();
}

/// The token of a change; where the broker took longer than a change waits, the word for the truth.
fn latest_of(changed: &Value) -> Value {
    match changed["consistencyToken"].as_str().unwrap() {
        "" => "latest".into(),
        token => token.into(),
    }
}
