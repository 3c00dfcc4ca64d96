//! One test's platform: an account, a database and its own processes, started by the code that `up` uses. Deliberately
//! no knowledge of what is tested on it.

use std::{
    ops::Deref,
    path::{Path, PathBuf},
    time::Instant,
};

use kernel::data::migrations::SERVICES;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use trunkline::platform::{
    admin::AdminFile,
    deployment::Deployment,
    nats::{client, streams::Declaration},
    servers::Servers,
    supervisor::{Process, State},
};

use crate::{
    broker::User,
    http::Http,
    servers::{Shared, cache},
    setup::STREAM_BYTES_MAX,
    traces::Traces,
    wait,
};

/// A running platform. Dropping it ends its processes, and fails the test if one of them panicked.
pub struct Platform {
    pub(crate) deployment: Deployment,
    pub(crate) servers: Lease,
    pub(crate) traces: Option<Traces>,
}

/// Servers of one's own, or shared with other tests.
pub(crate) enum Lease {
    Own(Box<Servers>),
    Shared(&'static Shared),
}

impl Deref for Lease {
    type Target = Servers;

    fn deref(&self) -> &Servers {
        match self {
            Lease::Own(servers) => servers,
            Lease::Shared(shared) => &shared.servers,
        }
    }
}

impl Platform {
    /// A client of the gateways' shared public socket.
    pub fn http(&self) -> Http {
        Http::new(&self.deployment.gateway_url().expect("this platform has a gateway"))
    }

    /// A client of one gateway's own port, counted from 1.
    pub fn gateway(&self, instance: usize) -> Http {
        Http::new(&self.process("gateway", instance).state().status.url.expect("a gateway says where it is"))
    }

    /// Clients of the admin ports of every process of ours.
    pub fn admin_ports(&self) -> Vec<Http> {
        let states = self.deployment.processes().iter().map(Process::state);
        states.map(|state| Http::new(&state.status.admin_url.expect("every process has an admin port"))).collect()
    }

    /// The first administrator, signed in anew.
    pub async fn admin(&self) -> Http {
        let admin = AdminFile::in_folder(self.folder()).read().expect("written at the first start");
        self.http().signed_in(&admin.email, &admin.password).await
    }

    /// An access token of the first administrator.
    pub async fn admin_token(&self) -> String {
        self.admin().await.token().expect("signed in").to_owned()
    }

    /// A broker user of this platform's account.
    pub fn user(&self, name: &str) -> User {
        let options = self.deployment.options();
        let key_file = options.account.key_file(name);
        let seed = std::fs::read_to_string(&key_file).expect("rendered beforehand");
        User { name: name.to_owned(), seed: seed.trim().to_owned(), key_file, url: options.nats_url.clone() }
    }

    /// One process, counted from 1: a service's, `gateway`, `nats-server` or `postgres`.
    pub fn process(&self, name: &str, instance: usize) -> &Process {
        match name {
            "nats-server" => self.servers.nats().expect("ours"),
            "postgres" => self.servers.postgres().expect("ours"),
            name => self.deployment.process(name, instance).expect("started"),
        }
    }

    /// Stops every service and gateway in good order and starts them again.
    pub async fn restart_services(&self) {
        self.deployment.stop().await.expect("they end");
        for process in self.deployment.processes() {
            process.start().await.expect("its supervisor is there");
        }
        self.deployment.ready().await.unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Starts one more instance.
    pub fn add(&mut self, service: &str) -> Process {
        self.deployment.add(service).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// A new session of the superuser in this platform's database.
    pub async fn superuser(&self) -> PgConnection {
        let options = self.deployment.options();
        let url = options.databases.superuser_url(&options.database);
        PgConnection::connect(url.expose()).await.expect("the superuser signs in")
    }

    /// A new session of a role, `<service>` or `<service>_owner`, in this platform's database.
    pub async fn role(&self, role: &str) -> PgConnection {
        PgConnection::connect(&self.role_url(role)).await.expect("the role signs in")
    }

    /// Makes every exchange of a refresh token so long ago that a repetition is no retry any more. Services use real clocks, so
    /// what is stored is put back.
    pub async fn outwait_refresh_retries(&self) {
        let put_back =
            "UPDATE auth.refresh_tokens SET used_at = used_at - interval '2 minutes' WHERE used_at IS NOT NULL";
        sqlx::query(put_back).execute(&mut self.superuser().await).await.expect("the tokens are there");
    }

    /// The URL with which a role signs in.
    pub fn role_url(&self, role: &str) -> String {
        let options = self.deployment.options();
        options.databases.url(role, &options.database).expect("the roles exist").expose().to_owned()
    }

    /// The spans received from this platform, which must have been set up with them.
    pub fn traces(&self) -> &Traces {
        self.traces.as_ref().expect("set up with traces")
    }

    /// Everything that the processes have logged so far.
    pub fn logs(&self) -> String {
        let files = std::fs::read_dir(self.folder().join("logs")).expect("made at the start");
        let texts = files.map(|file| std::fs::read(file.expect("listed").path()).expect("a log can be read"));
        texts.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect()
    }

    /// Fails the test if a process panicked or was restarted unasked.
    #[track_caller]
    pub fn check_calm(&self) {
        let logs = self.logs();
        let panic = logs.lines().find(|line| line.contains("panicked at"));
        assert_eq!(panic, None, "a process panicked");
        for process in self.deployment.processes() {
            let State { starts, .. } = process.state();
            assert_eq!(starts, 1, "{} {} was restarted", process.spec().name, process.spec().instance);
        }
    }

    /// The sum of a service's metrics whose name contains `part`, over its instances.
    pub async fn metric(&self, service: &str, part: &str) -> f64 {
        let mut sum = 0.0;
        for process in self.deployment.processes().iter().filter(|process| process.spec().name == service) {
            let url = process.state().status.admin_url.expect("ready");
            let text = Http::new(&url).get("/metrics").await.body;
            let samples = text.lines().filter(|line| !line.starts_with('#') && line.contains(part));
            let values = samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
            sum += values.sum::<f64>();
        }
        sum
    }

    /// Waits until every process hears of what changes authorisation, and so keeps what it has been answered.
    pub async fn hears_changes(&self) {
        wait::until("every process hears of changes", async || {
            for http in self.admin_ports() {
                let page = http.get("/metrics").await.body;
                let line =
                    page.lines().find(|line| line.starts_with("trunkline_feed_stale_seconds{feed=\"authorization\"}"));
                if line.is_some_and(|line| !line.ends_with(" 0.0")) {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }

    /// Waits until nothing is under way any more: no unsent message in an outbox, no record that audit has not stored.
    pub async fn settled(&self) {
        let ops = self.user("ops").connect().await;
        wait::until("outboxes and consumers are empty", async || {
            let mut database = self.superuser().await;
            let unsent = unsent(&mut database, SERVICES).await;
            let answer = ops.client.request("$JS.API.CONSUMER.INFO.AUDIT.audit", "".into()).await.ok()?;
            let info: serde_json::Value = serde_json::from_slice(&answer.payload).expect("the server answers JSON");
            (unsent == 0 && info["num_pending"] == 0 && info["num_ack_pending"] == 0).then_some(())
        })
        .await;
    }

    /// Waits until no outbox has an unsent message, audit's aside, which may be away.
    pub async fn settled_outboxes(&self) {
        let mut database = self.superuser().await;
        wait::until("outboxes are empty", async || {
            let acting: Vec<&str> = SERVICES.iter().copied().filter(|service| *service != "audit").collect();
            (unsent(&mut database, &acting).await == 0).then_some(())
        })
        .await;
    }

    /// Waits for an entry of the audit log with this action that `matches`, and gives it. Looks at the newest 500.
    pub async fn audit_entry(
        &self,
        admin: &Http,
        action: &str,
        matches: impl Fn(&serde_json::Value) -> bool,
    ) -> serde_json::Value {
        wait::until(&format!("an audit entry {action}"), async || {
            let reply = admin.get(&format!("/api/v1/audit/entries?pageSize=500&action={action}")).await;
            // After a fault, who decides may come back later than who answers; and whoever is asked may be busy.
            if [503, 504].contains(&reply.status) {
                return None;
            }
            let page = reply.json(200);
            page["items"].as_array().expect("a list").iter().find(|entry| matches(entry)).cloned()
        })
        .await
    }

    /// Checks what must hold of the stored log: every record that any service ever committed is there exactly once, those
    /// still on their way waited for, since a read of the log is recorded in it too; sequences dense from 1, each hash in
    /// its successor.
    pub async fn check_audit_log(&self) {
        let mut database = self.superuser().await;
        let started = Instant::now();
        loop {
            let lost: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!(
                "SELECT subject || ' ' || event_id FROM ({}) o
                 WHERE (SELECT count(*) FROM audit.entries e WHERE e.id = o.event_id) <> 1",
                of_outboxes("SELECT subject, event_id", "stream = 'AUDIT'", SERVICES)
            )))
            .fetch_all(&mut database)
            .await
            .expect("the log can be read");
            if lost.is_empty() {
                break;
            }
            let within = wait::WAIT_MAX;
            assert!(
                started.elapsed() < within,
                "records committed that are not in the log once in {within:?}: {lost:?}"
            );
            tokio::time::sleep(wait::POLL_INTERVAL).await;
        }
        let broken: Vec<i64> = sqlx::query_scalar(
            "SELECT sequence FROM (
                 SELECT sequence, previous_hash, row_number() OVER w AS place, lag(hash) OVER w AS hash_before
                 FROM audit.entries WINDOW w AS (ORDER BY sequence)) e
             WHERE sequence <> place OR previous_hash <> coalesce(hash_before, decode(repeat('00', 32), 'hex'))",
        )
        .fetch_all(&mut database)
        .await
        .expect("the log can be read");
        assert!(broken.is_empty(), "the log is dense from 1 and chained, but not at {broken:?}");
    }

    /// Where the broker keeps what it stores; for a test with servers of its own.
    pub fn stream_store(&self) -> PathBuf {
        let store = self.folder().parent().expect("a folder in the servers'").join("nats/jetstream");
        assert!(store.exists(), "{}", store.display());
        store
    }

    /// Makes what is missing of the declared streams and consumers, as `trunkline nats apply` does, once the broker is up.
    pub async fn make_streams(&self) {
        let user = self.user(subjects::broker::PROVISION);
        let file = self.folder().join("provision.nk");
        std::fs::write(&file, &user.seed).expect("it can be written");
        wait::until("the streams are made", async || {
            let client = client::connect(&user.url, &file, &user.name).await.ok()?;
            Declaration::committed().with_bytes_max(STREAM_BYTES_MAX).apply(&client).await.ok()
        })
        .await;
    }

    /// Where downloaded programs and packages are kept between runs.
    pub fn cache(&self) -> PathBuf {
        cache()
    }

    /// Where this platform keeps its files: logs, secrets, `admin.json`.
    pub fn folder(&self) -> &Path {
        &self.deployment.options().folder
    }
}

/// How many messages wait in the outboxes of these services.
async fn unsent(database: &mut PgConnection, services: &[&str]) -> i64 {
    let rows = of_outboxes("SELECT 1", "acked_at IS NULL", services);
    let count = sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM ({rows}) unsent")));
    count.fetch_one(database).await.expect("every service has an outbox")
}

fn of_outboxes(select: &str, condition: &str, services: &[&str]) -> String {
    let of = |service: &&str| format!("{select} FROM {service}.outbox WHERE {condition}");
    services.iter().map(of).collect::<Vec<_>>().join(" UNION ALL ")
}

impl Drop for Platform {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let logs = self.logs();
            let panic = logs.lines().find(|line| line.contains("panicked at"));
            assert_eq!(panic, None, "a process panicked");
        }
    }
}
