//! The contract of the platform: messages, subjects, routes, permissions.
//!
//! One source for everything that crosses a boundary: the `.proto` files with our options. From them come the types and
//! their JSON, a trait per service, a typed client per service, the HTTP route table, the OpenAPI document and the
//! broker's permissions. This crate does no I/O and names no service crate.

pub mod baseline;
pub mod broker;
mod contract;
pub mod dead_letter;
pub mod job;
pub mod json;
pub mod openapi;
mod problem;
mod raw_json;
pub mod subject;
mod text_list;
mod timestamp;

pub use contract::{
    Access, Bind, BindError, Body, ConsumerContract, Endpoint, EnqueuesContract, Event, EventContract, Http,
    HttpMethod, JobArguments, JobContract, QueryField, Register, ServiceContract, Transport, WatchContract,
};
pub use problem::{FieldError, Problem};
pub use timestamp::{OutOfRange, Timestamp};

include!(concat!(env!("OUT_DIR"), "/services.rs"));

/// Every operation of every service.
pub fn endpoints() -> impl Iterator<Item = &'static Endpoint> {
    SERVICES.iter().flat_map(|service| service.endpoints.iter().copied())
}

/// The contract of a service or of the gateway, by name.
pub fn service(name: &str) -> Option<&'static ServiceContract> {
    SERVICES.iter().copied().chain([&GATEWAY]).find(|service| service.name == name)
}

macro_rules! package {
    ($package:literal) => {
        include!(concat!(env!("OUT_DIR"), "/trunkline.", $package, ".v1.rs"));
        include!(concat!(env!("OUT_DIR"), "/messages/trunkline.", $package, ".v1.serde.rs"));
    };
    ($package:literal, served) => {
        package!($package);
        include!(concat!(env!("OUT_DIR"), "/requests/trunkline.", $package, ".v1.serde.rs"));
        include!(concat!(env!("OUT_DIR"), "/trunkline.", $package, ".v1.contract.rs"));
    };
}

macro_rules! module {
    ($(#[$doc:meta])* $name:ident, $package:literal $(, $served:ident)?) => {
        $(#[$doc])*
        pub mod $name {
            /// Version 1 of the contract.
            #[allow(missing_docs, clippy::all, clippy::pedantic, unused_qualifications, unreachable_pub, reason = "generated")]
            pub mod v1 {
                package!($package $(, $served)?);
            }
        }
    };
}

module!(
    /// The immutable log of who did what.
    audit, "audit", served
);
module!(
    /// Sessions, access tokens and refresh tokens.
    auth, "auth", served
);
module!(
    /// Roles, what they permit, and decisions.
    authz, "authz", served
);
module!(
    /// Users, their credentials and their roles.
    identity, "identity", served
);

module!(
    /// Work that is done in the background.
    jobs, "jobs", served
);

/// JSON that is carried as its text.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated")]
pub mod free {
    /// Version 1 of the contract.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/trunkline.free.v1.rs"));
    }
}

module!(
    /// What travels beside a request between our own processes.
    wire, "wire"
);
