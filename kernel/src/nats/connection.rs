//! The connection to the broker: made once, kept for the life of the process, made again by itself when it is lost.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Event, ServerError};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;

use super::pending::{Failure, Pending};
use crate::metrics::{ByKind, Name};
use crate::settings::Process;
use crate::{Metrics, Random, StartError};

/// Messages that may wait for one subscription. Every reader takes them off at once and refuses what is too much, so
/// that this only has to hold what one read of the socket can bring: 6 MiB (Linux's largest receive buffer) of small
/// messages.
const SUBSCRIPTION_CAPACITY: usize = 32_768;

/// Commands that may wait for the socket; more make their senders wait.
const COMMAND_CAPACITY: usize = 2_048;

/// The shortest pause before connecting again.
const RECONNECT_DELAY_MIN: Duration = Duration::from_millis(20);

/// A connection. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    client: Client,
    disturbances: watch::Receiver<Disturbances>,
}

/// How often something happened to a connection by which messages may have been missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Disturbances {
    /// Times it was made.
    pub(crate) connections: u64,
    /// Times it was lost.
    pub(crate) disconnections: u64,
    /// Messages that the client dropped because nobody took them in time.
    pub(crate) slow: u64,
}

impl Connection {
    /// The client beneath.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Whether the broker is there.
    pub(crate) fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Tells of each disturbance. One may be told late, or not at all where there are very many; [`Connection::now`]
    /// misses no connection.
    pub(crate) fn disturbances(&self) -> watch::Receiver<Disturbances> {
        self.disturbances.clone()
    }

    /// What has happened until now.
    pub(crate) fn now(&self) -> Disturbances {
        let connections = self.client.statistics().connects.load(Ordering::Relaxed);
        Disturbances { connections, ..*self.disturbances.borrow() }
    }
}

/// Begins to connect, for as long as it takes; what is sent meanwhile waits. `pending` is told what the broker refuses.
#[expect(clippy::disallowed_methods, reason = "the kernel connects to the broker here")]
pub(crate) async fn connect(
    settings: &Process,
    service: &str,
    name: String,
    metrics: &Metrics,
    random: &Random,
    pending: Arc<Pending>,
) -> Result<Connection, StartError> {
    let servers =
        settings.nats_servers().map_err(|error| StartError::new("nats_url is not valid").with_source(error))?;
    let seed = settings.nkey_seed().map_err(StartError::new)?;
    let (sender, disturbances) = watch::channel(Disturbances::default());
    let watcher = Arc::new(Watcher {
        pending,
        disturbances: sender,
        connected: metrics.gauge(Name::NatsConnected),
        connects: metrics.counter(Name::NatsConnects),
        errors: metrics.counters(Name::NatsErrors),
    });
    let delay_max = Duration::from_millis(settings.nats.reconnect_delay_max_ms.into());
    let random = random.clone();
    let mut options = ConnectOptions::new()
        .name(name)
        .custom_inbox_prefix(subjects::subject::inbox_prefix(service))
        .ping_interval(Duration::from_millis(settings.nats.ping_interval_ms.into()))
        .connection_timeout(Duration::from_millis(settings.nats.connect_timeout_ms.into()))
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .client_capacity(COMMAND_CAPACITY)
        .retry_on_initial_connect()
        .reconnect_delay_callback(move |attempts| reconnect_delay(attempts, delay_max, random.fraction()))
        .event_callback(move |event| {
            watcher.notice(&event);
            std::future::ready(())
        });
    if let Some(seed) = seed {
        options = options.nkey(seed.expose().to_owned());
    }
    if let (Some(user), Some(password)) = (&settings.nats.user, &settings.nats.password) {
        options = options.user_and_password(user.clone(), password.expose().to_owned());
    }
    if let Some(file) = &settings.nats.ca_file {
        options = options.add_root_certificates(file.clone()).require_tls(true);
    }
    let connecting = options.connect(servers).await;
    let client =
        connecting.map_err(|error| StartError::new("the broker's address is not usable").with_source(error))?;
    Ok(Connection { client, disturbances })
}

/// Doubles from 20 ms, with half of it left to chance so that a restarted server is not met by everybody at once. The
/// first attempt of all, which has no loss before it, waits no longer than any other.
fn reconnect_delay(attempts: usize, max: Duration, chance: f64) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    let ceiling = RECONNECT_DELAY_MIN.saturating_mul(2_u32.saturating_pow(doublings)).min(max);
    ceiling / 2 + ceiling.mul_f64(chance / 2.0)
}

/// Turns what the client tells into metrics, log lines and failed calls.
struct Watcher {
    pending: Arc<Pending>,
    disturbances: watch::Sender<Disturbances>,
    connected: Gauge,
    connects: Counter,
    errors: Family<ByKind, Counter>,
}

impl Watcher {
    fn notice(&self, event: &Event) {
        match event {
            Event::Connected => {
                self.connected.set(1);
                self.connects.inc();
                self.disturbances.send_modify(|disturbances| disturbances.connections += 1);
                tracing::info!("The broker is connected.");
            }
            Event::Disconnected => {
                self.connected.set(0);
                self.pending.fail_all(Failure::ConnectionLost);
                self.disturbances.send_modify(|disturbances| disturbances.disconnections += 1);
                tracing::warn!("The connection to the broker is lost.");
            }
            Event::LameDuckMode => {
                self.count("lame_duck");
                tracing::warn!("The broker is about to stop.");
            }
            Event::SlowConsumer(subscription) => {
                self.count("slow_consumer");
                self.disturbances.send_modify(|disturbances| disturbances.slow += 1);
                tracing::warn!(subscription, "A message was dropped: its reader is too slow.");
            }
            Event::ServerError(ServerError::Other(message)) => {
                if let Some(subject) = denied_publish(message) {
                    self.count("publish_denied");
                    self.pending.deny(subject);
                } else {
                    self.count("server");
                }
                tracing::error!(message, "The broker refuses something.");
            }
            Event::ServerError(error) => {
                self.count("server");
                tracing::error!(%error, "The broker refuses something.");
            }
            Event::ClientError(error) => {
                self.count("client");
                tracing::warn!(%error, "The broker cannot be reached.");
            }
            Event::Draining | Event::Closed => {}
        }
    }

    fn count(&self, kind: &'static str) {
        self.errors.get_or_create(&ByKind { kind }).inc();
    }
}

/// The subject of `Permissions Violation for Publish to "svc.auth.v1.login"`.
fn denied_publish(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("Permissions Violation for Publish to \"")?;
    rest.split_once('"').map(|(subject, _)| subject)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reconnect_delay_grows_to_its_bound_and_differs() {
        let max = Duration::from_secs(2);

        assert_eq!(reconnect_delay(1, max, 0.0), RECONNECT_DELAY_MIN / 2);
        assert_eq!(reconnect_delay(99, max, 0.0), max / 2);
        assert!(reconnect_delay(99, max, 0.999) <= max);
        assert!(reconnect_delay(5, max, 0.9) > reconnect_delay(5, max, 0.1));
    }

    #[test]
    fn denied_subject_is_found_in_the_message() {
        let message = r#"Permissions Violation for Publish to "svc.auth.v1.login""#;

        assert_eq!(denied_publish(message), Some("svc.auth.v1.login"));
        assert_eq!(denied_publish("Maximum Payload Violation"), None);
    }
}
