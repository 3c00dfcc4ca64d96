//! What readers rely on does not break, and the committed documents say what the contract says.

use serde_json::{Map, Value};
use subjects::baseline::{CURRENT, breaks};
use subjects::{Endpoint, Http, HttpMethod};

const COMMITTED: &str = include_str!("../baseline.json");

#[test]
fn the_committed_documents_are_fresh() {
    let remedy = "run .ci/generate and commit what it writes";
    assert_eq!(include_str!("../openapi.json"), subjects::openapi::document(), "openapi.json is stale: {remedy}");
    assert_eq!(COMMITTED, CURRENT, "baseline.json is stale: {remedy}");
}

#[test]
fn no_reader_of_the_committed_contract_breaks() {
    let (old, new) = (parse(COMMITTED), parse(CURRENT));
    assert_eq!(breaks(&old, &new), Vec::<String>::new());
}

#[test]
fn each_way_to_break_a_reader_is_seen() {
    let old = parse(COMMITTED);
    let user = "/messages/trunkline.identity.v1.User/email";
    let me = "/endpoints/svc.identity.v1.get_me";
    for (at, to) in [
        (format!("{user}/number"), Value::from(77)),
        (format!("{user}/type"), Value::from("uint32")),
        (format!("{user}/json"), Value::from("mail")),
        (user.to_owned(), Value::Null),
        (format!("{me}/access"), Value::from("public")),
        (format!("{me}/route"), Value::Null),
        (me.to_owned(), Value::Null),
        ("/endpoints/svc.authz.v1.update_role/takesIfMatch".to_owned(), Value::Null),
        ("/enums/trunkline.identity.v1.User.State/ACTIVE".to_owned(), Value::from(9)),
        ("/events/evt.identity.user.registered".to_owned(), Value::Null),
    ] {
        let mut new = old.clone();
        *new.pointer_mut(&at).expect(&at) = to;
        assert_eq!(breaks(&old, &new).len(), 1, "{at}");
    }
}

#[test]
fn an_addition_and_a_stricter_access_break_nobody() {
    let old = parse(COMMITTED);
    let mut new = old.clone();
    new["endpoints"]["svc.identity.v1.get_me"]["access"] = Value::from("permission identity.users.read");
    new["messages"]["trunkline.identity.v1.User"]["nickname"] = Value::from(Map::new());
    assert_eq!(breaks(&old, &new), Vec::<String>::new());
}

/// The build refuses what this would find; it is said here in other words.
#[test]
fn whatever_changes_what_has_a_revision_takes_if_match() {
    let operations = || subjects::endpoints().filter_map(|endpoint| Some((endpoint, endpoint.http.as_ref()?)));
    let mut kinds = 0;
    for (shows, resource) in operations().filter(|(endpoint, _)| endpoint.shows_revision) {
        if resource.method != HttpMethod::Get {
            continue;
        }
        kinds += 1;
        for (endpoint, http) in operations().filter(|(_, http)| http.path.starts_with(resource.path)) {
            let is_edit = http.path == resource.path || endpoint.reply == shows.reply;
            let takes = http.method != HttpMethod::Get && is_edit;
            assert!(endpoint.takes_if_match || !takes, "{} edits what {} shows", endpoint.subject, shows.subject);
        }
        // `/users/me` is edited at another path.
        let mut takers = operations().filter(|(endpoint, _)| endpoint.takes_if_match);
        assert!(
            takers.any(|(endpoint, http)| endpoint.reply == shows.reply || http.path.starts_with(resource.path)),
            "{} shows a revision, and nothing takes it",
            shows.subject
        );
    }
    assert!(kinds >= 6, "users and the caller, roles, groups, queues and schedules");
    for (endpoint, http) in operations().filter(|(endpoint, _)| endpoint.takes_if_match) {
        let above = |(shows, resource): (&Endpoint, &Http)| {
            shows.shows_revision && resource.method == HttpMethod::Get && http.path.starts_with(resource.path)
        };
        assert!(operations().any(above), "{} takes a revision that nothing shows", endpoint.subject);
    }
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).expect("the baseline is JSON")
}
