//! Who may publish and subscribe to what, from which the broker's users are rendered.
//!
//! Allow-lists: there is no deny rule to get wrong but that which keeps producers and workers of any queue off the
//! platform's own, and no `allow_responses`, which would let a caller choose what a service publishes to. A service answers
//! into inboxes, and reads only its own.

use std::collections::BTreeSet;

use crate::job::{self, Lane};
use crate::{SERVICES, ServiceContract, dead_letter, endpoints, service};

/// The users that are not services.
pub const OPS: &str = "ops";
/// Declares streams and consumers; nobody else may.
pub const PROVISION: &str = "provision";
/// Submits jobs to any queue but the platform's own.
pub const PRODUCER: &str = "producer";
/// Does the work of any queue but the platform's own.
pub const WORKER: &str = "worker";

/// The subjects that one broker user may publish and subscribe to, sorted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Subjects and wildcards.
    pub publish: BTreeSet<String>,
    /// Subjects and wildcards; with a queue group behind a blank where only that group may be joined.
    pub subscribe: BTreeSet<String>,
    /// What is taken from `publish` again.
    pub publish_denied: BTreeSet<String>,
    /// What is taken from `subscribe` again.
    pub subscribe_denied: BTreeSet<String>,
}

impl Permissions {
    fn allowing(publish: BTreeSet<String>, subscribe: BTreeSet<String>) -> Self {
        Self { publish, subscribe, ..Self::default() }
    }
}

/// Every broker user of the platform, in order of name.
pub fn users() -> Vec<&'static str> {
    let mut users: Vec<&str> = SERVICES.iter().map(|service| service.name).collect();
    users.extend([crate::GATEWAY.name, OPS, PRODUCER, PROVISION, WORKER]);
    users.sort_unstable();
    users
}

/// What a user may do; none for a user that the contract does not know.
pub fn permissions(user: &str) -> Option<Permissions> {
    match user {
        OPS => Some(ops()),
        PRODUCER => Some(producer(PRODUCER, None)),
        PROVISION => Some(provision()),
        WORKER => Some(worker(WORKER, None)),
        name => service(name).map(of),
    }
}

/// What a service with this contract may do.
pub fn of(service: &ServiceContract) -> Permissions {
    let name = service.name;
    let mut publish = BTreeSet::from(["_INBOX.>".to_owned()]);
    publish.extend(service.calls.iter().map(|&subject| subject.to_owned()));
    publish.extend(service.events.iter().map(|event| event.subject.to_owned()));
    if !service.events.is_empty()
        || !service.consumers.is_empty()
        || service.endpoints.iter().any(|e| matches!(e.access, crate::Access::Permission(_)))
    {
        // Its outbox carries its events and the record of every action, refusal and replay.
        publish.insert(format!("audit.{name}.>"));
        publish.insert(crate::subject::beat(name));
        publish.extend(["AUDIT", "EVENTS"].map(|stream| format!("$JS.API.STREAM.INFO.{stream}")));
        // Its relay asks whether its own last messages are still there.
        publish.insert(format!("$JS.API.DIRECT.GET.AUDIT.audit.{name}.>"));
        publish.insert(format!("$JS.API.DIRECT.GET.EVENTS.evt.{name}.>"));
    }
    for bucket in service.buckets {
        publish.extend([
            format!("$KV.{bucket}.>"),
            format!("$JS.API.STREAM.INFO.KV_{bucket}"),
            format!("$JS.API.DIRECT.GET.KV_{bucket}"),
        ]);
    }
    for consumer in service.consumers {
        let (stream, durable) = (consumer.stream, consumer.durable);
        publish.extend([
            format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"),
            format!("$JS.API.CONSUMER.INFO.{stream}.{durable}"),
            format!("$JS.ACK.{stream}.{durable}.>"),
            // The form with domain and account hash, which servers may switch to.
            format!("$JS.ACK.*.*.{stream}.{durable}.>"),
            // What it gives up, and takes again when it is asked to. The broker cannot narrow reading by place to one's own.
            dead_letter::subjects(durable),
            dead_letter::replayed(durable, "*"),
            format!("$JS.API.DIRECT.GET.{}", dead_letter::STREAM),
        ]);
    }
    let mut subscribe = BTreeSet::from([own_inbox(name)]);
    for watch in service.watches {
        subscribe.extend(watch.subjects.iter().map(|subject| crate::subject::live(subject)));
        // Without its publishers' heartbeats, silence could be mistaken for peace.
        subscribe.extend(watch.publishers().map(|publisher| crate::subject::beat(publisher.name)));
        publish.insert(format!("$JS.API.DIRECT.GET.{}", watch.stream));
        // Where its sequences begin anew, what was known of them is void.
        publish.insert(format!("$JS.API.STREAM.INFO.{}", watch.stream));
    }
    if service.is_guard() {
        let watch = &crate::AUTHORIZATION;
        subscribe.extend(watch.subjects.iter().map(|subject| crate::subject::live(subject)));
        subscribe.extend(watch.publishers().map(|publisher| crate::subject::beat(publisher.name)));
        publish.insert(format!("$JS.API.STREAM.INFO.{}", watch.stream));
        // Where each of them ends, without reading any other event.
        publish.extend(watch.subjects.iter().map(|subject| format!("$JS.API.DIRECT.GET.{}.{subject}", watch.stream)));
    }
    subscribe.extend(service.consumers.iter().map(|c| format!("{} {name}", dead_letter::replay(c.durable))));
    if !service.endpoints.is_empty() {
        subscribe.insert(format!("svc.{name}.> {name}"));
    }
    for verb in ["PING", "INFO", "STATS"] {
        subscribe.extend([format!("$SRV.{verb}"), format!("$SRV.{verb}.{name}"), format!("$SRV.{verb}.{name}.*")]);
    }
    for enqueues in service.enqueues {
        let queue = enqueues.queue;
        publish.extend(Lane::ALL.into_iter().map(|lane| job::filter(queue, lane)));
        publish.insert(format!("$JS.API.STREAM.INFO.{}", job::STREAM));
        if enqueues.delayed {
            publish.insert(format!("schedules.job.{queue}.>"));
            publish.insert(format!("$JS.API.STREAM.INFO.{}", job::SCHEDULES));
        }
    }
    if name == job::MANAGER {
        manage_jobs(&mut publish);
    }
    if name == job::MANAGER || !service.jobs.is_empty() {
        run_jobs(service, &mut publish);
        subscribe.insert("work-cancel.*".to_owned());
    }
    Permissions::allowing(publish, subscribe)
}

/// What a service needs to run its own queues: to take their jobs, to put them off, to give them up, and to tell of them.
fn run_jobs(service: &ServiceContract, publish: &mut BTreeSet<String>) {
    let name = service.name;
    publish.extend([
        format!("schedules.retry.{name}.>"),
        job::log_subject(name),
        job::live_subject("*"),
        format!("$JS.API.STREAM.INFO.{}", job::STREAM),
    ]);
    for queue in service.queues() {
        publish.insert(format!("dlq.jobs.{queue}.*"));
        publish.extend(Lane::ALL.into_iter().flat_map(|lane| takes(&job::consumer(queue, lane))));
    }
}

/// What a runner does with a consumer of the work queue.
fn takes(consumer: &str) -> [String; 4] {
    let stream = job::STREAM;
    [
        format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"),
        format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}"),
        format!("$JS.ACK.{stream}.{consumer}.>"),
        format!("$JS.ACK.*.*.{stream}.{consumer}.>"),
    ]
}

/// The one exception to who manages what of the broker: a queue is made by its first job, held, and emptied job by job.
fn manage_jobs(publish: &mut BTreeSet<String>) {
    let (jobs, schedules, letters) = (job::STREAM, job::SCHEDULES, job::DEAD_LETTERS);
    publish.extend(takes("*"));
    publish.extend(["jobs.>", "schedules.>", "dlq.jobs.>", "work.>", "work-cancel.*"].map(str::to_owned));
    publish.extend([
        format!("$JS.API.CONSUMER.CREATE.{jobs}.>"),
        format!("$JS.API.CONSUMER.DELETE.{jobs}.*"),
        format!("$JS.API.CONSUMER.PAUSE.{jobs}.*"),
        format!("$JS.API.CONSUMER.NAMES.{jobs}"),
        // To look at what no client can read.
        format!("$JS.API.CONSUMER.LIST.{jobs}"),
        format!("$JS.API.STREAM.MSG.GET.{jobs}"),
        format!("$JS.API.STREAM.MSG.DELETE.{jobs}"),
        format!("$JS.API.STREAM.MSG.DELETE.{schedules}"),
        format!("$JS.API.STREAM.PURGE.{letters}"),
        format!("$JS.API.STREAM.INFO.{schedules}"),
        format!("$JS.API.DIRECT.GET.{jobs}"),
        format!("$JS.API.DIRECT.GET.{jobs}.>"),
        format!("$JS.API.DIRECT.GET.{schedules}.>"),
    ]);
}

/// Who submits jobs: to one queue, or to any but the platform's own.
pub fn producer(name: &str, queue: Option<&str>) -> Permissions {
    let publish = match queue {
        Some(queue) => BTreeSet::from([format!("jobs.{queue}.>")]),
        None => BTreeSet::from(["jobs.>".to_owned()]),
    };
    let denied = closed_queues().filter(|_| queue.is_none()).map(|queue| format!("jobs.{queue}.>")).collect();
    Permissions { publish_denied: denied, ..Permissions::allowing(publish, BTreeSet::from([own_inbox(name)])) }
}

/// Who does the work of one queue, or of any but the platform's own. Answers to the jobs service alone.
pub fn worker(name: &str, queue: Option<&str>) -> Permissions {
    let publish = BTreeSet::from([own_inbox(job::MANAGER)]);
    let work = queue.map_or_else(|| "work.>".to_owned(), |queue| format!("work.{queue}.>"));
    let subscribe = BTreeSet::from([own_inbox(name), work, "work-cancel.*".to_owned()]);
    let denied = closed_queues().filter(|_| queue.is_none()).map(|queue| format!("work.{queue}.>")).collect();
    Permissions { subscribe_denied: denied, ..Permissions::allowing(publish, subscribe) }
}

/// Queues that services keep for themselves.
fn closed_queues() -> impl Iterator<Item = &'static str> {
    job::contracts().map(|job| job.queue).filter(|queue| !job::is_open(queue))
}

/// People with the stock CLI: every operation that has an HTTP route, each by name; discovery; the live tail; looking at
/// streams and consumers without changing them; reading dead letters and asking their consumers to take them again.
fn ops() -> Permissions {
    let mut publish: BTreeSet<String> =
        endpoints().filter(|endpoint| endpoint.http.is_some()).map(|endpoint| endpoint.subject.to_owned()).collect();
    publish.extend(
        [
            "$SRV.>",
            "$JS.API.INFO",
            "$JS.API.STREAM.INFO.*",
            "$JS.API.STREAM.LIST",
            "$JS.API.STREAM.NAMES",
            "$JS.API.CONSUMER.INFO.*.*",
            "$JS.API.CONSUMER.LIST.*",
            "$JS.API.CONSUMER.NAMES.*",
        ]
        .map(str::to_owned),
    );
    publish.insert(format!("$JS.API.DIRECT.GET.{}", dead_letter::STREAM));
    publish.extend(SERVICES.iter().flat_map(|service| service.consumers).map(|c| dead_letter::replay(c.durable)));
    publish.extend(["jobs.>", "schedules.>"].map(str::to_owned));
    let subscribe = BTreeSet::from([own_inbox(OPS), "live.>".to_owned(), "work.>".to_owned()]);
    Permissions::allowing(publish, subscribe)
}

/// Makes and changes streams and consumers; it cannot delete or purge any, nor read or write messages.
fn provision() -> Permissions {
    let publish = [
        "$JS.API.INFO",
        "$JS.API.STREAM.CREATE.*",
        "$JS.API.STREAM.UPDATE.*",
        "$JS.API.STREAM.INFO.*",
        "$JS.API.STREAM.LIST",
        "$JS.API.STREAM.NAMES",
        "$JS.API.CONSUMER.CREATE.>",
        "$JS.API.CONSUMER.INFO.*.*",
        "$JS.API.CONSUMER.LIST.*",
        "$JS.API.CONSUMER.NAMES.*",
    ];
    Permissions::allowing(publish.map(str::to_owned).into(), BTreeSet::from([own_inbox(PROVISION)]))
}

fn own_inbox(user: &str) -> String {
    format!("{}.>", crate::subject::inbox_prefix(user))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_change(subject: &str) -> bool {
        subject.strip_prefix("live.").is_some_and(|stored| crate::AUTHORIZATION.subjects.contains(&stored))
    }

    fn is_beat_of_changes(subject: &str) -> bool {
        crate::AUTHORIZATION.publishers().any(|publisher| crate::subject::beat(publisher.name) == subject)
    }

    #[test]
    fn every_guard_hears_of_what_changes_authorisation_and_may_ask() {
        assert!(crate::AUTHORIZATION.subjects.len() >= 15);
        for service in SERVICES.iter().copied().chain([&crate::GATEWAY]) {
            let guards = service.endpoints.iter().any(|e| matches!(e.access, crate::Access::Permission(_)));
            let answers = service.endpoints.iter().any(|e| crate::DECISIONS.contains(&e.subject));
            assert_eq!(service.is_guard(), guards || answers || service.name == "gateway", "{}", service.name);
            let Permissions { publish, subscribe, .. } = of(service);
            let asks = crate::DECISIONS.iter().all(|&subject| publish.contains(subject));
            assert_eq!(asks, service.is_guard() && !answers, "{}", service.name);
            let hears = crate::AUTHORIZATION.subjects.iter().all(|subject| {
                let live = crate::subject::live(subject);
                subscribe.contains(&live) || subscribe.contains("live.evt.>")
            });
            assert_eq!(hears, service.is_guard(), "{}", service.name);
        }
    }

    #[test]
    fn only_the_services_that_an_internal_operation_admits_may_call_it() {
        for user in users() {
            let publish = permissions(user).unwrap().publish;
            assert_eq!(publish.contains("svc.identity.v1.verify_credentials"), user == "auth", "{user}");
        }
    }

    #[test]
    fn nobody_may_watch_requests_or_read_foreign_inboxes() {
        for user in users() {
            for subject in permissions(user).unwrap().subscribe {
                let own = subject == format!("svc.{user}.> {user}") || subject == format!("_INBOX.{user}.>");
                let open = subject.starts_with("$SRV.") || subject == "live.>" && user == OPS;
                let runs = user == job::MANAGER || service(user).is_some_and(|service| !service.jobs.is_empty());
                let worked = (subject == "work-cancel.*" && (runs || user == WORKER))
                    || (subject == "work.>" && [OPS, WORKER].contains(&user));
                let own =
                    own || worked || (subject.starts_with("replay.evt.") && subject.ends_with(&format!(" {user}")));
                let watches = service(user).is_some_and(|service| !service.watches.is_empty());
                let watched = watches && (subject.starts_with("live.evt.") || subject.starts_with("beat."));
                let guards = service(user).is_some_and(ServiceContract::is_guard);
                let watched = watched || guards && (is_change(&subject) || is_beat_of_changes(&subject));
                assert!(own || open || watched, "{user} subscribes {subject}");
            }
        }
    }

    #[test]
    fn only_who_watches_reads_along_and_reads_again() {
        let gateway = permissions("gateway").unwrap();
        let beats: Vec<_> = gateway.subscribe.iter().filter(|s| s.starts_with("beat.")).collect();
        let publishers = SERVICES.iter().filter(|service| !service.events.is_empty());
        assert!(publishers.map(|service| format!("beat.{}", service.name)).eq(beats.into_iter().cloned()));
        assert!(gateway.subscribe.contains("live.evt.>") && gateway.publish.contains("$JS.API.DIRECT.GET.EVENTS"));
        for user in users().into_iter().filter(|&user| user != "gateway") {
            let Permissions { publish, subscribe, .. } = permissions(user).unwrap();
            let buckets = service(user).map_or(&[][..], |service| service.buckets);
            let handles_letters = user == OPS || service(user).is_some_and(|service| !service.consumers.is_empty());
            let guards = service(user).is_some_and(ServiceContract::is_guard);
            let changes = crate::AUTHORIZATION.subjects.iter().filter(|_| guards);
            let own: Vec<String> = [format!("AUDIT.audit.{user}.>"), format!("EVENTS.evt.{user}.>")]
                .into_iter()
                .chain(changes.map(|subject| format!("EVENTS.{subject}")))
                .chain(buckets.iter().map(|bucket| format!("KV_{bucket}")))
                .chain(handles_letters.then(|| dead_letter::STREAM.to_owned()))
                .chain(
                    ["JOBS", "JOBS.>", "SCHEDULES.>"].map(str::to_owned).into_iter().filter(|_| user == job::MANAGER),
                )
                .collect();
            let mut read = publish.iter().filter_map(|s| s.strip_prefix("$JS.API.DIRECT.GET."));
            assert!(read.all(|what| own.iter().any(|own| own == what)), "{user}");
            let mut watched = subscribe.iter().filter(|s| s.starts_with("live.evt.") || s.starts_with("beat."));
            assert!(watched.all(|s| guards && (is_change(s) || is_beat_of_changes(s))), "{user}");
        }
    }

    #[test]
    fn dead_letters_are_stored_by_their_consumers_service_alone() {
        for user in users() {
            let publish = permissions(user).unwrap().publish;
            let own = service(user).into_iter().flat_map(|service| service.consumers);
            let own: BTreeSet<String> = own.map(|consumer| dead_letter::subjects(consumer.durable)).collect();
            let may: BTreeSet<String> = publish.into_iter().filter(|subject| subject.starts_with("dlq.evt.")).collect();
            assert_eq!(may, own, "{user}");
        }
    }

    #[test]
    fn no_service_manages_streams() {
        for user in users().into_iter().filter(|&user| user != PROVISION && user != job::MANAGER) {
            for subject in permissions(user).unwrap().publish.iter().filter(|s| s.starts_with("$JS.API.")) {
                assert!(
                    [".INFO", ".LIST", ".NAMES", ".MSG.NEXT", ".DIRECT.GET."].iter().any(|verb| subject.contains(verb)),
                    "{user}: {subject}"
                );
            }
        }
    }

    #[test]
    fn the_jobs_service_manages_the_work_queue_and_nothing_else() {
        let publish = permissions(job::MANAGER).unwrap().publish;
        let managing = ["CREATE", "DELETE", "UPDATE", "PURGE", "PAUSE", "RESTORE", "SNAPSHOT"];
        for subject in publish.iter().filter(|s| managing.iter().any(|verb| s.contains(&format!(".{verb}.")))) {
            let stream = ["JOBS", "SCHEDULES", "JOBS_DLQ"];
            assert!(subject.split('.').any(|token| stream.contains(&token)), "{subject}");
        }
        assert!(
            publish.contains("$JS.API.CONSUMER.CREATE.JOBS.>") && publish.contains("$JS.API.STREAM.PURGE.JOBS_DLQ")
        );
    }

    #[test]
    fn a_producer_of_one_queue_reaches_no_other() {
        let one = producer("shop", Some("mails"));
        assert_eq!(one.publish, BTreeSet::from(["jobs.mails.>".to_owned()]));
        assert_eq!(one.subscribe, BTreeSet::from(["_INBOX.shop.>".to_owned()]));
        let worker = worker("shop", Some("mails"));
        assert_eq!(worker.publish, BTreeSet::from(["_INBOX.jobs.>".to_owned()]));
    }
}
