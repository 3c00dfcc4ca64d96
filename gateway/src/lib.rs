//! The HTTP edge: the one way in for outside traffic.
//!
//! Serves the routes of the contract over HTTP/1.1 and HTTP/2 and passes each request on to the service behind it, over
//! NATS; events it shows itself, as they are stored. Before that it makes sure that the request can be read in one way only, that its client keeps to limits, that a
//! page may call and that the access token counts. It knows no operation by name, reads no body, keeps no state but
//! counters and caches, and takes no client's word for who he is.
//!
//! A request's way is told in `server`, then in `forward`; a connection's in `connections`.

mod bearer;
mod body;
mod client;
mod connections;
mod cors;
mod edge;
mod events;
mod forward;
mod framing;
mod head;
mod lines;
mod link;
mod listen;
mod metrics;
mod pages;
mod path;
mod percent;
mod query;
mod rate_limit;
mod refusal;
mod reply;
mod request_id;
mod routes;
mod server;
mod settings;
mod shed;
mod wire;

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kernel::{Lifecycle, Parts, Service, StartError};
use subjects::ServiceContract;

use crate::connections::{Connections, Listener};
use crate::edge::Edge;
use crate::events::Events;
use crate::server::Server;

pub use client::Network;
pub use settings::{CorsSettings, EventSettings, GatewaySettings, RateLimits};

/// The gateway as the kernel runs it.
pub struct Gateway {
    server: Arc<Server>,
    settings: GatewaySettings,
    drain_timeout: Duration,
    /// Until they are served.
    listeners: Mutex<Vec<Listener>>,
}

impl Service for Gateway {
    type Settings = GatewaySettings;

    const DATABASE: bool = false;

    fn contract() -> &'static ServiceContract {
        &subjects::GATEWAY
    }

    async fn build(parts: Parts<GatewaySettings>) -> Result<Self, StartError> {
        listen::allow_descriptors(parts.settings.connections_max);
        let listeners = listen::listeners(&parts.sockets, parts.settings.listen)?;
        if let Some(url) = listen::url(&listeners) {
            parts.status.set_url(url);
        }
        let (settings, drain_timeout) = (parts.settings.clone(), parts.process.drain_timeout());
        let events = Events::open(&parts).await?;
        let edge = Arc::new(Edge::new(parts, events));
        edge.require_keys();
        Ok(Self { server: Arc::new(Server::new(edge)), settings, drain_timeout, listeners: Mutex::new(listeners) })
    }

    async fn run(self: Arc<Self>, life: Lifecycle) -> Result<(), StartError> {
        let listeners = mem::take(&mut *self.listeners.lock().unwrap_or_else(PoisonError::into_inner));
        Connections::new(Arc::clone(&self.server), &self.settings, self.drain_timeout).run(listeners, &life).await;
        Ok(())
    }
}
