//! What identity promises, seen through NATS. Flows that cross services are told in the scenarios of `tests/`.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod groups;
mod passwords;
mod roles;

use argon2::Block;
use identity::domain::{HashParameters, PasswordHash};
use platform_tests::{Platform, Setup, broker::Broker, people::Person};
use serde_json::{Value, json};
use sqlx::PgConnection;
use trunkline::platform::admin::AdminFile;

const REGISTER: &str = "svc.identity.v1.register";
const CREATE_USER: &str = "svc.identity.v1.create_user";
const GET_USER: &str = "svc.identity.v1.get_user";
const GET_ME: &str = "svc.identity.v1.get_me";
const LIST_USERS: &str = "svc.identity.v1.list_users";
const VERIFY_CREDENTIALS: &str = "svc.identity.v1.verify_credentials";
const GET_USER_ROLES: &str = "svc.identity.v1.get_user_roles";

/// An id that nobody has.
const NOBODY: &str = "0197f000-0000-7000-8000-000000000000";

/// The services, without a gateway.
fn services() -> Setup {
    Setup::new().instances("gateway", 0)
}

async fn access_token(ops: &Broker, email: &str, password: &str) -> String {
    let tokens = ops.call("svc.auth.v1.login", &json!({ "email": email, "password": password })).await.json();
    tokens["accessToken"].as_str().unwrap().to_owned()
}

async fn admin_token(platform: &Platform, ops: &Broker) -> String {
    let admin = AdminFile::in_folder(platform.folder()).read().unwrap();
    access_token(ops, &admin.email, &admin.password).await
}

/// Somebody registered, with an access token.
async fn signed_in(ops: &Broker) -> (Person, String) {
    let person = Person::new();
    ops.call(REGISTER, &person.registration()).await.json();
    let token = access_token(ops, &person.email, &person.password).await;
    (person, token)
}

fn pointers(problem: &Value) -> Vec<(&str, &str)> {
    let errors = problem["errors"].as_array().unwrap().iter();
    errors.map(|error| (error["pointer"].as_str().unwrap(), error["code"].as_str().unwrap())).collect()
}

async fn count(platform: &Platform, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(&mut platform.superuser().await).await.unwrap()
}

#[tokio::test]
async fn registration_answers_the_same_whether_or_not_the_address_was_free() {
    let platform = services().start().await;
    let ops = platform.user("ops").connect().await;
    let person = Person::new();
    let mut again = Person::new().registration();
    again["email"] = person.email.to_uppercase().into();

    let first = ops.call(REGISTER, &person.registration()).await;
    let second = ops.call(REGISTER, &again).await;

    assert_eq!((first.json(), first.body), (second.json(), second.body));
    assert_eq!(count(&platform, "SELECT count(*) FROM identity.users WHERE state = 'UNVERIFIED'").await, 1);
    for (subject, times) in [
        ("evt.identity.user.registered", 1),
        ("audit.identity.user.registered", 1),
        ("audit.identity.register.denied", 1),
    ] {
        let query = "SELECT count(*) FROM identity.outbox WHERE subject = $1";
        let written: i64 =
            sqlx::query_scalar(query).bind(subject).fetch_one(&mut platform.superuser().await).await.unwrap();
        assert_eq!(written, times, "{subject}");
    }
    // Whoever came second has not got in.
    access_token(&ops, &person.email, &person.password).await;
    let credentials = json!({ "email": again["email"], "password": again["password"] });
    ops.call("svc.auth.v1.login", &credentials).await.problem(401, "invalid_credentials");
}

#[tokio::test]
async fn registrations_of_one_address_at_once_make_one_user() {
    let platform = services().instances("identity", 2).start().await;
    let ops = platform.user("ops").connect().await;
    let form = Person::new().registration();

    // More than are hashed at once: who would wait for too long is told to come again.
    let registered = async || {
        let answer = ops.call(REGISTER, &form).await;
        (answer.error_code != 503).then_some(answer)
    };
    let answers =
        futures::future::join_all((0..8).map(|_| platform_tests::wait::until("it is taken", &registered))).await;

    for answer in answers {
        answer.json();
    }
    assert_eq!(count(&platform, "SELECT count(*) FROM identity.users WHERE state = 'UNVERIFIED'").await, 1);
}

#[tokio::test]
async fn closed_registration_is_refused_and_administrators_still_create() {
    let platform = services().set("identity.registration_open", "false").start().await;
    let ops = platform.user("ops").connect().await;
    let admin = admin_token(&platform, &ops).await;

    let registered = ops.call(REGISTER, &Person::new().registration()).await;
    let created = ops.call_as(&admin, CREATE_USER, &Person::new().registration()).await;

    registered.problem(403, "registration_closed");
    let recorded = "SELECT count(*) FROM identity.outbox WHERE subject = 'audit.identity.register.denied'";
    assert_eq!(count(&platform, recorded).await, 1);
    created.json();
}

#[tokio::test]
async fn all_faults_of_a_form_are_told_with_their_pointers() {
    let platform = services().start().await;
    let ops = platform.user("ops").connect().await;

    let bad = json!({ "email": "nobody", "password": "passwordpassword", "displayName": "" });
    let problem = ops.call(REGISTER, &bad).await.problem(422, "validation_failed");
    assert_eq!(
        pointers(&problem),
        [("/email", "invalid_email"), ("/password", "password_too_common"), ("/displayName", "required")]
    );

    let mut form = Person::new().registration();
    for (password, code) in [
        ("too short".to_owned(), "password_too_short"),
        ("x".repeat(1_025), "password_too_long"),
        (form["email"].as_str().unwrap().to_owned(), "password_too_common"),
        ("correct horse\0battery staple".to_owned(), "invalid_characters"),
    ] {
        form["password"] = password.into();
        let problem = ops.call(REGISTER, &form).await.problem(422, "validation_failed");
        assert_eq!(pointers(&problem), [("/password", code)]);
    }
    assert_eq!(count(&platform, "SELECT count(*) FROM identity.users WHERE state = 'UNVERIFIED'").await, 0);
}

#[tokio::test]
async fn administrator_creates_a_user_with_roles() {
    let platform = services().start().await;
    let ops = platform.user("ops").connect().await;
    let admin = admin_token(&platform, &ops).await;
    let person = Person::new();
    let mut form = person.registration();
    form["roles"] = json!(["billing", "auditor", "billing"]);
    let problem = ops.call_as(&admin, CREATE_USER, &form).await.problem(422, "validation_failed");
    assert_eq!(pointers(&problem), [("/roles", "unknown_role")]);
    ops.call_as(&admin, "svc.authz.v1.create_role", &json!({ "name": "billing" })).await.json();

    let user = ops.call_as(&admin, CREATE_USER, &form).await.json();

    assert_eq!((&user["email"], &user["state"]), (&json!(person.email), &json!("ACTIVE")));
    assert_eq!((&user["displayName"], &user["emailVerified"]), (&json!("Somebody"), &json!(false)));
    assert_eq!(user["createdAt"], user["updatedAt"]);
    let auth = platform.user("auth").connect().await;
    let roles = auth.call(GET_USER_ROLES, &json!({ "userId": user["id"] })).await.json();
    assert_eq!((&roles["roles"], &roles["groups"]), (&json!(["auditor", "billing"]), &json!([])));

    form["email"] = person.email.to_uppercase().into();
    ops.call_as(&admin, CREATE_USER, &form).await.problem(409, "email_taken");
    form["roles"] = json!(["No Role"]);
    let problem = ops.call_as(&admin, CREATE_USER, &form).await.problem(422, "validation_failed");
    assert_eq!(pointers(&problem), [("/roles", "invalid_role")]);
    let (_, ordinary) = signed_in(&ops).await;
    ops.call_as(&ordinary, CREATE_USER, &Person::new().registration()).await.problem(403, "permission_denied");
}

#[tokio::test]
async fn users_are_shown_to_administrators_and_oneself() {
    let platform = services().start().await;
    let ops = platform.user("ops").connect().await;
    let admin = admin_token(&platform, &ops).await;
    let (person, token) = signed_in(&ops).await;

    let me = ops.call_as(&token, GET_ME, &json!({})).await.json();
    let user = ops.call_as(&admin, GET_USER, &json!({ "userId": me["id"] })).await.json();

    assert_eq!((&me["email"], &me["state"]), (&json!(person.email), &json!("UNVERIFIED")));
    assert_eq!(user, me);
    ops.call_as(&token, GET_USER, &json!({ "userId": me["id"] })).await.problem(403, "permission_denied");
    ops.call_as(&admin, GET_USER, &json!({ "userId": NOBODY })).await.problem(404, "not_found");
    let problem = ops.call_as(&admin, GET_USER, &json!({ "userId": "1" })).await.problem(422, "validation_failed");
    assert_eq!(pointers(&problem), [("/userId", "invalid_id")]);
    assert_eq!(ops.call(GET_ME, &json!({})).await.any_problem()["status"], 401);

    ops.call_as(&admin, "svc.identity.v1.delete_user", &json!({ "userId": me["id"] })).await.json();
    ops.call_as(&token, GET_ME, &json!({})).await.problem(401, "invalid_token");
}

#[tokio::test]
async fn users_are_listed_newest_first_page_by_page() {
    let platform = services().start().await;
    let ops = platform.user("ops").connect().await;
    let admin = admin_token(&platform, &ops).await;
    let mut created = Vec::new();
    for name in ["100% Ann", "100x Ben", "Cy_d"] {
        let mut form = Person::new().registration();
        form["displayName"] = name.into();
        created.insert(0, ops.call_as(&admin, CREATE_USER, &form).await.json());
    }
    ops.call(REGISTER, &Person::new().registration()).await.json();
    let list = async |request: Value| ops.call_as(&admin, LIST_USERS, &request).await.json();
    let ids =
        |page: &Value| page["items"].as_array().unwrap().iter().map(|user| user["id"].clone()).collect::<Vec<_>>();

    // ACTIVE are the three and the first administrator, who is the oldest.
    let first = list(json!({ "state": "ACTIVE", "pageSize": 2 })).await;
    let second = list(json!({ "state": "ACTIVE", "pageSize": 2, "pageToken": first["nextPageToken"] })).await;

    assert_eq!(ids(&first), [created[0]["id"].clone(), created[1]["id"].clone()]);
    assert_eq!(ids(&second)[0], created[2]["id"]);
    assert_eq!((ids(&second).len(), &second["nextPageToken"]), (2, &json!("")));
    assert_eq!(ids(&list(json!({})).await).len(), 5);
    assert_eq!(ids(&list(json!({ "query": "100%" })).await), [created[2]["id"].clone()]);
    assert_eq!(ids(&list(json!({ "query": "y_D" })).await), [created[0]["id"].clone()]);
    assert_eq!(ids(&list(json!({ "query": "nobody at all" })).await), [] as [Value; 0]);

    for (request, pointer) in [
        (json!({ "state": "UNVERIFIED", "pageToken": first["nextPageToken"] }), "/pageToken"),
        (json!({ "pageSize": 501 }), "/pageSize"),
        (json!({ "query": "\0" }), "/query"),
        (json!({ "query": "x".repeat(1_025) }), "/query"),
        (json!({ "state": "SLEEPY" }), "/state"),
    ] {
        let problem = ops.call_as(&admin, LIST_USERS, &request).await.problem(422, "validation_failed");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
    let (_, ordinary) = signed_in(&ops).await;
    ops.call_as(&ordinary, LIST_USERS, &json!({})).await.problem(403, "permission_denied");
}

#[tokio::test]
async fn only_the_right_password_of_a_user_who_may_sign_in_is_valid() {
    let platform = services().start().await;
    let ops = platform.user("ops").connect().await;
    let auth = platform.user("auth").connect().await;
    let (person, token) = signed_in(&ops).await;
    let id = ops.call_as(&token, GET_ME, &json!({})).await.json()["id"].clone();
    let verify = async |email: &str, password: &str| {
        auth.call(VERIFY_CREDENTIALS, &json!({ "email": email, "password": password })).await.json()
    };
    let invalid = |user_id: &Value| json!({ "valid": false, "userId": user_id, "roles": [], "passwordVersion": 0 });

    let right = verify(&person.email.to_uppercase(), &person.password).await;

    assert_eq!(right, json!({ "valid": true, "userId": id, "roles": [], "passwordVersion": 1 }));
    for wrong in ["wrong in every way", "", &"x".repeat(1_025), &"x".repeat(20_000), "nul\0nul"] {
        assert_eq!(verify(&person.email, wrong).await, invalid(&id), "{wrong:.20}");
    }
    for nobody in ["nobody@example.org", "", "no address", "nul\0@example.org"] {
        assert_eq!(verify(nobody, &person.password).await, invalid(&json!("")), "{nobody}");
    }

    sqlx::query("UPDATE identity.users SET state = 'DISABLED' WHERE email = $1")
        .bind(&person.email)
        .execute(&mut platform.superuser().await)
        .await
        .unwrap();
    assert_eq!(verify(&person.email, &person.password).await, invalid(&id));
    auth.call(GET_USER_ROLES, &json!({ "userId": id })).await.problem(404, "not_found");
    auth.call(GET_USER_ROLES, &json!({ "userId": NOBODY })).await.problem(404, "not_found");
    auth.call(GET_USER_ROLES, &json!({ "userId": "me" })).await.problem(422, "validation_failed");
}

#[tokio::test]
async fn outdated_hash_is_replaced_when_its_password_is_given() {
    let platform = services().start().await;
    let ops = platform.user("ops").connect().await;
    let (person, _) = signed_in(&ops).await;
    let outdated = HashParameters::new(12_288, 3, 1).unwrap();
    let mut memory: Vec<Block> = Vec::new();
    let outdated = PasswordHash::make(person.password.as_bytes(), [7; 16], outdated, &mut memory);
    let mut database = platform.superuser().await;
    sqlx::query(
        "UPDATE identity.credentials SET password_hash = $2
         WHERE user_id = (SELECT id FROM identity.users WHERE email = $1)",
    )
    .bind(&person.email)
    .bind(outdated.as_str())
    .execute(&mut database)
    .await
    .unwrap();

    let wrong = json!({ "email": person.email, "password": "wrong in every way" });
    ops.call("svc.auth.v1.login", &wrong).await.problem(401, "invalid_credentials");
    let kept = password_hash(&mut database, &person).await;
    access_token(&ops, &person.email, &person.password).await;
    let renewed = password_hash(&mut database, &person).await;

    assert_eq!(kept, outdated.as_str());
    assert!(renewed.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{renewed}");
    access_token(&ops, &person.email, &person.password).await;
}

async fn password_hash(database: &mut PgConnection, person: &Person) -> String {
    sqlx::query_scalar(
        "SELECT password_hash FROM identity.credentials JOIN identity.users ON users.id = user_id WHERE email = $1",
    )
    .bind(&person.email)
    .fetch_one(database)
    .await
    .unwrap()
}

#[tokio::test]
async fn five_starts_at_once_make_one_administrator() {
    let platform = services().instances("identity", 5).start().await;

    platform.settled().await;

    assert_eq!(count(&platform, "SELECT count(*) FROM identity.user_roles WHERE role = 'admin'").await, 1);
    assert_eq!(count(&platform, "SELECT count(*) FROM identity.users").await, 1);
    let entry = "SELECT count(*) FROM audit.entries
                 WHERE action = 'identity.user.created' AND actor_type = 'SERVICE' AND actor_id = 'identity'";
    assert_eq!(count(&platform, entry).await, 1);
}
