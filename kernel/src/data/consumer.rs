//! Durable consumers: messages of a stream are handled in batches, each batch in one transaction together with the ids of
//! its messages, and acknowledged after the commit. A message may come more than once; its effect is had once.
//!
//! One that cannot be handled does not keep the others: its batch is tried again message by message, and it alone comes
//! back later, at growing intervals. After a number of attempts it becomes a dead letter (`dlq.evt.<consumer>.…`): stored
//! with the reason before it is taken from the consumer, and taken again when `ops` asks for it. Not done here: making
//! streams and consumers, which the platform provisions; order between two instances.

mod letter;
mod message;
mod pull;
mod replay;
mod runner;

use std::fmt;
use std::sync::Arc;

use async_nats::Client;
use futures::future::BoxFuture;
use subjects::ServiceContract;

pub use self::message::Message;
pub use self::runner::{BATCH_MESSAGES_MAX, HANDLER_TIME_MAX};

use self::runner::Runner;
use super::database::Database;
use super::measures::ConsumerMeasures;
use super::transaction::Transaction;
use crate::{Clock, Lifecycle, Random, Result, StartError, settings};

type Handler<S> = dyn for<'a> Fn(&'a S, &'a mut Transaction, &'a [Message]) -> BoxFuture<'a, Result<()>> + Send + Sync;

/// The consumers of a service, by which it takes part in what others publish.
pub struct Consumers<S> {
    contract: &'static ServiceContract,
    handlers: Vec<Registration<S>>,
}

struct Registration<S> {
    stream: &'static str,
    durable: &'static str,
    handler: Arc<Handler<S>>,
}

/// What consumers work with.
#[derive(Clone, Debug)]
pub struct ConsumerParts {
    /// Whose schema holds the inbox.
    pub database: Database,
    /// The service's own connection.
    pub client: Client,
    /// Tells the time to handlers.
    pub clock: Clock,
    /// For ids and jitter.
    pub random: Random,
    /// How often a message that fails is tried.
    pub settings: settings::Consumers,
    /// What is counted.
    pub measures: ConsumerMeasures,
}

impl<S: Send + Sync + 'static> Consumers<S> {
    /// None yet, for a service of this contract.
    pub fn new(contract: &'static ServiceContract) -> Self {
        Self { contract, handlers: Vec::new() }
    }

    /// Handles the messages of a durable consumer that the contract declares.
    ///
    /// `handler` gets 1 to [`BATCH_MESSAGES_MAX`] messages which have had no effect yet, in the order of the stream unless
    /// some come again, and does all its work in the transaction, within [`HANDLER_TIME_MAX`]. It neither commits nor
    /// acknowledges. When it fails, everything is rolled back and the messages are given to it one by one; a message with
    /// which it fails by itself comes again later, and becomes a dead letter after as many deliveries as the settings say.
    /// An error that passes by itself (503) is retried before that counts.
    ///
    /// ```text
    /// consumers.batch("AUDIT", "audit", |audit, tx, records| Box::pin(handlers::append_records(audit, tx, records)));
    /// ```
    pub fn batch<H>(&mut self, stream: &'static str, durable: &'static str, handler: H)
    where
        H: for<'a> Fn(&'a S, &'a mut Transaction, &'a [Message]) -> BoxFuture<'a, Result<()>> + Send + Sync + 'static,
    {
        self.handlers.push(Registration { stream, durable, handler: Arc::new(handler) });
    }

    /// Starts them all. They stop pulling when the process begins to stop, and finish what they have.
    ///
    /// Fails when the handlers are not those that the contract declares.
    pub fn start(self, service: &Arc<S>, parts: &ConsumerParts, life: &Lifecycle) -> Result<(), StartError> {
        self.check()?;
        for Registration { stream, durable, handler } in self.handlers {
            let runner = Arc::new(Runner::new(stream, durable, Arc::clone(service), handler, parts.clone()));
            life.spawn("replays", Arc::clone(&runner).serve_replays(life.stop_token()));
            life.spawn("consumer", runner.run(life.stop_token()));
        }
        Ok(())
    }

    fn check(&self) -> Result<(), StartError> {
        let mut declared: Vec<_> =
            self.contract.consumers.iter().map(|consumer| (consumer.stream, consumer.durable)).collect();
        let mut handled: Vec<_> = self.handlers.iter().map(|handler| (handler.stream, handler.durable)).collect();
        declared.sort_unstable();
        handled.sort_unstable();
        if declared == handled {
            return Ok(());
        }
        Err(StartError::new(format!(
            "the contract declares the consumers {declared:?}, the service handles {handled:?}"
        )))
    }
}

impl<S> fmt::Debug for Consumers<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.handlers.iter().map(|handler| (handler.stream, handler.durable));
        f.debug_list().entries(names).finish()
    }
}

#[cfg(test)]
mod tests {
    use subjects::audit::v1::CONTRACT;

    use super::*;

    #[test]
    fn handlers_must_be_those_of_the_contract() {
        let mut consumers = Consumers::<()>::new(&CONTRACT);
        assert!(consumers.check().is_err());

        consumers.batch("AUDIT", "audit", |(), _, _| Box::pin(async { Ok(()) }));
        assert!(consumers.check().is_ok());

        consumers.batch("EVENTS", "audit", |(), _, _| Box::pin(async { Ok(()) }));
        assert!(consumers.check().is_err());
    }
}
