//! The routes: those of the contract, each leading to its endpoint, and the gateway's own: pages and the tail of events. An internal operation
//! has none, whatever the contract may say elsewhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::routing::{MethodFilter, MethodRouter};
use http::HeaderValue;
use subjects::{Access, Endpoint, Http, HttpMethod};

use crate::edge::Edge;
use crate::refusal::Refusal;
use crate::{events, forward, pages, reply};

/// The methods of one path, each with what serves it.
type Methods = Vec<(MethodFilter, MethodRouter<Arc<Edge>>)>;

/// Every route of the platform.
pub(crate) fn router(edge: &Arc<Edge>) -> Router {
    let mut paths: BTreeMap<&'static str, Methods> = BTreeMap::new();
    for (endpoint, http) in exposed(subjects::endpoints()) {
        let route = Arc::new(edge.route(endpoint, http));
        let handler = move |State(edge): State<Arc<Edge>>, request: Request| {
            let route = Arc::clone(&route);
            async move { forward::forward(&edge, &route, request).await }
        };
        paths.entry(http.path).or_default().push(at(filter(http.method), handler));
    }
    for (path, page) in [
        ("/livez", at(MethodFilter::GET, pages::livez)),
        ("/readyz", at(MethodFilter::GET, pages::readyz)),
        ("/openapi.json", at(MethodFilter::GET, pages::openapi)),
        ("/api/v1/events", at(MethodFilter::GET, events::tail)),
    ] {
        paths.entry(path).or_default().push(page);
    }
    let router = paths.into_iter().fold(Router::new(), |router, (path, methods)| router.route(path, resource(methods)));
    router.fallback(async || Refusal::not_found()).with_state(Arc::clone(edge))
}

/// The operations that HTTP may reach.
fn exposed(
    endpoints: impl Iterator<Item = &'static Endpoint>,
) -> impl Iterator<Item = (&'static Endpoint, &'static Http)> {
    endpoints
        .filter(|endpoint| !matches!(endpoint.access, Access::Internal(_)))
        .filter_map(|endpoint| Some((endpoint, endpoint.http.as_ref()?)))
}

fn at<H, T>(filter: MethodFilter, handler: H) -> (MethodFilter, MethodRouter<Arc<Edge>>)
where
    H: Handler<T, Arc<Edge>>,
    T: 'static,
{
    (filter, MethodRouter::new().on(filter, handler))
}

fn filter(method: HttpMethod) -> MethodFilter {
    match method {
        HttpMethod::Get => MethodFilter::GET,
        HttpMethod::Post => MethodFilter::POST,
        HttpMethod::Put => MethodFilter::PUT,
        HttpMethod::Patch => MethodFilter::PATCH,
        HttpMethod::Delete => MethodFilter::DELETE,
    }
}

/// All methods of one path, with an answer to `OPTIONS` and to methods that it does not know.
fn resource(methods: Methods) -> MethodRouter<Arc<Edge>> {
    let allow = allow(&methods.iter().map(|(filter, _)| *filter).collect::<Vec<_>>());
    let refused = allow.clone();
    let options = async move || reply::options(allow);
    methods
        .into_iter()
        .fold(MethodRouter::new(), |resource, (_, method)| resource.merge(method))
        .on(MethodFilter::OPTIONS, options)
        .fallback(async move || Refusal::method_not_allowed(refused))
}

fn allow(filters: &[MethodFilter]) -> HeaderValue {
    let known = [
        (MethodFilter::GET, "GET, HEAD"),
        (MethodFilter::POST, "POST"),
        (MethodFilter::PUT, "PUT"),
        (MethodFilter::PATCH, "PATCH"),
        (MethodFilter::DELETE, "DELETE"),
    ];
    let mut words: Vec<&str> =
        known.into_iter().filter(|(filter, _)| filters.contains(filter)).map(|(_, word)| word).collect();
    words.push("OPTIONS");
    HeaderValue::try_from(words.join(", ")).expect("methods are fit for a header")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_internal_operation_is_exposed() {
        let exposed: Vec<_> = exposed(subjects::endpoints()).map(|(endpoint, _)| endpoint.subject).collect();

        assert!(exposed.contains(&"svc.auth.v1.login") && exposed.contains(&"svc.identity.v1.get_me"));
        for internal in ["svc.identity.v1.verify_credentials", "svc.identity.v1.get_user_roles"] {
            assert!(!exposed.contains(&internal), "{internal}");
        }
    }

    #[test]
    fn allow_names_what_a_path_knows() {
        assert_eq!(allow(&[MethodFilter::POST, MethodFilter::GET]), "GET, HEAD, POST, OPTIONS");
    }
}
