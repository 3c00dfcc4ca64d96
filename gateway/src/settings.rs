//! What an operator can choose about the edge.

use std::net::SocketAddr;

use kernel::Settings;
use serde::{Deserialize, Serialize};

use crate::client::Network;
use crate::cors;

/// The gateway's settings, section `gateway`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewaySettings {
    /// Address and port to listen on where no socket is handed down. Port 0 takes a free one. Default `127.0.0.1:8080`.
    pub listen: SocketAddr,
    /// Addresses or blocks (`10.0.0.0/8`) of proxies whose `X-Forwarded-For` is believed. Default none: a client is
    /// whoever connects.
    pub trusted_proxies: Vec<Network>,
    /// Connections at once; further ones wait in the system's queue, where another gateway may take them.
    /// 1 to 100,000, default 4,096.
    pub connections_max: u32,
    /// Requests at once; a further one is answered 503. 1 to 100,000, default 2,048.
    pub in_flight_max: u32,
    /// Requests at once to one endpoint, so that a slow one cannot take all places. 1 to 100,000, default 1,024.
    pub in_flight_per_endpoint_max: u32,
    /// Time for a request's head, from its first byte to its last. 100 to 60,000, default 10,000.
    pub header_timeout_ms: u32,
    /// Time for a request's body. 100 to 600,000, default 10,000.
    pub body_timeout_ms: u32,
    /// Time for a client to take an answer that is ready. 100 to 600,000, default 30,000.
    pub write_timeout_ms: u32,
    /// Time a connection may stay open without a request. 100 to 3,600,000, default 75,000.
    pub idle_timeout_ms: u32,
    /// While stopping: time in which a connection without a request is still kept, so that its next request is answered.
    /// 0 to 60,000, default 1,000.
    pub drain_idle_ms: u32,
    /// `max-age` of `Strict-Transport-Security` in seconds; 0 sends none, which is right where nothing in front speaks
    /// TLS. Default 0.
    pub hsts_max_age_s: u32,
    /// How often one client may ask.
    pub rate_limits: RateLimits,
    /// Which web pages may call.
    pub cors: CorsSettings,
    /// Who tails events.
    pub events: EventSettings,
}

/// How often one client, an IPv4 address or an IPv6 /64, may ask this gateway.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimits {
    /// Default true.
    pub enabled: bool,
    /// Requests a second in the long run. 1 to 1,000,000, default 100.
    pub requests_per_second: u32,
    /// Requests at once after a rest. 1 to 1,000,000, default 200.
    pub requests_burst: u32,
    /// Requests a minute, in the long run, to each endpoint at which a credential may be tried: login, refresh, registration,
    /// change of one's own password. 1 to 1,000,000, default 30.
    pub credentials_per_minute: u32,
    /// Such requests at once after a rest. 1 to 1,000,000, default 30.
    pub credentials_burst: u32,
    /// Clients remembered apart; further ones share. 1 to 10,000,000, default 65,536.
    pub clients_max: u32,
}

/// Which web pages may call.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CorsSettings {
    /// Origins exactly as browsers send them: `https://app.example`. Default none.
    pub allowed_origins: Vec<String>,
    /// Seconds for which a browser may remember a preflight's answer. 0 to 86,400, default 600.
    pub max_age_s: u32,
}

/// The live tail of events.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventSettings {
    /// Clients that tail at once; a further one is answered 503. 1 to 10,000, default 256.
    pub streams_max: u32,
    /// Of these, those of one user; a further one is answered 429. 1 to 10,000, default 16.
    pub streams_per_user_max: u32,
    /// Last events kept for clients that take them a little late; a client that is later has to come back.
    /// 16 to 100,000, default 4,096; 8 MiB at most.
    pub buffer_messages: u32,
    /// Time without an event after which a client is sent a sign of life, and between two looks at its token.
    /// 100 to 60,000, default 15,000.
    pub heartbeat_ms: u32,
}

impl Default for GatewaySettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            trusted_proxies: Vec::new(),
            connections_max: 4_096,
            in_flight_max: 2_048,
            in_flight_per_endpoint_max: 1_024,
            header_timeout_ms: 10_000,
            body_timeout_ms: 10_000,
            write_timeout_ms: 30_000,
            idle_timeout_ms: 75_000,
            drain_idle_ms: 1_000,
            hsts_max_age_s: 0,
            rate_limits: RateLimits::default(),
            cors: CorsSettings::default(),
            events: EventSettings::default(),
        }
    }
}

impl Default for RateLimits {
    fn default() -> Self {
        Self {
            enabled: true,
            requests_per_second: 100,
            requests_burst: 200,
            credentials_per_minute: 30,
            credentials_burst: 30,
            clients_max: 65_536,
        }
    }
}

impl Default for EventSettings {
    fn default() -> Self {
        Self { streams_max: 256, streams_per_user_max: 16, buffer_messages: 4_096, heartbeat_ms: 15_000 }
    }
}

impl Default for CorsSettings {
    fn default() -> Self {
        Self { allowed_origins: Vec::new(), max_age_s: 600 }
    }
}

impl Settings for GatewaySettings {
    fn check(&self) -> Vec<String> {
        let rates = &self.rate_limits;
        let ranges = [
            ("connections_max", self.connections_max, 1, 100_000),
            ("in_flight_max", self.in_flight_max, 1, 100_000),
            ("in_flight_per_endpoint_max", self.in_flight_per_endpoint_max, 1, 100_000),
            ("header_timeout_ms", self.header_timeout_ms, 100, 60_000),
            ("body_timeout_ms", self.body_timeout_ms, 100, 600_000),
            ("write_timeout_ms", self.write_timeout_ms, 100, 600_000),
            ("idle_timeout_ms", self.idle_timeout_ms, 100, 3_600_000),
            ("drain_idle_ms", self.drain_idle_ms, 0, 60_000),
            ("rate_limits.requests_per_second", rates.requests_per_second, 1, 1_000_000),
            ("rate_limits.requests_burst", rates.requests_burst, 1, 1_000_000),
            ("rate_limits.credentials_per_minute", rates.credentials_per_minute, 1, 1_000_000),
            ("rate_limits.credentials_burst", rates.credentials_burst, 1, 1_000_000),
            ("rate_limits.clients_max", rates.clients_max, 1, 10_000_000),
            ("events.streams_max", self.events.streams_max, 1, 10_000),
            ("events.streams_per_user_max", self.events.streams_per_user_max, 1, 10_000),
            ("events.buffer_messages", self.events.buffer_messages, 16, 100_000),
            ("events.heartbeat_ms", self.events.heartbeat_ms, 100, 60_000),
            ("cors.max_age_s", self.cors.max_age_s, 0, 86_400),
        ];
        let out_of_range = ranges
            .into_iter()
            .filter(|(_, value, min, max)| !(min..=max).contains(&value))
            .map(|(name, _, min, max)| format!("{name} must be {min} to {max}"));
        let not_origins = self.cors.allowed_origins.iter().filter(|origin| !cors::is_origin(origin));
        out_of_range
            .chain(not_origins.map(|_| "cors.allowed_origins must be origins like https://app.example".to_owned()))
            .collect()
    }
}
