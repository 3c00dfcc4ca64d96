//! What readers rely on, in a form that a test can compare: fields by number, type and JSON name, enum words,
//! operations with their access, events.

use prost_reflect::{FieldDescriptor, Kind};
use serde_json::{Map, Value, json};

use crate::model::{Access, Contract, Result, snake};

pub fn document(contract: &Contract) -> Result<String> {
    let mut messages = Map::new();
    let mut enums = Map::new();
    let ours = |package: &str| package.starts_with("trunkline.") && package != "trunkline.options.v1";
    for message in contract.pool.all_messages().filter(|m| ours(m.package_name())) {
        let fields: Map<String, Value> = message
            .fields()
            .map(|f| (f.name().to_owned(), json!({ "number": f.number(), "type": kind(&f), "json": f.json_name() })))
            .collect();
        messages.insert(message.full_name().to_owned(), fields.into());
    }
    for descriptor in contract.pool.all_enums().filter(|e| ours(e.package_name())) {
        let prefix = format!("{}_", snake(descriptor.name()).to_uppercase());
        let words: Map<String, Value> = descriptor
            .values()
            .map(|v| (v.name().strip_prefix(&prefix).unwrap_or(v.name()).to_owned(), v.number().into()))
            .collect();
        enums.insert(descriptor.full_name().to_owned(), words.into());
    }
    let endpoints: Map<String, Value> = contract
        .endpoints()
        .map(|(_, e)| {
            let access = match &e.access {
                Access::Public => "public".to_owned(),
                Access::Token => "token".to_owned(),
                Access::Permission(permission) => format!("permission {permission}"),
                // Which services guard something follows from the other operations.
                Access::Internal { guards: true, .. } => "internal guards".to_owned(),
                Access::Internal { callers, .. } => format!("internal {}", callers.join(",")),
            };
            let route = e.http.as_ref().map(|h| format!("{} {}", h.method.to_uppercase(), h.path));
            let mut shape =
                json!({ "access": access, "route": route, "request": e.request.full_name(), "reply": e.reply.full_name() });
            if e.takes_if_match {
                shape["takesIfMatch"] = true.into();
            }
            (e.subject.clone(), shape)
        })
        .collect();
    let events: Map<String, Value> = contract
        .services
        .iter()
        .flat_map(|s| &s.events)
        .map(|e| (e.subject.clone(), e.message.full_name().into()))
        .collect();
    let jobs: Map<String, Value> = contract
        .services
        .iter()
        .flat_map(|s| &s.jobs)
        .map(|job| (format!("{}.{}", job.queue, job.kind), job.message.full_name().into()))
        .collect();
    let document =
        json!({ "endpoints": endpoints, "enums": enums, "events": events, "jobs": jobs, "messages": messages });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

fn kind(field: &FieldDescriptor) -> String {
    let name = match field.kind() {
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(descriptor) => descriptor.full_name().to_owned(),
        scalar => format!("{scalar:?}").to_lowercase(),
    };
    if field.is_list() { format!("repeated {name}") } else { name }
}
