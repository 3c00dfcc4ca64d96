//! The contract as read from the descriptors and their options, checked whole.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;

use prost_reflect::{DescriptorPool, DynamicMessage, ExtensionDescriptor, Kind, MessageDescriptor, Value};

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

const TIMEOUT_MS_DEFAULT: u32 = 5_000;
const BODY_MAX_BYTES_DEFAULT: u32 = 1024 * 1024;

/// It has a contract, but no `.proto` file of its own.
pub const GATEWAY: &str = "gateway";

/// Operations that bear credentials take little (S37).
const CREDENTIAL_BODY_MAX_BYTES_DEFAULT: u32 = 64 * 1024;

pub struct Contract {
    pub pool: DescriptorPool,
    /// In order of name.
    pub services: Vec<Service>,
}

pub struct Service {
    pub name: String,
    pub version: String,
    pub proto_name: String,
    pub package: String,
    pub description: String,
    pub endpoints: Vec<Endpoint>,
    pub events: Vec<Event>,
    /// Subjects, sorted.
    pub calls: Vec<String>,
    pub consumers: Vec<Consumer>,
    pub watches: Vec<Watch>,
    pub buckets: Vec<String>,
    /// In order of queue.
    pub enqueues: Vec<Enqueues>,
    /// In order of queue and kind.
    pub jobs: Vec<Job>,
}

pub struct Job {
    pub message: MessageDescriptor,
    pub queue: String,
    pub kind: String,
    pub description: String,
    pub attempts_max: u32,
    pub timeout_ms: u32,
    pub backoff_base_ms: u32,
    pub backoff_max_ms: u32,
    pub free_arguments: bool,
    pub open: bool,
    pub cron: Option<String>,
}

pub struct Endpoint {
    pub rpc: String,
    pub name: String,
    pub subject: String,
    pub description: String,
    pub access: Access,
    pub http: Option<Http>,
    pub timeout_ms: u32,
    pub idempotent: bool,
    pub bears_credentials: bool,
    pub body_max_bytes: u32,
    pub takes_if_match: bool,
    /// The reply has a `revision`, from which an `ETag` is made.
    pub shows_revision: bool,
    pub request: MessageDescriptor,
    pub reply: MessageDescriptor,
}

pub enum Access {
    Public,
    Token,
    Permission(String),
    Internal { callers: Vec<String>, guards: bool },
}

pub struct Http {
    pub method: &'static str,
    pub path: String,
    pub success: u32,
    /// Proto field names in the path.
    pub path_fields: Vec<String>,
    /// Proto field names in the query; only of methods without a body.
    pub query_fields: Vec<String>,
    pub cache_max_age_s: u32,
    pub streamed: bool,
}

pub struct Event {
    pub message: MessageDescriptor,
    pub subject: String,
    pub description: String,
    pub target_type: String,
    pub target_field: String,
    pub outcome: String,
    pub changes_authorization: bool,
}

pub struct Consumer {
    pub stream: String,
    pub durable: String,
    pub filters: Vec<String>,
}

pub struct Enqueues {
    pub queue: String,
    pub delayed: bool,
}

pub struct Watch {
    pub stream: String,
    pub subjects: Vec<String>,
}

impl Contract {
    pub fn read(pool: &DescriptorPool) -> Result<Self> {
        let extension = |name: &str| {
            pool.get_extension_by_name(&format!("trunkline.options.v1.{name}"))
                .ok_or_else(|| format!("options.proto lacks the option `{name}`"))
        };
        let (service_option, endpoint_option, event_option, job_option) =
            (extension("service")?, extension("endpoint")?, extension("event")?, extension("job")?);

        let mut services = Vec::new();
        for descriptor in pool.services() {
            let full_name = descriptor.full_name().to_owned();
            let options = option(&descriptor.options(), &service_option)
                .ok_or_else(|| format!("{full_name} lacks the option `service`"))?;
            let name = text(&options, "name");
            let package = descriptor.package_name().to_owned();
            let mut endpoints = Vec::new();
            for method in descriptor.methods() {
                let at = format!("{full_name}.{}", method.name());
                let options = option(&method.options(), &endpoint_option)
                    .ok_or_else(|| format!("{at} lacks the option `endpoint`"))?;
                endpoints.push(endpoint(&name, &method, &options).map_err(|fault| format!("{at}: {fault}"))?);
            }
            let (mut events, mut jobs) = (Vec::new(), Vec::new());
            for message in pool.all_messages().filter(|message| message.package_name() == package) {
                if let Some(options) = option(&message.options(), &event_option) {
                    events.push(event(&name, &message, &options).map_err(|f| format!("{}: {f}", message.full_name()))?);
                }
                if let Some(options) = option(&message.options(), &job_option) {
                    jobs.push(job(&message, &options));
                }
            }
            jobs.sort_by(|a, b| (&a.queue, &a.kind).cmp(&(&b.queue, &b.kind)));
            events.sort_by(|a, b| a.subject.cmp(&b.subject));
            let consumers = messages(&options, "consumes")
                .iter()
                .map(|consumer| Consumer {
                    stream: text(consumer, "stream"),
                    durable: text(consumer, "durable"),
                    filters: texts(consumer, "filters"),
                })
                .collect();
            let watches = messages(&options, "watches")
                .iter()
                .map(|watch| Watch { stream: text(watch, "stream"), subjects: texts(watch, "subjects") })
                .collect::<Vec<_>>();
            if let Some(subject) = watches.iter().flat_map(|w| &w.subjects).find(|s| !s.starts_with("evt.")) {
                return Err(format!("{full_name} watches `{subject}`, which is no event").into());
            }
            let enqueues = messages(&options, "enqueues");
            let mut enqueues: Vec<Enqueues> = enqueues
                .iter()
                .map(|queue| Enqueues { queue: text(queue, "queue"), delayed: flag(queue, "delayed") })
                .collect();
            enqueues.sort_by(|a, b| a.queue.cmp(&b.queue));
            services.push(Service {
                description: comment(&descriptor.parent_file(), descriptor.path()),
                version: text(&options, "version"),
                proto_name: descriptor.name().to_owned(),
                calls: texts(&options, "calls"),
                name,
                package,
                endpoints,
                events,
                consumers,
                watches,
                buckets: texts(&options, "buckets"),
                enqueues,
                jobs,
            });
        }
        services.sort_by(|a, b| a.name.cmp(&b.name));
        check_consumers(&services)?;
        admit_guards(&mut services);
        check_queues(&services)?;
        check_enqueues(&services)?;
        resolve_calls(&mut services)?;
        check_routes(&services)?;
        check_revisions(&services)?;
        Ok(Self { pool: pool.clone(), services })
    }

    pub fn endpoints(&self) -> impl Iterator<Item = (&Service, &Endpoint)> {
        self.services.iter().flat_map(|service| service.endpoints.iter().map(move |endpoint| (service, endpoint)))
    }
}

fn endpoint(service: &str, method: &prost_reflect::MethodDescriptor, options: &DynamicMessage) -> Result<Endpoint> {
    let name = snake(method.name());
    let request = method.input();
    let access = if flag(options, "public") {
        Access::Public
    } else if flag(options, "token") {
        Access::Token
    } else if !text(options, "permission").is_empty() {
        let permission = text(options, "permission");
        if permission.split('.').count() != 3 || permission.split('.').any(str::is_empty) {
            return Err(format!("`{permission}` is not <service>.<resource>.<action>").into());
        }
        Access::Permission(permission)
    } else if options.has_field_by_name("internal") {
        let internal = options.get_field_by_name("internal").ok_or("the option has `internal`")?;
        let internal = internal.as_message().ok_or("`internal` is a message")?;
        Access::Internal { callers: texts(internal, "callers"), guards: flag(internal, "guards") }
    } else {
        return Err("has no access rule: say public, token, permission or internal".into());
    };

    let route = ["get", "post", "put", "patch", "delete"]
        .into_iter()
        .map(|method| (method, text(options, method)))
        .find(|(_, path)| !path.is_empty());
    let http = match (route, &access) {
        (Some(_), Access::Internal { .. }) => return Err("is internal and must not have an HTTP route".into()),
        (None, Access::Internal { .. }) => None,
        (None, _) => return Err("has no HTTP route; say internal if it must not have one".into()),
        (Some((method, path)), _) => {
            let path_fields: Vec<String> = path
                .split('/')
                .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
                .map(str::to_owned)
                .collect();
            for field in &path_fields {
                let descriptor = request.get_field_by_name(field).ok_or_else(|| format!("no field `{field}`"))?;
                if descriptor.kind() != Kind::String {
                    return Err(format!("the path field `{field}` is not a string").into());
                }
            }
            let query_fields = if matches!(method, "get" | "delete") {
                request
                    .fields()
                    .map(|field| field.name().to_owned())
                    .filter(|name| !path_fields.contains(name))
                    .collect()
            } else {
                Vec::new()
            };
            let success = match number(options, "success") {
                0 => 200,
                status => status,
            };
            Some(Http {
                method: match method {
                    "get" => "Get",
                    "post" => "Post",
                    "put" => "Put",
                    "patch" => "Patch",
                    _ => "Delete",
                },
                path,
                success,
                path_fields,
                query_fields,
                cache_max_age_s: number(options, "cache_max_age_s"),
                streamed: flag(options, "streamed"),
            })
        }
    };

    if http.as_ref().is_some_and(|http| http.streamed) {
        check_streamed(method)?;
    }

    let takes_if_match = flag(options, "takes_if_match");
    if takes_if_match && http.as_ref().is_none_or(|http| http.method == "Get") {
        return Err("takes If-Match, so it needs an HTTP route by which something is changed".into());
    }
    let shows_revision = match method.output().get_field_by_name("revision") {
        None => false,
        Some(field) if field.kind() == Kind::String && !field.is_list() => true,
        Some(_) => return Err("shows a revision that is not a string".into()),
    };

    let bears_credentials = flag(options, "bears_credentials");
    let or = |value: u32, default: u32| if value == 0 { default } else { value };
    Ok(Endpoint {
        subject: format!("svc.{service}.v1.{name}"),
        rpc: method.name().to_owned(),
        name,
        description: comment(&method.parent_service().parent_file(), method.path()),
        access,
        http,
        timeout_ms: or(number(options, "timeout_ms"), TIMEOUT_MS_DEFAULT),
        idempotent: flag(options, "idempotent"),
        bears_credentials,
        body_max_bytes: or(
            number(options, "body_max_bytes"),
            if bears_credentials { CREDENTIAL_BODY_MAX_BYTES_DEFAULT } else { BODY_MAX_BYTES_DEFAULT },
        ),
        takes_if_match,
        shows_revision,
        request,
        reply: method.output(),
    })
}

/// A stream is made of pages, each with its lines and the way to the next.
fn check_streamed(method: &prost_reflect::MethodDescriptor) -> Result<()> {
    let (request, reply) = (method.input(), method.output());
    let is_text = |message: &MessageDescriptor, field: &str| {
        message.get_field_by_name(field).is_some_and(|field| field.kind() == Kind::String && !field.is_list())
    };
    let has_lines = reply.get_field_by_name("items").is_some_and(|field| field.is_list());
    if is_text(&request, "page_token") && is_text(&reply, "next_page_token") && has_lines {
        return Ok(());
    }
    Err("is streamed, so its request needs `page_token` and its reply `items` and `next_page_token`".into())
}

fn event(service: &str, message: &MessageDescriptor, options: &DynamicMessage) -> Result<Event> {
    let subject = text(options, "subject");
    if !subject.starts_with(&format!("evt.{service}.")) || subject.split('.').count() != 4 {
        return Err(format!("the subject `{subject}` is not evt.{service}.<entity>.<action>").into());
    }
    let target = options.get_field_by_name("target").ok_or("has no target")?;
    let target = target.as_message().ok_or("has no target")?;
    let target_field = text(target, "field");
    message
        .get_field_by_name(&target_field)
        .filter(|field| field.kind() == Kind::String && !field.is_list())
        .ok_or_else(|| format!("its target field `{target_field}` is not one of its strings"))?;
    let changes_authorization = flag(options, "changes_authorization");
    let names = |field: &str| message.get_field_by_name(field).is_some_and(|field| field.kind() == Kind::String);
    if changes_authorization && !["user_id", "group_id", "role"].into_iter().any(names) {
        return Err("changes authorization and names neither user_id nor group_id nor role".into());
    }
    Ok(Event {
        changes_authorization,
        description: comment(&message.parent_file(), message.path()),
        message: message.clone(),
        subject,
        target_type: text(target, "type"),
        target_field,
        outcome: match text(options, "outcome").as_str() {
            "" | "SUCCESS" => "Success".into(),
            "DENIED" => "Denied".into(),
            "FAILURE" => "Failure".into(),
            other => return Err(format!("`{other}` is no outcome").into()),
        },
    })
}

fn job(message: &MessageDescriptor, options: &DynamicMessage) -> Job {
    let or = |field: &str, default: u32| match number(options, field) {
        0 => default,
        value => value,
    };
    Job {
        description: comment(&message.parent_file(), message.path()),
        message: message.clone(),
        queue: text(options, "queue"),
        kind: text(options, "kind"),
        attempts_max: or("attempts_max", 10),
        timeout_ms: or("timeout_ms", 60_000),
        backoff_base_ms: or("backoff_base_ms", 1_000),
        backoff_max_ms: or("backoff_max_ms", 300_000),
        free_arguments: flag(options, "free_arguments"),
        open: flag(options, "open"),
        cron: Some(text(options, "cron")).filter(|cron| !cron.is_empty()),
    }
}

/// A queue has one runner, and a kind one message.
fn check_queues(services: &[Service]) -> Result<()> {
    let (mut runners, mut kinds) = (BTreeMap::new(), BTreeSet::new());
    for (service, job) in services.iter().flat_map(|service| service.jobs.iter().map(move |job| (service, job))) {
        for (word, more) in [(&job.queue, ""), (&job.kind, "_")] {
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || more.contains(c);
            if !(1..=64).contains(&word.len()) || !word.chars().all(fits) {
                return Err(format!("{}: `{word}` cannot name a queue or kind", job.message.full_name()).into());
            }
        }
        if is_reserved(&job.queue) {
            return Err(format!("{}: the queue name `{}` is reserved", job.message.full_name(), job.queue).into());
        }
        let runner = runners.entry(&job.queue).or_insert(&service.name);
        if *runner != &service.name {
            return Err(format!("the queue `{}` has two runners, {runner} and {}", job.queue, service.name).into());
        }
        if !kinds.insert((&job.queue, &job.kind)) {
            return Err(format!("two jobs are {}.{}", job.queue, job.kind).into());
        }
    }
    Ok(())
}

/// Each names a queue, once.
fn check_enqueues(services: &[Service]) -> Result<()> {
    for service in services {
        let mut seen = BTreeSet::new();
        for Enqueues { queue, .. } in &service.enqueues {
            let is_token = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
            if !(1..=64).contains(&queue.len()) || !queue.bytes().all(is_token) || is_reserved(queue) {
                return Err(format!("{}: `{queue}` cannot name a queue", service.name).into());
            }
            if !seen.insert(queue) {
                return Err(format!("{} enqueues to `{queue}` twice", service.name).into());
            }
        }
    }
    Ok(())
}

fn is_reserved(queue: &str) -> bool {
    ["schedules", "due", "dlq", "work"].contains(&queue)
}

/// A durable's name is a token of the subjects of its dead letters, so it names one consumer in all streams.
fn check_consumers(services: &[Service]) -> Result<()> {
    let mut seen = BTreeSet::new();
    for (service, consumer) in services.iter().flat_map(|s| s.consumers.iter().map(move |consumer| (s, consumer))) {
        let durable = &consumer.durable;
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if !(1..=64).contains(&durable.len()) || !durable.bytes().all(is_token) {
            return Err(format!("{}: `{durable}` cannot name a consumer", service.name).into());
        }
        if !seen.insert(durable) {
            return Err(format!("two consumers are named `{durable}`").into());
        }
    }
    Ok(())
}

/// Lets every guard call what is internal to guards: who has an operation behind a permission, and the gateway.
fn admit_guards(services: &mut [Service]) {
    let is_guard = |service: &Service| service.endpoints.iter().any(|e| matches!(e.access, Access::Permission(_)));
    let guards: Vec<String> = services.iter().filter(|service| is_guard(service)).map(|s| s.name.clone()).collect();
    let mut implied = Vec::new();
    for service in services.iter_mut() {
        let own = service.name.clone();
        for endpoint in &mut service.endpoints {
            if let Access::Internal { callers, guards: true } = &mut endpoint.access {
                callers.extend(guards.iter().filter(|&guard| *guard != own).cloned());
                callers.sort_unstable();
                callers.dedup();
                implied.push(format!("{own}.{}", endpoint.rpc));
            }
        }
    }
    for service in services.iter_mut().filter(|service| guards.contains(&service.name)) {
        let others = implied.iter().filter(|call| !call.starts_with(&format!("{}.", service.name)));
        service.calls.extend(others.cloned());
    }
}

/// Turns `identity.GetUserRoles` into subjects, and holds callers and callees to the same list.
fn resolve_calls(services: &mut [Service]) -> Result<()> {
    let mut subjects = BTreeMap::new();
    let mut internal = BTreeSet::new();
    for service in &*services {
        for endpoint in &service.endpoints {
            let name = format!("{}.{}", service.name, endpoint.rpc);
            if let Access::Internal { callers, .. } = &endpoint.access {
                // The gateway declares nothing: it may call whatever admits it.
                let declaring = callers.iter().filter(|caller| *caller != GATEWAY);
                internal.extend(declaring.map(|caller| (caller.clone(), name.clone())));
            }
            subjects.insert(name, (endpoint.subject.clone(), matches!(endpoint.access, Access::Internal { .. })));
        }
    }
    for service in services.iter_mut() {
        let mut calls = BTreeSet::new();
        for name in &service.calls {
            let (subject, is_internal) =
                subjects.get(name).ok_or_else(|| format!("{} calls `{name}`, which does not exist", service.name))?;
            if *is_internal && !internal.remove(&(service.name.clone(), name.clone())) {
                return Err(format!("{} calls the internal `{name}`, which does not admit it", service.name).into());
            }
            calls.insert(subject.clone());
        }
        if service.endpoints.iter().any(|e| matches!(e.access, Access::Token | Access::Permission(_))) {
            calls.insert("svc.auth.v1.get_jwks".to_owned());
        }
        service.calls = calls.into_iter().collect();
    }
    match internal.first() {
        Some((caller, name)) => Err(format!("`{name}` admits {caller}, which does not declare the call").into()),
        None => Ok(()),
    }
}

/// Nobody overwrites an edit that they have not seen: whatever changes a resource with a revision takes `If-Match`, that is what
/// is asked at the resource's own path, and what answers a resource that it did not make.
fn check_revisions(services: &[Service]) -> Result<()> {
    let operations = || {
        let endpoints = services.iter().flat_map(|service| &service.endpoints);
        endpoints.filter_map(|endpoint| Some((endpoint, endpoint.http.as_ref()?)))
    };
    let shown = operations().filter(|(endpoint, http)| endpoint.shows_revision && http.method == "Get");
    let paths: BTreeSet<&str> = shown.map(|(_, http)| http.path.as_str()).collect();
    for (endpoint, http) in operations().filter(|(_, http)| http.method != "Get") {
        let answers_it = endpoint.shows_revision && !http.path_fields.is_empty();
        if (paths.contains(http.path.as_str()) || answers_it) && !endpoint.takes_if_match {
            return Err(
                format!("{} changes a resource with a revision and does not take If-Match", endpoint.subject).into()
            );
        }
    }
    Ok(())
}

fn check_routes(services: &[Service]) -> Result<()> {
    let mut seen = BTreeSet::new();
    for http in services.iter().flat_map(|service| &service.endpoints).filter_map(|endpoint| endpoint.http.as_ref()) {
        if !seen.insert((http.method, &http.path)) {
            return Err(format!("two operations have the route {} {}", http.method, http.path).into());
        }
    }
    Ok(())
}

/// `GetUser` → `get_user`.
pub fn snake(name: &str) -> String {
    let mut out = String::new();
    for (i, c) in name.chars().enumerate() {
        if c.is_uppercase() && i > 0 {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}

fn comment(file: &prost_reflect::FileDescriptor, path: &[i32]) -> String {
    file.file_descriptor_proto()
        .source_code_info
        .iter()
        .flat_map(|info| &info.location)
        .find(|location| location.path == path)
        .map(|location| {
            let lines: Vec<&str> = location.leading_comments().lines().map(str::trim).collect();
            lines.join(" ").trim().to_owned()
        })
        .unwrap_or_default()
}

/// The leading comment of a field, for the documents.
pub fn field_comment(field: &prost_reflect::FieldDescriptor) -> String {
    comment(&field.parent_message().parent_file(), field.path())
}

fn option(options: &DynamicMessage, extension: &ExtensionDescriptor) -> Option<DynamicMessage> {
    options.has_extension(extension).then(|| options.get_extension(extension).as_message().cloned()).flatten()
}

fn text(message: &DynamicMessage, field: &str) -> String {
    message.get_field_by_name(field).and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn texts(message: &DynamicMessage, field: &str) -> Vec<String> {
    list(message, field).iter().filter_map(|value| value.as_str().map(str::to_owned)).collect()
}

fn messages(message: &DynamicMessage, field: &str) -> Vec<DynamicMessage> {
    list(message, field).iter().filter_map(|value| value.as_message().cloned()).collect()
}

fn list(message: &DynamicMessage, field: &str) -> Vec<Value> {
    message.get_field_by_name(field).and_then(|value| value.as_list().map(<[Value]>::to_vec)).unwrap_or_default()
}

fn flag(message: &DynamicMessage, field: &str) -> bool {
    message.get_field_by_name(field).and_then(|value| value.as_bool()).unwrap_or_default()
}

fn number(message: &DynamicMessage, field: &str) -> u32 {
    message.get_field_by_name(field).and_then(|value| value.as_u32()).unwrap_or_default()
}
