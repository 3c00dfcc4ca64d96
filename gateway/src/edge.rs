//! What all requests share: the limits, the page policy, the sources of ids and the way to the services.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode};
use kernel::{Caller, Clock, Context, Ids, Parts, Random, Readiness, TokenVerifier, TraceContext};
use subjects::auth::v1::{AuthClient, GetJwksRequest};
use subjects::{Access, Endpoint, Http};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::client::Network;
use crate::cors::Cors;
use crate::events::Events;
use crate::lines::STREAMS_MAX;
use crate::metrics::{EdgeMetrics, RouteMetrics};
use crate::rate_limit::RateLimit;
use crate::refusal::Refusal;
use crate::reply;
use crate::request_id::RequestId;
use crate::settings::GatewaySettings;
use crate::shed::Places;

/// Never limited: whoever asks these must not be told "later" instead of the truth.
const PROBES: [&str; 2] = ["/livez", "/readyz"];

/// How long one look at the signing keys may take.
const KEYS_TIMEOUT: Duration = Duration::from_secs(1);

/// The shared state of the gateway.
pub(crate) struct Edge {
    pub(crate) caller: Caller,
    pub(crate) tokens: TokenVerifier,
    pub(crate) places: Places,
    pub(crate) events: Arc<Events>,
    pub(crate) body_timeout: Duration,
    pub(crate) metrics: EdgeMetrics,
    settings: GatewaySettings,
    ids: Ids,
    clock: Clock,
    random: Random,
    readiness: Readiness,
    rate: Option<RateLimit>,
    cors: Cors,
    hsts: Option<HeaderValue>,
}

/// One endpoint as the gateway serves it.
pub(crate) struct Route {
    pub(crate) endpoint: &'static Endpoint,
    pub(crate) http: &'static Http,
    /// `http.identity.get_user`.
    pub(crate) span_name: String,
    pub(crate) places: Places,
    /// Places for answers that are streams, which last.
    pub(crate) streams: Arc<Semaphore>,
    /// Where a credential may be tried: by anybody, or by who has a token only, which may be stolen.
    pub(crate) credential_rate: Option<RateLimit>,
    pub(crate) metrics: RouteMetrics,
}

impl Edge {
    /// Puts the parts together; their settings have been checked.
    pub(crate) fn new(parts: Parts<GatewaySettings>, events: Arc<Events>) -> Self {
        let settings = parts.settings;
        let rates = &settings.rate_limits;
        let rate = rates.enabled.then(|| {
            let interval = Duration::from_secs(1) / rates.requests_per_second;
            RateLimit::new(interval, at_least_one(rates.requests_burst), rates.clients_max as usize)
        });
        let hsts = (settings.hsts_max_age_s > 0).then(|| {
            let value = format!("max-age={}; includeSubDomains", settings.hsts_max_age_s);
            HeaderValue::try_from(value).expect("digits are fit for a header")
        });
        Self {
            caller: parts.caller,
            tokens: parts.tokens,
            places: Places::new(settings.in_flight_max),
            events,
            body_timeout: Duration::from_millis(settings.body_timeout_ms.into()),
            metrics: EdgeMetrics::new(&parts.metrics),
            cors: Cors::new(&settings.cors.allowed_origins, settings.cors.max_age_s),
            ids: parts.ids,
            clock: parts.clock,
            random: parts.random,
            readiness: parts.readiness,
            rate,
            hsts,
            settings,
        }
    }

    /// An endpoint with its own limits.
    pub(crate) fn route(&self, endpoint: &'static Endpoint, http: &'static Http) -> Route {
        let rates = &self.settings.rate_limits;
        let takes_credentials = endpoint.bears_credentials && matches!(endpoint.access, Access::Public | Access::Token);
        let credential_rate = (rates.enabled && takes_credentials).then(|| {
            let interval = Duration::from_mins(1) / rates.credentials_per_minute;
            RateLimit::new(interval, at_least_one(rates.credentials_burst), rates.clients_max as usize)
        });
        Route {
            endpoint,
            http,
            span_name: format!("http.{}.{}", endpoint.service, endpoint.name),
            places: Places::new(self.settings.in_flight_per_endpoint_max),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            credential_rate,
            metrics: self.metrics.route(endpoint, http),
        }
    }

    pub(crate) fn new_id(&self) -> Uuid {
        self.ids.new_id()
    }

    pub(crate) fn trusted_proxies(&self) -> &[Network] {
        &self.settings.trusted_proxies
    }

    /// Makes readiness wait until the keys that verify tokens have been had once.
    pub(crate) fn require_keys(&self) {
        let known = Arc::new(AtomicBool::new(false));
        let (caller, clock, random) = (self.caller.clone(), self.clock.clone(), self.random.clone());
        self.readiness.require("signing keys", move || {
            let (known, auth) = (Arc::clone(&known), AuthClient::new(caller.clone()));
            let cx = Context::for_service(subjects::GATEWAY.name, &clock, &random, KEYS_TIMEOUT);
            async move {
                if !known.load(Ordering::Relaxed) {
                    auth.get_jwks(&cx, GetJwksRequest {}).await.map_err(|error| error.to_string())?;
                    known.store(true, Ordering::Relaxed);
                }
                Ok(())
            }
        });
    }

    /// Whether requests should be sent here.
    pub(crate) async fn is_ready(&self) -> bool {
        self.readiness.report().await.ready
    }

    /// A trace for a request whose client named none.
    pub(crate) fn new_trace(&self) -> TraceContext {
        TraceContext::root(&self.random, false)
    }

    /// Counts a request to `path` against its client's rate.
    pub(crate) fn check_rate(&self, client: IpAddr, path: &str) -> Result<(), Refusal> {
        match &self.rate {
            Some(rate) if !PROBES.contains(&path) => rate.check(client).map_err(Refusal::rate_limited),
            _ => Ok(()),
        }
    }

    /// Answers a browser that asks whether a page of `origin` may call.
    pub(crate) fn preflight(&self, origin: Option<&HeaderValue>) -> Result<Response, Refusal> {
        if !origin.is_some_and(|origin| self.cors.allows(origin)) {
            return Err(Refusal::foreign_origin());
        }
        let mut response = reply::empty(StatusCode::NO_CONTENT);
        self.cors.apply_preflight(response.headers_mut());
        Ok(response)
    }

    /// Adds what every answer carries, and what lets a page of `origin` read it.
    pub(crate) fn finish(&self, headers: &mut HeaderMap, origin: Option<&HeaderValue>, request_id: &RequestId) {
        reply::finish(headers, request_id, self.hsts.as_ref());
        self.cors.apply(origin, headers);
    }
}

fn at_least_one(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN)
}
