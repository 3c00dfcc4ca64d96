//! The authz service: who may do what.
//!
//! Owns roles, what they permit and what they inherit. Serves them, and decisions with their reasons. Publishes
//! `evt.authz.role.*`. Asks identity which roles a user holds; never stores that, never issues a token.

pub mod domain;
mod error;
mod handlers;
mod holdings;
mod knowledge;
mod storage;

use std::sync::Arc;

use kernel::authorization::Decide;
use kernel::endpoint::Routes;
use kernel::{Context, Error, Parts, Result, Service, Settings, StartError};
use serde::{Deserialize, Serialize};
use subjects::ServiceContract;
use subjects::authz::v1::{AuthorizeReply, AuthorizeRequest, AuthzService, CONTRACT, register};

use knowledge::Knowledge;

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
    knowledge: Arc<Knowledge>,
}

impl Service for Authz {
    type Settings = AuthzSettings;

    fn contract() -> &'static ServiceContract {
        &CONTRACT
    }

    async fn build(parts: Parts<AuthzSettings>) -> Result<Self, StartError> {
        let Parts { database, caller, changes, caches, .. } = parts;
        Ok(Self { knowledge: Knowledge::new(database, caller, &changes, &caches) })
    }

    fn routes(routes: &mut Routes<Self>) {
        register(routes);
    }

    fn decide(self: &Arc<Self>) -> Option<Arc<dyn Decide>> {
        Some(Arc::<Knowledge>::clone(&self.knowledge))
    }
}

impl AuthzService<Context> for Authz {
    type Error = Error;

    async fn authorize(&self, cx: &Context, request: AuthorizeRequest) -> Result<AuthorizeReply> {
        handlers::authorize(self, cx, request).await
    }
}
