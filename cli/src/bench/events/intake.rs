//! The audit service's intake: records in the stream to entries in the chain.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_nats::Client;
use bytes::Bytes;
use kernel::{Clock, Ids, Random};
use sqlx::{Connection as _, PgConnection};
use tokio::sync::Mutex;

use super::Side;
use super::raw::{publish_batch, record};
use crate::bench::bed::Bed;
use crate::platform::database::DATABASE;

/// Records of one batch.
const BATCH: usize = 1_000;

/// Records for each second that is measured: more than is expected, so that the service always has some.
const RECORDS_PER_SECOND: u64 = 10_000;

/// How long they may take to be entries.
const STORED_WITHIN: Duration = Duration::from_mins(2);

/// How often it is looked.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

pub(super) struct Intake {
    publisher: Client,
    database: Mutex<PgConnection>,
}

impl Intake {
    pub(super) async fn open(bed: &Bed) -> Result<Self> {
        let account = bed.servers.accounts().first().context("the platform has an account")?;
        let url = bed.servers.nats_url();
        let publisher = crate::platform::nats::client::connect(url, &account.key_file("identity"), "identity").await?;
        let database = PgConnection::connect(bed.servers.databases().superuser_url(DATABASE).expose()).await?;
        Ok(Self { publisher, database: Mutex::new(database) })
    }

    /// Publishes as many records as should take `duration` or longer, and waits until all are in the log.
    pub(super) async fn run(&self, duration: Duration) -> Result<Side> {
        let ids = Ids::new(Clock::system(), Random::system());
        let batches = (duration.as_secs().max(1) * RECORDS_PER_SECOND) / BATCH as u64;
        let before = self.last_entry().await?;
        let start = Instant::now();
        let publish = async {
            for _ in 0..batches {
                let records = std::iter::repeat_with(|| {
                    let id = ids.new_id().to_string();
                    let body = Bytes::from(record(&id));
                    (Some(id), body)
                });
                publish_batch(&self.publisher, &records.take(BATCH).collect::<Vec<_>>()).await?;
            }
            anyhow::Ok(())
        };
        let count = batches * BATCH as u64;
        let stored = async {
            while self.last_entry().await? < before + i64::try_from(count)? {
                ensure!(start.elapsed() < STORED_WITHIN, "the audit log does not take {count} records in time");
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
            Ok(())
        };
        tokio::try_join!(publish, stored)?;
        Ok(Side { count, took: start.elapsed(), lags_us: Vec::new() })
    }

    async fn last_entry(&self) -> Result<i64> {
        let last = "SELECT coalesce(max(sequence), 0) FROM audit.entries";
        Ok(sqlx::query_scalar(last).fetch_one(&mut *self.database.lock().await).await?)
    }

    /// Fails where the log is not dense: an entry would be missing.
    pub(super) async fn check(&self) -> Result<()> {
        let counts = "SELECT count(*), coalesce(max(sequence), 0) FROM audit.entries";
        let (entries, last): (i64, i64) = sqlx::query_as(counts).fetch_one(&mut *self.database.lock().await).await?;
        ensure!(entries == last, "the log has {entries} entries, and the last is {last}");
        Ok(())
    }
}
