//! Jobs that are held here: the broker is told so well within its patience, for as long as they are, so that how long a job
//! may take is the job's own time-out and not the broker's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::{Client, Subject};
use bytes::Bytes;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// A third of the broker's patience of 30 s.
const INTERVAL: Duration = Duration::from_secs(10);

const IN_PROGRESS: Bytes = Bytes::from_static(b"+WPI");

/// The number of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Lease(u64);

/// The leases of a process. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Leases(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    held: HashMap<Lease, Subject>,
    next: u64,
}

impl Leases {
    /// Holds what is acknowledged at `ack` until [`Leases::end`].
    pub(super) fn hold(&self, ack: Subject) -> Lease {
        let mut table = self.lock();
        let lease = Lease(table.next);
        table.next += 1;
        table.held.insert(lease, ack);
        lease
    }

    pub(super) fn end(&self, lease: Lease) {
        self.lock().held.remove(&lease);
    }

    /// Extends all of them again and again until `stop`.
    pub(super) async fn keep(self, client: Client, stop: CancellationToken) {
        while stop.run_until_cancelled(sleep(INTERVAL)).await.is_some() {
            let held: Vec<Subject> = self.lock().held.values().cloned().collect();
            for ack in held {
                let _ = client.publish(ack, IN_PROGRESS).await;
            }
        }
    }

    /// Every step leaves the table whole.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
