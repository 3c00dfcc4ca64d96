//! What an endpoint promises, seen from outside over a real broker.

#![allow(clippy::unwrap_used, clippy::float_cmp, reason = "a test ends where it is surprised")]

mod probe;
mod servers;

use std::time::Duration;

use async_nats::Client;
use futures::StreamExt as _;
use prost::Message as _;
use subjects::identity::v1::{RegisterReply, RegisterRequest, User};
use tokio::time::{Instant, timeout};

use crate::probe::{Authz, Keys, ask, body, headers, metric, refusal};
use crate::servers::nats::{Nats, OBSERVER};

const REGISTER: &str = "svc.identity.v1.register";
const GET_ME: &str = "svc.identity.v1.get_me";
const GET_USER: &str = "svc.identity.v1.get_user";
const LIST_USERS: &str = "svc.identity.v1.list_users";
const VERIFY_CREDENTIALS: &str = "svc.identity.v1.verify_credentials";

/// Headers.
type Pairs<'a> = &'a [(&'a str, &'a str)];

async fn works(client: &Client) {
    assert_eq!(refusal(&ask(client, REGISTER, &[], r#"{"email":"a"}"#).await), None);
}

#[tokio::test]
async fn each_codec_is_answered_in_kind() {
    let server = Nats::start().await;
    let running = probe::start(&server).await;
    let client = server.client(OBSERVER).await;

    let plain = ask(&client, REGISTER, &[], "").await;
    let json = ask(&client, REGISTER, &[("Content-Type", "application/json")], "{}").await;
    let request = RegisterRequest { email: "a".to_owned(), ..RegisterRequest::default() };
    let protobuf = async_nats::Request::new()
        .headers(headers(&[("Content-Type", "application/protobuf")]))
        .payload(request.encode_to_vec().into());
    let protobuf = client.send_request(REGISTER, protobuf).await.unwrap();
    let foreign = ask(&client, REGISTER, &[("Content-Type", "text/xml")], "<a/>").await;

    assert_eq!((&plain.payload[..], plain.headers.is_none()), (&b"{}"[..], true));
    assert_eq!(json.headers.unwrap().get("Content-Type").unwrap().as_str(), "application/json");
    RegisterReply::decode(protobuf.payload).unwrap();
    assert_eq!(protobuf.headers.unwrap().get("Content-Type").unwrap().as_str(), "application/protobuf");
    assert_eq!(refusal(&foreign), Some((415, "unsupported_media_type".to_owned())));
    running.stop().await.unwrap();
}

#[tokio::test]
async fn bad_input_gets_its_refusal_and_the_next_request_works() {
    let server = Nats::start().await;
    let running = probe::start(&server).await;
    let client = server.client(OBSERVER).await;
    let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    let large = format!(r#"{{"email":"{}"}}"#, "x".repeat(70_000));
    let varints = "\u{7f}".repeat(60_000);
    let cases: [(Pairs<'_>, &str, u16, &str); 16] = [
        (&[], "{", 400, "malformed_body"),
        (&[], r#"{"email":"a"} x"#, 400, "malformed_body"),
        (&[], r#"{"email":"a","email":"b"}"#, 400, "malformed_body"),
        (&[], "\u{feff}{}", 400, "malformed_body"),
        (&[], &deep, 400, "malformed_body"),
        (&[], r#"{"nobody":1}"#, 422, "validation_failed"),
        (&[], r#"{"email":1}"#, 422, "validation_failed"),
        (&[], "[]", 422, "validation_failed"),
        (&[], &large, 413, "body_too_large"),
        (&[("Content-Type", "application/protobuf")], "\u{a}\u{7f}x", 400, "malformed_body"),
        (&[("Content-Type", "application/protobuf")], &varints, 400, "malformed_body"),
        (&[("Request-Timeout-Ms", "0")], "{}", 504, "deadline_exceeded"),
        (&[("Request-Timeout-Ms", "-1")], "{}", 400, "invalid_header"),
        (&[("Trunkline-Context", "?")], "{}", 400, "invalid_header"),
        (&[("traceparent", "a"), ("traceparent", "b")], "{}", 400, "duplicate_header"),
        (&[("X", &"x".repeat(17_000))], "{}", 431, "headers_too_large"),
    ];

    for (pairs, text, status, code) in cases {
        let reply = ask(&client, REGISTER, pairs, text).await;
        assert_eq!(refusal(&reply), Some((status, code.to_owned())), "{}", &text[..text.len().min(80)]);
        works(&client).await;
    }
    let many: Vec<(String, String)> = (0..1_000).map(|n| (format!("X-{n}"), "1".to_owned())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(refusal(&ask(&client, REGISTER, &many, "{}").await), None);
    running.stop().await.unwrap();
}

#[tokio::test]
async fn error_of_a_handler_keeps_its_number_and_its_cause_stays_inside() {
    let server = Nats::start().await;
    let running = probe::start(&server).await;
    let client = server.client(OBSERVER).await;

    let reply = ask(&client, REGISTER, &[("Request-Id", "r-1")], r#"{"email":"refuse"}"#).await;

    assert_eq!(refusal(&reply), Some((409, "taken".to_owned())));
    assert_eq!(body(&reply)["requestId"], "r-1");
    assert_eq!(reply.headers.as_ref().unwrap().get("Content-Type").unwrap().as_str(), "application/problem+json");
    assert!(!String::from_utf8_lossy(&reply.payload).contains("hunter2"));
    running.stop().await.unwrap();
}

#[tokio::test]
async fn panic_is_500_and_the_process_lives() {
    let server = Nats::start().await;
    let running = probe::start(&server).await;
    let client = server.client(OBSERVER).await;

    let reply = ask(&client, REGISTER, &[("Request-Id", "r-2")], r#"{"email":"panic"}"#).await;

    assert_eq!(refusal(&reply), Some((500, "internal".to_owned())));
    assert_eq!(body(&reply)["requestId"], "r-2");
    works(&client).await;
    assert!(running.readiness().report().await.ready);
    running.stop().await.unwrap();
}

#[tokio::test]
async fn handler_is_cancelled_at_the_deadline() {
    let server = Nats::start().await;
    let running = probe::start(&server).await;
    let client = server.client(OBSERVER).await;

    let began = Instant::now();
    let reply =
        ask(&client, REGISTER, &[("Request-Timeout-Ms", "200")], r#"{"email":"sleep","password":"5000"}"#).await;

    assert_eq!(refusal(&reply), Some((504, "deadline_exceeded".to_owned())));
    assert!((Duration::from_millis(150)..Duration::from_millis(4_500)).contains(&began.elapsed()));
    assert!(metric(&running, "trunkline_requests_in_flight") <= 1.0);
    running.stop().await.unwrap();
}

#[tokio::test]
async fn answer_larger_than_the_broker_takes_is_a_small_error() {
    let server = Nats::start().await;
    let running = probe::start(&server).await;
    let client = server.client(OBSERVER).await;

    let reply = ask(&client, VERIFY_CREDENTIALS, &[], r#"{"email":"big"}"#).await;

    assert_eq!(refusal(&reply), Some((500, "reply_too_large".to_owned())));
    works(&client).await;
    running.stop().await.unwrap();
}

#[tokio::test]
async fn requests_that_ask_for_an_answer_elsewhere_or_none_are_dropped() {
    let server = Nats::start().await;
    let running = probe::start(&server).await;
    let client = server.client(OBSERVER).await;
    let mut everything = client.subscribe(">").await.unwrap();

    let elsewhere = ["audit.identity.forged", "$JS.API.STREAM.PURGE.AUDIT", "svc.auth.v1.get_jwks"];
    for reply in elsewhere {
        client.publish_with_reply(REGISTER, reply, "{}".into()).await.unwrap();
    }
    client.publish(REGISTER, "{}".into()).await.unwrap();
    works(&client).await;

    assert_eq!(metric(&running, r#"trunkline_requests_dropped_total{kind="foreign_reply"}"#), 3.0);
    assert_eq!(metric(&running, r#"trunkline_requests_dropped_total{kind="no_reply"}"#), 1.0);
    while let Ok(Some(seen)) = timeout(Duration::from_millis(300), everything.next()).await {
        assert!(!elsewhere.contains(&seen.subject.as_str()), "{}", seen.subject);
    }
    running.stop().await.unwrap();
}

#[tokio::test]
async fn token_and_permission_decide() {
    let server = Nats::start().await;
    let keys = Keys::serve(&server).await;
    let authz = Authz::serve(&server).await;
    authz.know("a-1", true, &["admin"], &[]);
    let running = probe::start(&server).await;
    let client = server.client(OBSERVER).await;
    let bearer = |token: &str| format!("Bearer {token}");
    let (user, admin) = (bearer(&keys.token("u-1", &["user"])), bearer(&keys.token("a-1", &["admin"])));
    let refused = async |subject, authorization: &str| {
        refusal(&ask(&client, subject, &[("Authorization", authorization)], "").await)
    };

    let me = ask(&client, GET_ME, &[("Authorization", &user)], "").await;
    assert_eq!((refusal(&me), body(&me)["id"].as_str()), (None, Some("u-1")));
    assert_eq!(refused(LIST_USERS, &admin).await, None);
    assert_eq!(refused(LIST_USERS, &user).await, Some((403, "permission_denied".to_owned())));
    // What the token says of roles grants nothing.
    let pretender = bearer(&keys.token("u-2", &["admin"]));
    assert_eq!(refused(LIST_USERS, &pretender).await, Some((403, "permission_denied".to_owned())));
    for bad in ["Bearer x.y.z", "Basic abc", "Bearer", "", &user[..user.len() - 2]] {
        assert_eq!(refused(GET_ME, bad).await, Some((401, "invalid_token".to_owned())), "{bad}");
        assert_eq!(refused(REGISTER, bad).await, None, "a public endpoint looks at no token");
    }
    assert_eq!(refusal(&ask(&client, GET_ME, &[], "").await), Some((401, "invalid_token".to_owned())));
    // A body that cannot be read is told before whether one may; both come after the token.
    let unread = ask(&client, LIST_USERS, &[("Authorization", &user)], "{").await;
    assert_eq!(refusal(&unread), Some((400, "malformed_body".to_owned())));
    running.stop().await.unwrap();
}

#[tokio::test]
async fn bound_fields_come_from_the_context_only() {
    use base64::Engine as _;
    use subjects::wire::v1::{Binding, CallContext};

    let server = Nats::start().await;
    let authz = Authz::serve(&server).await;
    authz.know("a-1", true, &["admin"], &[]);
    let keys = Keys::serve(&server).await;
    let running = probe::start(&server).await;
    let client = server.client(OBSERVER).await;
    let context = |field: &str, value: &str| {
        let context = CallContext {
            access_token: keys.token("a-1", &["admin"]),
            bindings: vec![Binding { field: field.to_owned(), value: value.to_owned() }],
            ..CallContext::default()
        };
        base64::engine::general_purpose::STANDARD_NO_PAD.encode(context.encode_to_vec())
    };

    let bound = ask(&client, GET_USER, &[("Trunkline-Context", &context("user_id", "u-7"))], "").await;
    let named =
        ask(&client, GET_USER, &[("Trunkline-Context", &context("user_id", "u-7"))], r#"{"userId":"u-8"}"#).await;
    let unfit = ask(&client, LIST_USERS, &[("Trunkline-Context", &context("page_size", "many"))], "").await;

    assert_eq!(body(&bound)["id"], "u-7");
    assert_eq!(refusal(&named), Some((400, "bound_field_in_body".to_owned())));
    assert_eq!(refusal(&unfit), Some((422, "validation_failed".to_owned())));
    assert_eq!(body(&unfit)["errors"][0]["pointer"], "/pageSize");
    running.stop().await.unwrap();
}

#[tokio::test]
async fn typed_clients_send_the_revision_that_they_change_and_send_it_once() {
    use base64::Engine as _;
    use subjects::wire::v1::CallContext;

    let server = Nats::start().await;
    let running = probe::start(&server).await;
    let client = server.client(OBSERVER).await;

    let unserved = ask(&client, REGISTER, &[], r#"{"email":"if match"}"#).await;
    assert_eq!(refusal(&unserved), Some((503, "unavailable".to_owned())));
    let tried = r#"trunkline_calls_total{endpoint="svc.authz.v1.authorize",outcome="no_responders"}"#;
    assert_eq!(
        metric(&running, tried),
        1.0,
        "had it been carried out, another attempt would be told of a stale revision"
    );

    let authz = server.client("authz").await;
    let mut questions = authz.queue_subscribe("svc.authz.v1.authorize", "authz".to_owned()).await.unwrap();
    authz.flush().await.unwrap();
    let asking = ask(&client, REGISTER, &[("Request-Timeout-Ms", "3000")], r#"{"email":"if match"}"#);
    let (_, question) = futures::future::join(asking, questions.next()).await;
    let headers = question.unwrap().headers.unwrap();
    let context = headers.get("Trunkline-Context").unwrap().as_str();
    let context = base64::engine::general_purpose::STANDARD_NO_PAD.decode(context).unwrap();
    assert_eq!(CallContext::decode(context.as_slice()).unwrap().if_match.as_deref(), Some("\"17\""));
    running.stop().await.unwrap();
}

#[tokio::test]
async fn full_endpoint_says_so_at_once() {
    let server = Nats::start().await;
    let mut process = probe::process(&server);
    process.endpoints.in_flight_per_endpoint_max = 2;
    let running = probe::start_with(process).await;
    let client = server.client(OBSERVER).await;
    let sleeping = || ask(&client, REGISTER, &[], r#"{"email":"sleep","password":"2800"}"#);

    let (one, two, three) = tokio::join!(sleeping(), sleeping(), async {
        while metric(&running, "trunkline_requests_in_flight") < 2.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        sleeping().await
    });

    // Had it waited for its place, it would have been served.
    assert_eq!((refusal(&one), refusal(&two)), (None, None));
    assert_eq!(refusal(&three), Some((503, "overloaded".to_owned())));
    assert_eq!(three.headers.as_ref().unwrap().get("Retry-After").unwrap().as_str(), "1");
    works(&client).await;
    running.stop().await.unwrap();
}

#[tokio::test]
async fn discovery_answers_as_micro_clients_expect() {
    let server = Nats::start().await;
    let running = probe::start(&server).await;
    let client = server.client("ops").await;
    works(&server.client(OBSERVER).await).await;
    let _ = ask(&server.client(OBSERVER).await, REGISTER, &[], "{").await;

    let ping = body(&client.request("$SRV.PING", "".into()).await.unwrap());
    let info = body(&client.request("$SRV.INFO.identity", "".into()).await.unwrap());
    let id = ping["id"].as_str().unwrap().to_owned();
    let stats = body(&client.request(format!("$SRV.STATS.identity.{id}"), "".into()).await.unwrap());

    for (answer, kind) in [(&ping, "ping"), (&info, "info"), (&stats, "stats")] {
        assert_eq!(answer["type"], format!("io.nats.micro.v1.{kind}_response"));
        assert_eq!(
            (&answer["name"], &answer["version"], &answer["id"]),
            (&"identity".into(), &"1.2.3".into(), &ping["id"])
        );
        assert!(answer["metadata"].as_object().unwrap().values().all(serde_json::Value::is_string), "{answer}");
        assert!(answer["metadata"]["adminUrl"].as_str().unwrap().starts_with("http://127.0.0.1:"));
    }
    assert_eq!(info["description"], "A probe.");
    assert_eq!(info["endpoints"].as_array().unwrap().len(), 5);
    let endpoint = &info["endpoints"][0];
    assert_eq!((&endpoint["name"], &endpoint["subject"]), (&"register".into(), &REGISTER.into()));
    assert_eq!(endpoint["queue_group"], "identity");
    assert_eq!(endpoint["metadata"]["http"], "POST /api/v1/registrations");
    assert_eq!(endpoint["metadata"]["access"], "public");
    let counted = &stats["endpoints"][0];
    assert_eq!((&counted["num_requests"], &counted["num_errors"]), (&2.into(), &1.into()));
    assert_eq!(counted["last_error"], "400:malformed_body");
    assert!(counted["average_processing_time"].is_u64() && counted["processing_time"].as_u64().unwrap() > 0);
    assert_eq!(stats["endpoints"][1]["last_error"], "");
    chrono::DateTime::parse_from_rfc3339(stats["started"].as_str().unwrap()).unwrap();
    running.stop().await.unwrap();
}

#[tokio::test]
async fn plain_caller_without_any_header_is_served() {
    let server = Nats::start().await;
    let keys = Keys::serve(&server).await;
    let running = probe::start(&server).await;
    let client = server.client(OBSERVER).await;

    let token = format!("Bearer {}", keys.token("u-1", &[]));
    let protobuf = [("Content-Type", "application/protobuf"), ("Authorization", token.as_str())];
    let user = User::decode(ask(&client, GET_ME, &protobuf, "").await.payload).unwrap();

    assert_eq!(user.id, "u-1");
    assert_eq!(user.display_name.len(), 36, "an id is made where none comes");
    running.stop().await.unwrap();
}
