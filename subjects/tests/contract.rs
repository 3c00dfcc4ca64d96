//! What readers rely on does not break, and the committed documents say what the contract says.

use serde_json::{Map, Value};
use subjects::baseline::{CURRENT, breaks};

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

fn parse(text: &str) -> Value {
    serde_json::from_str(text).expect("the baseline is JSON")
}
