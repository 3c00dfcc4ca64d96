//! The handlers of a service, with their types wrapped up: what each takes is decoded and what it gives is encoded here.

use std::collections::HashMap;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use subjects::json::{self, DecodeError};
use subjects::wire::v1::Binding;
use subjects::{Bind, Body, Endpoint, Register, ServiceContract};

use super::request::Codec;
use crate::{Context, Error, Result};

/// A request whose caller is known and whose body has not been read.
pub(super) struct Call {
    pub(super) cx: Arc<Context>,
    pub(super) codec: Codec,
    pub(super) body: Bytes,
    pub(super) bindings: Vec<Binding>,
}

/// The permission, asked between reading the body and running the handler.
pub(super) type Permit = BoxFuture<'static, Result<()>>;

/// Runs one call: reads it, asks for the permission where one is needed, handles it, writes its answer.
pub(super) type Handler<S> =
    Arc<dyn Fn(Arc<S>, Call, Option<Permit>) -> BoxFuture<'static, Result<Bytes>> + Send + Sync>;

/// Collects the handlers of a service; what `register` of the contract fills.
pub struct Routes<S> {
    handlers: HashMap<&'static str, Handler<S>>,
    service: PhantomData<fn() -> S>,
}

impl<S> Routes<S> {
    pub(crate) fn new() -> Self {
        Self { handlers: HashMap::new(), service: PhantomData }
    }

    /// The handler of each endpoint of the contract. Fails with the names of those without one.
    pub(super) fn complete(
        mut self,
        contract: &'static ServiceContract,
    ) -> Result<Vec<(&'static Endpoint, Handler<S>)>, Vec<&'static str>> {
        let (mut whole, mut missing) = (Vec::new(), Vec::new());
        for endpoint in contract.endpoints.iter().copied() {
            match self.handlers.remove(endpoint.subject) {
                Some(handler) => whole.push((endpoint, handler)),
                None => missing.push(endpoint.name),
            }
        }
        if missing.is_empty() { Ok(whole) } else { Err(missing) }
    }
}

impl<S> std::fmt::Debug for Routes<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.handlers.keys()).finish()
    }
}

impl<S: Send + Sync + 'static> Register<S> for Routes<S> {
    type Context = Context;
    type Error = Error;

    fn register<Q, A, F, Fut>(&mut self, endpoint: &'static Endpoint, handler: F)
    where
        Q: Body + Bind,
        A: Body,
        F: Fn(Arc<S>, Arc<Context>, Q) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<A>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let run: Handler<S> = Arc::new(move |service, call, permit| {
            let handler = Arc::clone(&handler);
            Box::pin(async move {
                let Call { cx, codec, body, bindings } = call;
                let request: Q = decode(codec, &body, &bindings)?;
                drop((body, bindings));
                if let Some(permit) = permit {
                    permit.await?;
                }
                let reply = handler(service, cx, request).await?;
                Ok(encode(codec, &reply))
            })
        });
        self.handlers.insert(endpoint.subject, run);
    }
}

fn decode<Q: Body + Bind>(codec: Codec, body: &Bytes, bindings: &[Binding]) -> Result<Q> {
    let bindings = bindings.iter().map(|binding| (binding.field.as_str(), binding.value.as_str()));
    match codec {
        Codec::Json => json::decode_bound(body, bindings).map_err(refusal),
        Codec::Protobuf => {
            let detail = "The body is not a message of this operation.";
            let mut request = Q::decode(body.clone())
                .map_err(|error| Error::malformed("malformed_body", detail).with_source(error))?;
            for (field, value) in bindings {
                request.bind(field, value).map_err(|error| Error::invalid(vec![error.0]))?;
            }
            Ok(request)
        }
    }
}

fn encode<A: Body>(codec: Codec, reply: &A) -> Bytes {
    match codec {
        Codec::Json => json::encode(reply).into(),
        Codec::Protobuf => reply.encode_to_vec().into(),
    }
}

fn refusal(error: DecodeError) -> Error {
    match error {
        DecodeError::Malformed(what) => {
            Error::malformed("malformed_body", format!("The body cannot be read ({what})."))
        }
        DecodeError::Invalid(field) => Error::invalid(vec![field]),
        DecodeError::Bound(field) => {
            let detail = "The body names a field that the path or query gives.";
            Error::malformed("bound_field_in_body", detail).with_errors(vec![field])
        }
    }
}
