//! Nobody overwrites an edit that they have not seen: `ETag` and `If-Match` (RFC 9110 §13.1.1), over HTTP and NATS alike.

use std::collections::BTreeSet;

use platform_tests::{
    Platform, Setup,
    broker::Broker,
    http::{Http, Reply},
    people::Person,
    wait,
};
use reqwest::Method;
use serde_json::{Map, Value, json};
use subjects::Endpoint;

/// Edits of one thing that are made at once.
const AT_ONCE: usize = 8;

/// One thing that is edited, and by what.
struct Resource {
    /// Shows it.
    get: &'static str,
    /// Parameters of the paths of all its operations, by their JSON names.
    parameters: Value,
    /// The operations that change it, in an order in which each changes something, with what their bodies hold.
    edits: Vec<(&'static str, Value)>,
}

/// The ways in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Http,
    Nats,
}

/// Status, code of a problem, tag, body; whichever way it came.
#[derive(Debug)]
struct Answer {
    status: u16,
    code: String,
    tag: String,
    body: Value,
}

struct Client {
    http: Http,
    ops: Broker,
    token: String,
}

impl Client {
    async fn of(platform: &Platform) -> Self {
        let http = platform.admin().await;
        let token = http.token().expect("signed in").to_owned();
        Self { ops: platform.user("ops").connect().await, http, token }
    }

    /// Calls an operation with what its path and its body hold.
    async fn call(
        &self,
        door: Door,
        subject: &str,
        (parameters, body): (&Value, &Value),
        headers: &[(&str, &str)],
    ) -> Answer {
        let endpoint = endpoint(subject);
        match door {
            Door::Http => {
                let route = endpoint.http.as_ref().expect("it has a route");
                let path = route.path_fields.iter().fold(route.path.to_owned(), |path, field| {
                    path.replace(&format!("{{{field}}}"), parameters[camel(field)].as_str().expect("given"))
                });
                let method = Method::from_bytes(route.method.as_str().as_bytes()).expect("a method");
                let mut request = self.http.request(method, &path);
                for (name, value) in headers {
                    request = request.header(*name, *value);
                }
                let reply = Reply::of(if route.method.has_body() { request.json(body) } else { request }).await;
                let tag = reply.header("etag").to_owned();
                let body = serde_json::from_str(&reply.body).unwrap_or_default();
                answer(reply.status, tag, body)
            }
            Door::Nats => {
                let mut whole: Map<String, Value> = body.as_object().cloned().unwrap_or_default();
                for field in endpoint.http.iter().flat_map(|route| route.path_fields) {
                    whole.insert(camel(field), parameters[camel(field)].clone());
                }
                let bearer = format!("Bearer {}", self.token);
                let mut all = vec![("Authorization", bearer.as_str())];
                all.extend_from_slice(headers);
                let reply = self.ops.send(subject, &all, Value::from(whole).to_string().into()).await;
                let body: Value = serde_json::from_slice(&reply.body).expect("JSON");
                let tag = body["revision"].as_str().map(|revision| format!("\"{revision}\"")).unwrap_or_default();
                answer(if reply.error_code == 0 { 200 } else { reply.error_code }, tag, body)
            }
        }
    }

    async fn edit(&self, door: Door, resource: &Resource, edit: &(&str, Value), if_match: &str) -> Answer {
        self.call(door, edit.0, (&resource.parameters, &edit.1), &[("If-Match", if_match)]).await
    }

    async fn get(&self, door: Door, resource: &Resource) -> Answer {
        self.call(door, resource.get, (&resource.parameters, &json!({})), &[]).await
    }

    async fn made(&self, subject: &str, body: Value) -> Value {
        let made = self.call(Door::Http, subject, (&json!({}), &body), &[]).await;
        assert_eq!(made.status, 201, "{made:?}");
        assert_eq!(made.tag, format!("\"{}\"", made.body["revision"].as_str().unwrap()), "what is made has its tag");
        made.body
    }

    /// One of each kind, under a name that nothing else has.
    async fn resources(&self, name: &str) -> Vec<Resource> {
        self.made("svc.authz.v1.create_role", json!({ "name": name })).await;
        let group = self.made("svc.identity.v1.create_group", json!({ "name": name })).await;
        let user = self.made("svc.identity.v1.create_user", Person::new().registration()).await;
        let schedule = json!({ "name": name, "cron": "0 0 1 1 *", "queue": name, "kind": "k" });
        let schedule = self.made("svc.jobs.v1.create_schedule", schedule).await;
        let queue = json!({ "queue": name });
        let put = self.call(Door::Http, "svc.jobs.v1.put_queue", (&queue, &json!({})), &[]).await;
        assert_eq!(put.status, 200, "{put:?}");
        vec![
            Resource {
                get: "svc.authz.v1.get_role",
                parameters: json!({ "role": name, "permission": "identity.users.read" }),
                edits: vec![
                    ("svc.authz.v1.update_role", json!({ "description": "edited" })),
                    ("svc.authz.v1.grant_permission", json!({})),
                    ("svc.authz.v1.revoke_permission", json!({})),
                    ("svc.authz.v1.delete_role", json!({})),
                ],
            },
            Resource {
                get: "svc.identity.v1.get_group",
                parameters: json!({ "groupId": group["id"], "role": "auditor" }),
                edits: vec![
                    ("svc.identity.v1.update_group", json!({ "description": "edited" })),
                    ("svc.identity.v1.assign_group_role", json!({})),
                    ("svc.identity.v1.remove_group_role", json!({})),
                    ("svc.identity.v1.delete_group", json!({})),
                ],
            },
            Resource {
                get: "svc.identity.v1.get_user",
                parameters: json!({ "userId": user["id"] }),
                edits: vec![
                    ("svc.identity.v1.update_user", json!({ "displayName": "edited" })),
                    ("svc.identity.v1.disable_user", json!({})),
                    ("svc.identity.v1.enable_user", json!({})),
                    ("svc.identity.v1.delete_user", json!({})),
                ],
            },
            Resource {
                get: "svc.jobs.v1.get_queue",
                parameters: queue,
                edits: vec![
                    ("svc.jobs.v1.put_queue", json!({ "concurrency": 7 })),
                    ("svc.jobs.v1.pause_queue", json!({})),
                    ("svc.jobs.v1.resume_queue", json!({})),
                ],
            },
            Resource {
                get: "svc.jobs.v1.get_schedule",
                parameters: json!({ "scheduleId": schedule["id"] }),
                edits: vec![
                    ("svc.jobs.v1.update_schedule", json!({ "jitterMs": 5 })),
                    ("svc.jobs.v1.pause_schedule", json!({})),
                    ("svc.jobs.v1.resume_schedule", json!({})),
                    ("svc.jobs.v1.delete_schedule", json!({})),
                ],
            },
        ]
    }
}

fn answer(status: u16, tag: String, body: Value) -> Answer {
    Answer { status, code: body["code"].as_str().unwrap_or_default().to_owned(), tag, body }
}

fn endpoint(subject: &str) -> &'static Endpoint {
    subjects::endpoints().find(|endpoint| endpoint.subject == subject).unwrap_or_else(|| panic!("{subject}"))
}

/// `group_id` → `groupId`.
fn camel(field: &str) -> String {
    let words = field.split('_').enumerate();
    words.map(|(at, word)| if at == 0 { word.to_owned() } else { word[..1].to_uppercase() + &word[1..] }).collect()
}

fn refusal(answer: &Answer) -> (u16, &str) {
    (answer.status, &answer.code)
}

#[tokio::test]
async fn every_edit_of_another_revision_is_refused_and_of_the_same_is_made() {
    let platform = Setup::new().start().await;
    let client = Client::of(&platform).await;
    let takers = || subjects::endpoints().filter(|endpoint| endpoint.takes_if_match).map(|endpoint| endpoint.subject);
    let mut unproven: BTreeSet<(&str, &str)> =
        takers().flat_map(|subject| [("Http", subject), ("Nats", subject)]).collect();

    for (door, other, name) in [(Door::Http, Door::Nats, "by-http"), (Door::Nats, Door::Http, "by-nats")] {
        for resource in client.resources(name).await {
            for edit in &resource.edits {
                let shown = client.get(door, &resource).await;
                assert_eq!((shown.status, shown.tag.is_empty()), (200, false), "{shown:?}");
                assert_eq!(shown.tag, client.get(other, &resource).await.tag, "one tag on both doors");

                for stale in
                    ["\"0\"", "\"stale\", \"0,1\"", &format!("W/{}", shown.tag), &shown.tag.replacen('"', "\"0", 1)]
                {
                    let refused = client.edit(door, &resource, edit, stale).await;
                    assert_eq!(refusal(&refused), (412, "precondition_failed"), "{} {stale}: {refused:?}", edit.0);
                }
                assert_eq!(
                    client.get(door, &resource).await.tag,
                    shown.tag,
                    "{} was refused and changes nothing",
                    edit.0
                );

                let made = client.edit(door, &resource, edit, &format!("\"stale\", {}", shown.tag)).await;
                assert!(made.status < 300, "{}: {made:?}", edit.0);
                let after = client.get(door, &resource).await;
                assert_ne!(after.tag, shown.tag, "{} changes the revision", edit.0);
                assert_eq!(
                    made.tag,
                    if endpoint(edit.0).shows_revision { after.tag.as_str() } else { "" },
                    "{}",
                    edit.0
                );
                if after.status == 200 {
                    let again = client.edit(door, &resource, edit, &shown.tag).await;
                    assert_eq!(refusal(&again), (412, "precondition_failed"), "what was seen is not there any more");
                }
                unproven.remove(&(if door == Door::Http { "Http" } else { "Nats" }, edit.0));
            }
        }
    }

    assert_eq!(unproven, BTreeSet::new(), "operations of which no test shows that they hold If-Match");
}

#[tokio::test]
async fn of_edits_at_once_that_saw_the_same_one_is_made() {
    let mut setup = Setup::new().instances("audit", 0);
    for service in ["authz", "identity", "jobs"] {
        setup = setup.instances(service, 2);
    }
    let platform = setup.start().await;
    let client = Client::of(&platform).await;

    for resource in client.resources("at-once").await {
        let subject = resource.edits[0].0;
        let field = resource.edits[0].1.as_object().unwrap().keys().next().unwrap().clone();
        let seen = client.get(Door::Http, &resource).await;
        let is_text = resource.edits[0].1[&field].is_string();
        let value = |number: usize| if is_text { json!(number.to_string()) } else { json!(number + 1) };
        let edits: Vec<_> = (0..AT_ONCE).map(|number| (subject, json!({ &field: value(number) }))).collect();
        let answers = futures::future::join_all(edits.iter().enumerate().map(|(number, edit)| {
            let door = if number % 2 == 0 { Door::Http } else { Door::Nats };
            client.edit(door, &resource, edit, &seen.tag)
        }))
        .await;

        let winners: Vec<usize> = (0..AT_ONCE).filter(|number| answers[*number].status == 200).collect();
        let [winner] = winners[..] else { panic!("{subject}: one is made: {answers:?}") };
        for (number, answer) in answers.iter().enumerate().filter(|(number, _)| *number != winner) {
            assert_eq!(refusal(answer), (412, "precondition_failed"), "{subject} {number}: {answer:?}");
        }
        // The answers wait for the other instance to hear of it, but not for ever.
        let after = wait::until("every instance shows it", async || {
            let after = client.get(Door::Http, &resource).await;
            (after.tag != seen.tag).then_some(after)
        })
        .await;
        assert_eq!((&after.body[&field], &after.tag), (&value(winner), &answers[winner].tag), "{subject}");
    }
}

#[tokio::test]
async fn edits_and_a_deletion_at_once_do_not_both_happen() {
    let platform = Setup::new().instances("audit", 0).start().await;
    let client = Client::of(&platform).await;

    for resource in client.resources("torn").await {
        let last = resource.edits.last().unwrap();
        if !last.0.contains(".delete_") {
            continue;
        }
        let seen = client.get(Door::Http, &resource).await;
        let (edited, deleted) = futures::future::join(
            client.edit(Door::Nats, &resource, &resource.edits[0], &seen.tag),
            client.edit(Door::Http, &resource, last, &seen.tag),
        )
        .await;

        // Whichever came first: an edit of what is gone finds nothing, a deletion of what was edited is refused.
        if deleted.status < 300 {
            assert_eq!(edited.status, 404, "{edited:?}");
            assert_eq!(client.get(Door::Http, &resource).await.status, 404);
        } else {
            assert_eq!(
                (edited.status, refusal(&deleted)),
                (200, (412, "precondition_failed")),
                "{edited:?} {deleted:?}"
            );
            assert_eq!(client.get(Door::Http, &resource).await.tag, edited.tag);
        }
    }
}

#[tokio::test]
async fn what_was_made_again_under_its_name_is_not_taken_for_the_old() {
    let platform = Setup::new().instances("audit", 0).start().await;
    let client = Client::of(&platform).await;
    let role = json!({ "name": "again", "description": "the same" });
    let old = client.made("svc.authz.v1.create_role", role.clone()).await;
    let name = json!({ "role": "again" });
    client.call(Door::Http, "svc.authz.v1.delete_role", (&name, &json!({})), &[]).await;
    // The name rests for a moment, which is over.
    let is_over = "UPDATE authz.deleted_roles SET deleted_at = deleted_at - interval '1 minute'";
    sqlx::query(is_over).execute(&mut platform.superuser().await).await.unwrap();
    let new = client.made("svc.authz.v1.create_role", role).await;

    let tag = format!("\"{}\"", old["revision"].as_str().unwrap());
    let edit = json!({ "description": "meant for the old" });
    let refused = client.call(Door::Http, "svc.authz.v1.update_role", (&name, &edit), &[("If-Match", &tag)]).await;

    assert_eq!(refusal(&refused), (412, "precondition_failed"));
    assert_ne!(old["revision"], new["revision"]);
}

#[tokio::test]
async fn what_merely_happens_to_a_resource_is_no_edit_of_it() {
    let platform = Setup::new().instances("audit", 0).start().await;
    let client = Client::of(&platform).await;
    let resources = client.resources("busy").await;
    let mut seen = Vec::new();
    for resource in &resources {
        seen.push(client.get(Door::Http, resource).await.tag);
    }

    // A user joins the group and gets the role, a job comes into the queue, the schedule is run.
    let id = |name: &str| resources.iter().find_map(|resource| resource.parameters[name].as_str()).expect("one has it");
    let (group, schedule, user) = (id("groupId"), id("scheduleId"), id("userId"));
    client.http.put(&format!("/api/v1/groups/{group}/members/{user}"), &json!({})).await.json(200);
    client.http.put(&format!("/api/v1/users/{user}/roles/busy"), &json!({})).await.json(200);
    client.http.post("/api/v1/jobs", &json!({ "queue": "busy", "kind": "k" })).await.json(202);
    client.http.post(&format!("/api/v1/schedules/{schedule}/run-now"), &json!({})).await.json(202);

    for (resource, seen) in resources.iter().zip(seen) {
        assert_eq!(client.get(Door::Nats, resource).await.tag, seen, "{}", resource.get);
    }
}

#[tokio::test]
async fn preconditions_that_nobody_holds_are_refused_and_not_passed_over() {
    let platform = Setup::new().instances("audit", 0).start().await;
    let client = Client::of(&platform).await;
    client.made("svc.authz.v1.create_role", json!({ "name": "kept" })).await;
    let (name, edit) = (json!({ "role": "kept" }), json!({ "description": "lost" }));
    let nothing = json!({});

    for door in [Door::Http, Door::Nats] {
        let update = async |value: &str| {
            client.call(door, "svc.authz.v1.update_role", (&name, &edit), &[("If-Match", value)]).await
        };
        for value in ["17", "'17'", "\"17", "17\"", "\"1\" \"2\"", "*, \"1\"", "W/17", ","] {
            let refused = update(value).await;
            assert_eq!(refusal(&refused), (400, "invalid_if_match"), "{door:?} {value}");
            assert_eq!(refused.body["errors"][0]["pointer"], "/If-Match", "{door:?} {value}");
        }
        // Operations that change nothing which has a revision, or show it.
        for (subject, parameters) in [
            ("svc.authz.v1.create_role", &nothing),
            ("svc.authz.v1.get_role", &name),
            ("svc.authz.v1.list_roles", &nothing),
            ("svc.authz.v1.check", &nothing),
        ] {
            let refused = client.call(door, subject, (parameters, &nothing), &[("If-Match", "\"17\"")]).await;
            assert_eq!(refusal(&refused), (400, "precondition_not_supported"), "{door:?} {subject}");
        }
        // Whatever it is, but it must be there: a queue is made by who does not ask that.
        let queue = json!({ "queue": "nowhere" });
        let refused = client.call(door, "svc.jobs.v1.put_queue", (&queue, &nothing), &[("If-Match", "*")]).await;
        assert_eq!(refusal(&refused), (412, "precondition_failed"), "{door:?}");
        let absent = client.call(door, "svc.jobs.v1.get_queue", (&queue, &nothing), &[]).await;
        assert_eq!(refusal(&absent), (404, "queue_not_found"), "{door:?}");
        let absent = json!({ "role": "nowhere" });
        let absent = client.call(door, "svc.authz.v1.update_role", (&absent, &edit), &[("If-Match", "*")]).await;
        assert_eq!(refusal(&absent), (404, "not_found"), "{door:?}");
    }
    for other in
        [("If-None-Match", "*"), ("If-None-Match", "\"17\""), ("If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:00 GMT")]
    {
        let refused = client.call(Door::Http, "svc.authz.v1.update_role", (&name, &edit), &[other]).await;
        assert_eq!(refusal(&refused), (400, "precondition_not_supported"), "{other:?}");
    }
    let stranger = Client { http: platform.http(), ops: client.ops.clone(), token: "nobody's".to_owned() };
    for door in [Door::Http, Door::Nats] {
        let refused = stranger.call(door, "svc.authz.v1.get_role", (&name, &nothing), &[("If-Match", "*")]).await;
        assert_eq!(refusal(&refused), (401, "invalid_token"), "{door:?}: who asks comes first");
    }

    let shown = client.call(Door::Http, "svc.authz.v1.get_role", (&name, &nothing), &[]).await;
    assert_eq!(shown.body["description"], "", "nothing of all that was done");
    let made = client.call(Door::Http, "svc.authz.v1.update_role", (&name, &edit), &[("If-Match", "*")]).await;
    assert_eq!((made.status, &made.body["description"]), (200, &json!("lost")));
}
