//! The authz service: who may do what.
//!
//! Owns roles, what they permit and what they inherit. Serves them, and decisions with their reasons. Publishes
//! `evt.authz.role.*`. Asks identity which roles a user holds; never stores that, never issues a token.

pub mod domain;
mod error;
mod handlers;
mod holdings;
mod storage;

use kernel::endpoint::Routes;
use kernel::{Caller, Context, Database, Error, Parts, Result, Service, Settings, StartError};
use serde::{Deserialize, Serialize};
use subjects::ServiceContract;
use subjects::authz::v1::{AuthorizeReply, AuthorizeRequest, AuthzService, CONTRACT, register};
use subjects::identity::v1::IdentityClient;

/// The section `authz`: nothing can be set yet.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthzSettings {}

impl Settings for AuthzSettings {
    fn check(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The service.
#[derive(Debug)]
pub struct Authz {
    database: Database,
    identity: IdentityClient<Caller>,
}

impl Service for Authz {
    type Settings = AuthzSettings;

    fn contract() -> &'static ServiceContract {
        &CONTRACT
    }

    async fn build(parts: Parts<AuthzSettings>) -> Result<Self, StartError> {
        Ok(Self { database: parts.database, identity: IdentityClient::new(parts.caller) })
    }

    fn routes(routes: &mut Routes<Self>) {
        register(routes);
    }
}

impl AuthzService<Context> for Authz {
    type Error = Error;

    async fn authorize(&self, cx: &Context, request: AuthorizeRequest) -> Result<AuthorizeReply> {
        handlers::authorize(self, cx, request).await
    }
}
