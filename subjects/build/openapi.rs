//! The OpenAPI 3.1 document of every operation that has an HTTP route.

use std::collections::BTreeMap;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use crate::model::{Access, Contract, Endpoint, Http, Result, Service, field_comment, snake};

pub fn document(contract: &Contract) -> Result<String> {
    let mut schemas = BTreeMap::new();
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for (service, endpoint) in contract.endpoints() {
        if let Some(http) = &endpoint.http {
            let operation = operation(service, endpoint, http, &mut schemas);
            paths.entry(public_path(http, endpoint)).or_default().insert(http.method.to_lowercase(), operation);
        }
    }
    schemas.insert("Problem".to_owned(), problem());
    schemas.insert("CloudEvent".to_owned(), cloud_event());
    paths.entry("/api/v1/events".to_owned()).or_default().insert("get".to_owned(), tail_events());
    let services = contract.services.iter().map(|s| json!({ "name": s.name, "description": s.description }));
    let events = json!({ "name": "events", "description": "What has happened, shown by the gateway as it is stored." });
    let tags: Vec<Value> = services.chain([events]).collect();
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Trunkline",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Every operation stands here as HTTP and, with the same JSON, on the NATS subject of `x-nats-subject`.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" } },
            "parameters": { "IfMatch": if_match() },
            "headers": { "ETag": etag() },
            "responses": {
                "Problem": {
                    "description": "What went wrong (RFC 9457).",
                    "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
                },
                "PreconditionFailed": {
                    "description": "The resource has another revision than `If-Match` names (`precondition_failed`). Nothing was \
                        changed: read it again, and decide anew.",
                    "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
                },
            },
        },
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

/// Path parameters are shown by their JSON names.
fn public_path(http: &Http, endpoint: &Endpoint) -> String {
    http.path_fields
        .iter()
        .filter_map(|name| endpoint.request.get_field_by_name(name))
        .fold(http.path.clone(), |path, field| {
            path.replace(&format!("{{{}}}", field.name()), &format!("{{{}}}", field.json_name()))
        })
}

fn operation(service: &Service, endpoint: &Endpoint, http: &Http, schemas: &mut BTreeMap<String, Value>) -> Value {
    let mut parameters = Vec::new();
    for (place, names) in [("path", &http.path_fields), ("query", &http.query_fields)] {
        for field in names.iter().filter_map(|name| endpoint.request.get_field_by_name(name)) {
            parameters.push(json!({
                "name": field.json_name(), "in": place, "required": place == "path",
                "description": field_comment(&field), "schema": field_schema(&field, schemas),
            }));
        }
    }
    if endpoint.takes_if_match {
        parameters.push(json!({ "$ref": "#/components/parameters/IfMatch" }));
    }
    let mut success = if http.success == 204 {
        json!({ "description": "Done." })
    } else {
        json!({
            "description": "Done.",
            "content": if http.streamed {
                json!({ "application/x-ndjson": { "schema": { "description": "One JSON value a line." } } })
            } else {
                json!({ "application/json": { "schema": reference(&endpoint.reply, schemas) } })
            },
        })
    };
    if endpoint.shows_revision {
        success["headers"] = json!({ "ETag": { "$ref": "#/components/headers/ETag" } });
    }
    let mut operation = json!({
        "operationId": lower_camel(&endpoint.rpc),
        "tags": [service.name],
        "summary": endpoint.description.split_inclusive(". ").next().unwrap_or_default().trim(),
        "description": endpoint.description,
        "parameters": parameters,
        "responses": { http.success.to_string(): success, "default": { "$ref": "#/components/responses/Problem" } },
        "x-nats-subject": endpoint.subject,
        "x-timeout-ms": endpoint.timeout_ms,
        "x-idempotent": endpoint.idempotent,
    });
    if endpoint.takes_if_match {
        operation["responses"]["412"] = json!({ "$ref": "#/components/responses/PreconditionFailed" });
    }
    match &endpoint.access {
        Access::Public | Access::Internal { .. } => operation["security"] = json!([]),
        Access::Token => operation["security"] = json!([{ "bearer": [] }]),
        Access::Permission(permission) => {
            operation["security"] = json!([{ "bearer": [] }]);
            operation["x-permission"] = json!(permission);
        }
    }
    let has_body = endpoint.request.fields().any(|field| !http.path_fields.iter().any(|name| name == field.name()));
    if !matches!(http.method, "Get" | "Delete") && has_body {
        operation["requestBody"] = json!({
            "required": true,
            "content": { "application/json": { "schema": reference(&endpoint.request, schemas) } },
        });
    }
    operation
}

fn reference(message: &MessageDescriptor, schemas: &mut BTreeMap<String, Value>) -> Value {
    match message.full_name() {
        "google.protobuf.Timestamp" => return json!({ "type": "string", "format": "date-time" }),
        "trunkline.free.v1.TextList" => return json!({ "type": "array", "items": { "type": "string" } }),
        "trunkline.free.v1.RawJson" => return json!({ "description": "Any JSON value." }),
        _ => {}
    }
    let name = schema_name(message.full_name());
    if !schemas.contains_key(&name) {
        schemas.insert(name.clone(), Value::Null); // Ends recursion.
        let properties: Map<String, Value> = message
            .fields()
            .map(|field| {
                let mut schema = field_schema(&field, schemas);
                let comment = field_comment(&field);
                if !comment.is_empty() {
                    schema["description"] = comment.into();
                }
                (field.json_name().to_owned(), schema)
            })
            .collect();
        schemas.insert(name.clone(), json!({ "type": "object", "properties": properties }));
    }
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn field_schema(field: &FieldDescriptor, schemas: &mut BTreeMap<String, Value>) -> Value {
    let one = match field.kind() {
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Uint32 => json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX }),
        Kind::Int32 => json!({ "type": "integer", "format": "int32" }),
        Kind::Double | Kind::Float => json!({ "type": "number" }),
        Kind::Bytes => json!({ "type": "string", "contentEncoding": "base64" }),
        Kind::Enum(kind) => {
            let prefix = format!("{}_", snake(kind.name()).to_uppercase());
            let words: Vec<String> = kind
                .values()
                .filter(|value| value.number() != 0)
                .map(|value| value.name().strip_prefix(&prefix).unwrap_or(value.name()).to_owned())
                .collect();
            json!({ "type": "string", "enum": words })
        }
        Kind::Message(message) => reference(&message, schemas),
        // Strings, and 64-bit numbers, which stand as strings in proto3 JSON.
        _ => json!({ "type": "string" }),
    };
    if field.is_list() { json!({ "type": "array", "items": one }) } else { one }
}

/// `trunkline.identity.v1.User` → `identity.User`.
fn schema_name(full_name: &str) -> String {
    full_name.strip_prefix("trunkline.").unwrap_or(full_name).replacen(".v1.", ".", 1)
}

fn lower_camel(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

fn if_match() -> Value {
    json!({
        "name": "If-Match", "in": "header", "required": false,
        "description": "Has the change made only if the resource still is what it was when it had this `ETag` (RFC 9110 §13.1.1): \
            one or several in double quotes, or `*` for one that is there. Over NATS a header of the same name. Operations that do \
            not take it refuse it (400 `precondition_not_supported`).",
        "schema": { "type": "string" },
        "example": "\"17\"",
    })
}

fn etag() -> Value {
    json!({
        "description": "The `revision` of the resource in double quotes, as `If-Match` takes it. At a path below the resource, that \
            of the resource.",
        "schema": { "type": "string" },
        "example": "\"17\"",
    })
}

/// The gateway's own operation: it has no subject, since watching over NATS is a plain subscription.
fn tail_events() -> Value {
    json!({
        "operationId": "tailEvents",
        "tags": ["events"],
        "summary": "Events as they are stored.",
        "description": "Server-sent events: `id` is the sequence in the stream, `event` the type, `data` a CloudEvent. \
            With `Last-Event-ID` everything stored behind it comes first, then what follows, without a gap. `event: gap` \
            says that older events are not kept any more, `event: end` why the gateway ends the stream; come back with \
            `Last-Event-ID`. A stream ends with its token at the latest. Needs `events.<service>.read`, and \
            `events.*.read` where `subject` covers several services. Over NATS: subscribe `live.evt.>`.",
        "parameters": [
            {
                "name": "subject", "in": "query", "required": false,
                "description": "A subject filter, `evt.identity.>`; `*` stands for one word, `>` for all the rest. All events where absent.",
                "schema": { "type": "string", "default": "evt.>" },
            },
            {
                "name": "Last-Event-ID", "in": "header", "required": false,
                "description": "The sequence behind which to go on; only what comes where absent.",
                "schema": { "type": "string", "pattern": "^[0-9]+$" },
            },
        ],
        "responses": {
            "200": {
                "description": "The stream.",
                "content": { "text/event-stream": { "schema": { "$ref": "#/components/schemas/CloudEvent" } } },
            },
            "default": { "$ref": "#/components/responses/Problem" },
        },
        "security": [{ "bearer": [] }],
        "x-permission": "events.<service>.read",
        "x-nats-subject": "live.evt.>",
    })
}

fn cloud_event() -> Value {
    let text = || json!({ "type": "string" });
    json!({
        "type": "object",
        "description": "CloudEvents 1.0 in JSON: the `data` of each server-sent event.",
        "required": ["specversion", "id", "source", "type", "sequence"],
        "properties": {
            "specversion": text(), "id": text(), "source": text(), "type": text(), "subject": text(),
            "time": { "type": "string", "format": "date-time" },
            "traceparent": text(), "sequence": text(), "datacontenttype": text(),
            "data": { "description": "The event's own fields." },
        },
    })
}

fn problem() -> Value {
    json!({
        "type": "object",
        "description": "Problem details (RFC 9457).",
        "required": ["type", "title", "status", "code", "detail", "requestId"],
        "properties": {
            "type": { "type": "string", "format": "uri", "description": "`urn:trunkline:problem:<code>`" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "code": { "type": "string", "description": "A stable word in snake_case." },
            "detail": { "type": "string" },
            "requestId": { "type": "string" },
            "errors": { "type": "array", "items": { "type": "object", "properties": {
                "pointer": { "type": "string", "description": "JSON Pointer (RFC 6901) into the request." },
                "code": { "type": "string" },
                "detail": { "type": "string" },
            } } },
        },
    })
}
