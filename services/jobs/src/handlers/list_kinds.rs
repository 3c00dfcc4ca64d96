//! The kinds of jobs there are.

use std::collections::BTreeMap;

use kernel::{Context, Result};
use subjects::job;
use subjects::jobs::v1::{JobKind, ListKindsReply};

use crate::domain::QueueSettings;
use crate::{Jobs, storage};

pub(crate) async fn list_kinds(jobs: &Jobs, cx: &Context) -> Result<ListKindsReply> {
    let mut tx = jobs.database.begin(cx).await?;
    let queues = storage::list_queues(&mut tx).await?.into_iter().map(|queue| (queue.name, queue.settings));
    let queues: BTreeMap<String, QueueSettings> = queues.collect();
    let seen = storage::list_kinds(&mut tx).await?;
    let mut kinds = BTreeMap::new();
    for (queue, kind) in seen {
        let settings = queues.get(&queue).cloned().unwrap_or_default();
        let shown = JobKind {
            queue: queue.clone(),
            kind: kind.clone(),
            max_attempts: settings.max_attempts,
            timeout_ms: settings.timeout_ms,
            ..JobKind::default()
        };
        kinds.insert((queue, kind), shown);
    }
    for contract in job::contracts() {
        let shown = JobKind {
            queue: contract.queue.to_owned(),
            kind: contract.kind.to_owned(),
            description: contract.description.to_owned(),
            service: contract.service.to_owned(),
            max_attempts: contract.attempts_max,
            timeout_ms: contract.timeout_ms,
        };
        kinds.insert((shown.queue.clone(), shown.kind.clone()), shown);
    }
    Ok(ListKindsReply { items: kinds.into_values().collect() })
}
