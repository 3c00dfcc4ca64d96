//! Groups: made, shown, changed, deleted, their members and roles.

use serde_json::{Value, json};

use crate::roles::{LIST, person, start};
use crate::{GET_USER_ROLES, NOBODY, pointers};

const LIST_GROUPS: &str = "svc.identity.v1.list_groups";
const CREATE: &str = "svc.identity.v1.create_group";
const GET: &str = "svc.identity.v1.get_group";
const UPDATE: &str = "svc.identity.v1.update_group";
const DELETE: &str = "svc.identity.v1.delete_group";
const MEMBERS: &str = "svc.identity.v1.list_group_members";
const ADD: &str = "svc.identity.v1.add_group_member";
const TAKE_OUT: &str = "svc.identity.v1.remove_group_member";
const ASSIGN: &str = "svc.identity.v1.assign_group_role";
const REMOVE: &str = "svc.identity.v1.remove_group_role";

#[tokio::test]
async fn groups_are_made_changed_listed_and_deleted() {
    let (_platform, ops, admin, _) = start().await;
    let create = async |name: &str| ops.call_as(&admin, CREATE, &json!({ "name": name })).await.json();
    let (first, second, third) = (create("One").await, create("Two").await, create("Three").await);

    ops.call_as(&admin, CREATE, &json!({ "name": " oNE " })).await.problem(409, "group_name_taken");
    let rename = json!({ "groupId": first["id"], "name": "TWO" });
    ops.call_as(&admin, UPDATE, &rename).await.problem(409, "group_name_taken");
    let change = json!({ "groupId": first["id"], "description": "The first" });
    let changed = ops.call_as(&admin, UPDATE, &change).await.json();
    assert_eq!((&changed["name"], &changed["description"]), (&json!("One"), &json!("The first")));
    assert_eq!(ops.call_as(&admin, GET, &json!({ "groupId": first["id"] })).await.json(), changed);

    let page = ops.call_as(&admin, LIST_GROUPS, &json!({ "pageSize": 2 })).await.json();
    let rest = json!({ "pageSize": 2, "pageToken": page["nextPageToken"] });
    let rest = ops.call_as(&admin, LIST_GROUPS, &rest).await.json();
    assert_eq!((&page["items"], &rest["items"]), (&json!([third, second]), &json!([changed])));

    ops.call_as(&admin, DELETE, &json!({ "groupId": first["id"] })).await.json();
    for subject in [GET, UPDATE, DELETE, MEMBERS] {
        ops.call_as(&admin, subject, &json!({ "groupId": first["id"] })).await.problem(404, "not_found");
    }
    for (subject, request, pointer, code) in [
        (CREATE, json!({ "name": " " }), "/name", "required"),
        (CREATE, json!({ "name": "x".repeat(201) }), "/name", "too_long"),
        (CREATE, json!({ "name": "x", "description": "\u{7}" }), "/description", "invalid_characters"),
        (GET, json!({ "groupId": "1" }), "/groupId", "invalid_id"),
        (UPDATE, json!({ "groupId": second["id"], "name": "" }), "/name", "required"),
    ] {
        let problem = ops.call_as(&admin, subject, &request).await.problem(422, "validation_failed");
        assert_eq!(pointers(&problem), [(pointer, code)]);
    }
}

#[tokio::test]
async fn members_hold_the_roles_of_their_groups() {
    let (platform, ops, admin, _) = start().await;
    let (id, _) = person(&ops, &admin, &["auditor"]).await;
    let auth = platform.user("auth").connect().await;
    let group = ops.call_as(&admin, CREATE, &json!({ "name": "Team" })).await.json();
    let membership = json!({ "groupId": group["id"], "userId": id });
    let with = |role: &str| json!({ "groupId": group["id"], "role": role });

    for _ in 0..2 {
        ops.call_as(&admin, ADD, &membership).await.json();
        ops.call_as(&admin, ASSIGN, &with("user")).await.json();
    }
    ops.call_as(&admin, ASSIGN, &with("auditor")).await.json();

    let held = auth.call(GET_USER_ROLES, &json!({ "userId": id })).await.json();
    let by_team = json!([{ "id": group["id"], "name": "Team", "roles": ["auditor", "user"] }]);
    assert_eq!((&held["roles"], &held["groups"]), (&json!(["auditor"]), &by_team));
    let listed = ops.call_as(&admin, LIST, &json!({ "userId": id })).await.json();
    let team = json!([{ "id": group["id"], "name": "Team" }]);
    let expected = json!([
        { "name": "auditor", "direct": true, "groups": team },
        { "name": "user", "direct": false, "groups": team },
    ]);
    assert_eq!(listed["items"], expected);
    let shown = ops.call_as(&admin, GET, &json!({ "groupId": group["id"] })).await.json();
    assert_eq!(shown["roles"], json!(["auditor", "user"]));
    let members = ops.call_as(&admin, MEMBERS, &json!({ "groupId": group["id"] })).await.json();
    assert_eq!((&members["items"][0]["id"], &members["items"][1]), (&json!(id), &Value::Null));

    for _ in 0..2 {
        ops.call_as(&admin, REMOVE, &with("user")).await.json();
        ops.call_as(&admin, TAKE_OUT, &membership).await.json();
    }
    let held = auth.call(GET_USER_ROLES, &json!({ "userId": id })).await.json();
    assert_eq!((&held["roles"], &held["groups"]), (&json!(["auditor"]), &json!([])));
    let told: Vec<String> =
        sqlx::query_scalar("SELECT subject FROM identity.outbox WHERE subject LIKE 'evt.identity.group.%' ORDER BY id")
            .fetch_all(&mut platform.superuser().await)
            .await
            .unwrap();
    let actions = ["created", "member_added", "role_assigned", "role_assigned", "role_removed", "member_removed"];
    assert_eq!(told, actions.map(|action| format!("evt.identity.group.{action}")));
}

#[tokio::test]
async fn groups_without_members_users_or_roles_to_name_are_refused() {
    let (_platform, ops, admin, id) = start().await;
    let group = ops.call_as(&admin, CREATE, &json!({ "name": "Team" })).await.json();
    let group = group["id"].as_str().unwrap();

    for (subject, request) in [
        (ADD, json!({ "groupId": NOBODY, "userId": id })),
        (ADD, json!({ "groupId": group, "userId": NOBODY })),
        (TAKE_OUT, json!({ "groupId": NOBODY, "userId": id })),
        (ASSIGN, json!({ "groupId": NOBODY, "role": "auditor" })),
        (ASSIGN, json!({ "groupId": group, "role": "nobody" })),
        (REMOVE, json!({ "groupId": NOBODY, "role": "auditor" })),
    ] {
        ops.call_as(&admin, subject, &request).await.problem(404, "not_found");
    }
    for (subject, request, pointer, code) in [
        (ADD, json!({ "groupId": "g", "userId": id }), "/groupId", "invalid_id"),
        (TAKE_OUT, json!({ "groupId": group, "userId": "u" }), "/userId", "invalid_id"),
        (ASSIGN, json!({ "groupId": group, "role": "a b" }), "/role", "invalid_role"),
        (REMOVE, json!({ "groupId": group, "role": "" }), "/role", "invalid_role"),
    ] {
        let problem = ops.call_as(&admin, subject, &request).await.problem(422, "validation_failed");
        assert_eq!(pointers(&problem), [(pointer, code)]);
    }
}
