//! Traits, clients, endpoint constants, bindings and the list of services.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use prost_reflect::{FieldDescriptor, Kind};

use crate::model::{Access, Contract, Endpoint, Event, GATEWAY, Http, Job, Result, Service, snake};

pub fn generate(contract: &Contract, out: &Path) -> Result<()> {
    for service in &contract.services {
        fs::write(out.join(format!("{}.contract.rs", service.package)), module(service)?)?;
    }
    let mut all = String::from("/// Every service of the platform but the gateway, in order of name.\n");
    let list: Vec<String> =
        contract.services.iter().map(|service| format!("&{}::v1::CONTRACT", service.name)).collect();
    writeln!(all, "pub static SERVICES: &[&ServiceContract] = &[{}];", list.join(", "))?;
    let mut calls: Vec<&str> = contract
        .endpoints()
        .filter(|(_, endpoint)| {
            endpoint.http.is_some()
                || match &endpoint.access {
                    Access::Internal { callers, guards } => *guards || callers.iter().any(|caller| caller == GATEWAY),
                    _ => false,
                }
        })
        .map(|(_, endpoint)| endpoint.subject.as_str())
        .collect();
    calls.sort_unstable();
    writeln!(
        all,
        "/// The gateway serves no subject of its own; it calls every operation that has an HTTP route, and shows events\n\
         /// to who may see them.\n\
         pub static GATEWAY: ServiceContract = ServiceContract {{ name: \"gateway\", version: {:?}, \
         description: \"The HTTP edge.\", endpoints: &[], events: &[], calls: &{calls:?}, consumers: &[], watches: &[\
         WatchContract {{ stream: \"EVENTS\", subjects: &[\"evt.>\"] }}], buckets: &[], enqueues: &[], jobs: &[] }};",
        env!("CARGO_PKG_VERSION"),
    )?;
    let mut changes: Vec<&str> = contract
        .services
        .iter()
        .flat_map(|service| &service.events)
        .filter(|event| event.changes_authorization)
        .map(|event| event.subject.as_str())
        .collect();
    changes.sort_unstable();
    let mut asked: Vec<&str> = contract
        .endpoints()
        .filter(|(_, endpoint)| matches!(endpoint.access, Access::Internal { guards: true, .. }))
        .map(|(_, endpoint)| endpoint.subject.as_str())
        .collect();
    asked.sort_unstable();
    writeln!(
        all,
        "/// The events by which somebody may do more or less than before; every guard hears of them.\n\
         pub static AUTHORIZATION: WatchContract = WatchContract {{ stream: \"EVENTS\", subjects: &{changes:?} }};\n\
         /// The operations by which guards decide.\n\
         pub static DECISIONS: &[&str] = &{asked:?};"
    )?;
    fs::write(out.join("services.rs"), all)?;
    Ok(())
}

fn module(service: &Service) -> Result<String> {
    let mut out = String::new();
    for endpoint in &service.endpoints {
        endpoint_constant(&mut out, service, endpoint)?;
        bindings(&mut out, endpoint)?;
    }
    for event in &service.events {
        event_impl(&mut out, service, event)?;
    }
    for job in &service.jobs {
        job_impl(&mut out, service, job)?;
    }
    let jobs: Vec<String> =
        service.jobs.iter().map(|job| format!("<{} as crate::JobArguments>::CONTRACT", job.message.name())).collect();
    let endpoints: Vec<String> = service.endpoints.iter().map(|e| format!("&{}", constant(&e.name))).collect();
    let events: Vec<String> =
        service.events.iter().map(|e| format!("<{} as crate::Event>::CONTRACT", e.message.name())).collect();
    let consumers: Vec<String> = service
        .consumers
        .iter()
        .map(|c| {
            format!(
                "crate::ConsumerContract {{ stream: {:?}, durable: {:?}, filters: &{:?} }}",
                c.stream, c.durable, c.filters
            )
        })
        .collect();
    let watches: Vec<String> = service
        .watches
        .iter()
        .map(|w| format!("crate::WatchContract {{ stream: {:?}, subjects: &{:?} }}", w.stream, w.subjects))
        .collect();
    let enqueues: Vec<String> = service
        .enqueues
        .iter()
        .map(|e| format!("crate::EnqueuesContract {{ queue: {:?}, delayed: {} }}", e.queue, e.delayed))
        .collect();
    writeln!(
        out,
        "/// What {name} serves, publishes, calls and consumes.\n\
         pub static CONTRACT: crate::ServiceContract = crate::ServiceContract {{ name: {name:?}, version: {:?}, \
         description: {:?}, endpoints: &[{}], events: &[{}], calls: &{:?}, consumers: &[{}], watches: &[{}], \
         buckets: &{:?}, enqueues: &[{}], jobs: &[{}] }};",
        service.version,
        service.description,
        endpoints.join(", "),
        events.join(", "),
        service.calls,
        consumers.join(", "),
        watches.join(", "),
        service.buckets,
        enqueues.join(", "),
        jobs.join(", "),
        name = service.name,
    )?;
    service_trait(&mut out, service)?;
    client(&mut out, service)?;
    Ok(out)
}

fn constant(name: &str) -> String {
    name.to_uppercase()
}

fn endpoint_constant(out: &mut String, service: &Service, endpoint: &Endpoint) -> Result<()> {
    let access = match &endpoint.access {
        Access::Public => "crate::Access::Public".to_owned(),
        Access::Token => "crate::Access::Token".to_owned(),
        Access::Permission(permission) => format!("crate::Access::Permission({permission:?})"),
        Access::Internal { callers, guards } => {
            let gateway = guards.then(|| GATEWAY.to_owned());
            let callers: Vec<&String> = callers.iter().chain(&gateway).collect();
            format!("crate::Access::Internal(&{callers:?})")
        }
    };
    let http = match &endpoint.http {
        None => "None".to_owned(),
        Some(Http { method, path, success, path_fields, query_fields, cache_max_age_s, streamed }) => {
            let query: Vec<String> = query_fields
                .iter()
                .filter_map(|name| endpoint.request.get_field_by_name(name))
                .map(|f| {
                    format!(
                        "crate::QueryField {{ name: {:?}, field: {:?}, repeated: {} }}",
                        f.json_name(),
                        f.name(),
                        f.is_list()
                    )
                })
                .collect();
            format!(
                "Some(crate::Http {{ method: crate::HttpMethod::{method}, path: {path:?}, success: {success}, \
                 path_fields: &{path_fields:?}, query_fields: &[{}], cache_max_age_s: {cache_max_age_s}, streamed: {streamed} }})",
                query.join(", ")
            )
        }
    };
    writeln!(
        out,
        "#[doc = {doc:?}]\npub static {}: crate::Endpoint = crate::Endpoint {{ service: {:?}, name: {:?}, rpc: {:?}, \
         subject: {:?}, description: {doc:?}, access: {access}, http: {http}, timeout_ms: {}, idempotent: {}, \
         bears_credentials: {}, body_max_bytes: {}, takes_if_match: {}, shows_revision: {}, request: {:?}, reply: {:?} }};",
        constant(&endpoint.name),
        service.name,
        endpoint.name,
        endpoint.rpc,
        endpoint.subject,
        endpoint.timeout_ms,
        endpoint.idempotent,
        endpoint.bears_credentials,
        endpoint.body_max_bytes,
        endpoint.takes_if_match,
        endpoint.shows_revision,
        endpoint.request.full_name(),
        endpoint.reply.full_name(),
        doc = endpoint.description,
    )?;
    Ok(())
}

/// Sets path and query parameters on a decoded request.
fn bindings(out: &mut String, endpoint: &Endpoint) -> Result<()> {
    let fields: Vec<FieldDescriptor> = endpoint
        .http
        .iter()
        .flat_map(|http| http.path_fields.iter().chain(&http.query_fields))
        .filter_map(|name| endpoint.request.get_field_by_name(name))
        .collect();
    let mut names = String::new();
    let mut arms = String::new();
    for field in &fields {
        let (name, json) = (field.name(), field.json_name());
        writeln!(names, "{name:?} => Some({json:?}),")?;
        let ident = format!("self.r#{name}");
        match (field.kind(), field.is_list()) {
            (Kind::String, false) => writeln!(arms, "{name:?} => {ident} = value.to_owned(),")?,
            (Kind::String, true) => writeln!(arms, "{name:?} => {ident}.push(value.to_owned()),")?,
            (Kind::Uint32, false) => writeln!(
                arms,
                "{name:?} => {ident} = value.parse().map_err(|_| crate::BindError::expected({json:?}, \"a whole number from 0 to 4294967295\"))?,"
            )?,
            (Kind::Bool, false) => writeln!(
                arms,
                "{name:?} => {ident} = value.parse().map_err(|_| crate::BindError::expected({json:?}, \"true or false\"))?,"
            )?,
            (Kind::Enum(kind), false) => {
                let path = rust_type(endpoint, kind.full_name())?;
                writeln!(
                    arms,
                    "{name:?} => {ident} = {path}::from_str_name(value).filter(|v| i32::from(*v) != 0)\
                     .ok_or(crate::BindError::expected({json:?}, \"one of the words of the API's documentation\"))?.into(),"
                )?;
            }
            (Kind::Message(kind), false) if kind.full_name() == "google.protobuf.Timestamp" => writeln!(
                arms,
                "{name:?} => {ident} = Some(crate::Timestamp::parse(value).ok_or(crate::BindError::expected({json:?}, \"a time as in RFC 3339\"))?),"
            )?,
            (kind, _) => {
                return Err(format!("{}.{name}: a {kind:?} cannot stand in a URL", endpoint.request.full_name()).into());
            }
        }
    }
    let request = endpoint.request.name();
    writeln!(
        out,
        "impl crate::Bind for {request} {{\n\
         fn json_name(field: &str) -> Option<&'static str> {{ match field {{ {names} _ => None }} }}\n\
         #[allow(unused_variables)]\n\
         fn bind(&mut self, field: &str, value: &str) -> Result<(), crate::BindError> {{\n\
         match field {{ {arms} other => return Err(crate::BindError::unknown(other)) }}\n\
         #[allow(unreachable_code)] Ok(()) }} }}"
    )?;
    Ok(())
}

/// `trunkline.identity.v1.User.State` → `user::State`, within its own package.
fn rust_type(endpoint: &Endpoint, full_name: &str) -> Result<String> {
    let local = full_name
        .strip_prefix(&format!("{}.", endpoint.request.package_name()))
        .ok_or_else(|| format!("{full_name} stands in another package than its request"))?;
    let parts: Vec<&str> = local.split('.').collect();
    let (last, outer) = parts.split_last().ok_or("a type has a name")?;
    let mut path: Vec<String> = outer.iter().map(|part| snake(part)).collect();
    path.push((*last).to_owned());
    Ok(path.join("::"))
}

fn event_impl(out: &mut String, service: &Service, event: &Event) -> Result<()> {
    writeln!(
        out,
        "impl crate::Event for {name} {{\n\
         const CONTRACT: &'static crate::EventContract = &crate::EventContract {{ subject: {subject:?}, \
         service: {service:?}, message: {message:?}, description: {doc:?}, target_type: {target:?}, \
         outcome: crate::audit::v1::Outcome::{outcome} }};\n\
         fn target_id(&self) -> &str {{ &self.{field} }} }}",
        name = event.message.name(),
        subject = event.subject,
        service = service.name,
        message = event.message.full_name(),
        doc = event.description,
        target = event.target_type,
        outcome = event.outcome,
        field = event.target_field,
    )?;
    Ok(())
}

fn job_impl(out: &mut String, service: &Service, job: &Job) -> Result<()> {
    let name = job.message.name();
    let check = if job.free_arguments {
        "crate::json::check_any".to_owned()
    } else {
        format!("|arguments| crate::json::decode::<{name}>(arguments).map(|_| ())")
    };
    writeln!(
        out,
        "impl crate::JobArguments for {name} {{\n\
         const CONTRACT: &'static crate::JobContract = &crate::JobContract {{ service: {service:?}, queue: {queue:?}, \
         kind: {kind:?}, description: {doc:?}, attempts_max: {attempts}, timeout_ms: {timeout}, backoff_base_ms: {base}, \
         backoff_max_ms: {max}, open: {open}, cron: {cron:?}, check: {check} }}; }}",
        service = service.name,
        queue = job.queue,
        kind = job.kind,
        doc = job.description,
        attempts = job.attempts_max,
        timeout = job.timeout_ms,
        base = job.backoff_base_ms,
        max = job.backoff_max_ms,
        open = job.open,
        cron = job.cron,
    )?;
    Ok(())
}

fn service_trait(out: &mut String, service: &Service) -> Result<()> {
    writeln!(
        out,
        "#[doc = {:?}]\n///\n/// Implemented by the service itself; `C` is what the kernel hands to each call.\n\
         pub trait {}<C>: Send + Sync + 'static {{\n/// How an operation fails.\ntype Error;",
        service.description, service.proto_name
    )?;
    for endpoint in &service.endpoints {
        writeln!(
            out,
            "#[doc = {:?}]\nfn {}(&self, cx: &C, request: {}) -> impl Future<Output = Result<{}, Self::Error>> + Send;",
            endpoint.description,
            endpoint.name,
            endpoint.request.name(),
            endpoint.reply.name()
        )?;
    }
    writeln!(
        out,
        "}}\n/// Registers every operation of {name} with whoever serves them.\n\
         pub fn register<S, R>(routes: &mut R) where R: crate::Register<S>, R::Context: Send + Sync + 'static, \
         S: {trait_name}<R::Context, Error = R::Error> {{",
        name = service.name,
        trait_name = service.proto_name
    )?;
    for endpoint in &service.endpoints {
        writeln!(
            out,
            "routes.register(&{}, |service: std::sync::Arc<S>, cx: std::sync::Arc<R::Context>, request: {}| async move \
             {{ service.{}(&cx, request).await }});",
            constant(&endpoint.name),
            endpoint.request.name(),
            endpoint.name
        )?;
    }
    writeln!(out, "}}")?;
    Ok(())
}

fn client(out: &mut String, service: &Service) -> Result<()> {
    let client = service.proto_name.replace("Service", "Client");
    writeln!(
        out,
        "/// Calls {name} over a transport.\n#[derive(Clone, Debug)]\npub struct {client}<T>(T);\n\
         impl<T: crate::Transport> {client}<T> {{\n/// A client on this transport.\npub fn new(transport: T) -> Self {{ Self(transport) }}",
        name = service.name
    )?;
    for endpoint in &service.endpoints {
        writeln!(
            out,
            "#[doc = {:?}]\npub async fn {}(&self, cx: &T::Context, request: {}) -> Result<{}, T::Error> \
             {{ self.0.call(cx, &{}, request).await }}",
            endpoint.description,
            endpoint.name,
            endpoint.request.name(),
            endpoint.reply.name(),
            constant(&endpoint.name)
        )?;
    }
    writeln!(out, "}}")?;
    Ok(())
}
