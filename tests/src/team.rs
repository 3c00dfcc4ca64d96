//! Services of another team beside the platform's own: small ones, in the test's process, made of the kernel's parts, with
//! users of the broker whose rights follow from their contracts, durable consumers, and schemas of their own. Needs servers of
//! one's own, since it changes the broker's users.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use kernel::data::consumer::{ConsumerParts, Consumers};
use kernel::data::measures::{ConsumerMeasures, RelayMeasures};
use kernel::data::provision::{Provision, ServiceRoles, prepare};
use kernel::data::relay::Relay;
use kernel::settings::Secret;
use kernel::{Clock, Context, Database, Lifecycle, Random, settings};
use nkeys::KeyPair;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use subjects::broker::Permissions;
use subjects::{ServiceContract, broker};

use crate::{Platform, Signal, wait};

/// Longer than what runs in a service may take to end.
const STOP_MAX: Duration = Duration::from_secs(20);

/// Patience with messages that fail: little, so that tests see the end of it.
pub const IMPATIENT: settings::Consumers =
    settings::Consumers { attempts_max: 4, redelivery_delay_min_ms: 20, redelivery_delay_max_ms: 200 };

/// A running service of a team. Dropped without [`Member::stop`], it goes on to the end of the test's runtime.
pub struct Member<S> {
    /// The service itself.
    pub service: Arc<S>,
    /// Its schema.
    pub database: Database,
    name: &'static str,
    life: Lifecycle,
    infrastructure: Lifecycle,
}

impl Platform {
    /// Makes users, consumers and schemas for services with these contracts. Each schema has a table `effects` with a
    /// `name`, which is the key.
    pub async fn admit(&self, contracts: &[&'static ServiceContract]) {
        self.admit_users(contracts).await;
        self.make_consumers(contracts).await;
        self.make_schemas(contracts).await;
    }

    async fn admit_users(&self, contracts: &[&'static ServiceContract]) {
        let rights: Vec<_> = contracts.iter().map(|contract| (contract.name, broker::of(contract))).collect();
        self.admit_with(&rights).await;
    }

    /// Makes users of the broker with these rights.
    pub async fn admit_with(&self, rights: &[(&str, Permissions)]) {
        let account = &self.deployment.options().account;
        let mut users = String::new();
        for (name, rights) in rights {
            let pair = KeyPair::new_user();
            std::fs::write(account.key_file(name), pair.seed().expect("new")).expect("the folder is there");
            let list = |subjects| serde_json::to_string(subjects).expect("a list can be written");
            let rights = format!(
                "publish: {{ allow: {} }}, subscribe: {{ allow: {} }}",
                list(&rights.publish),
                list(&rights.subscribe)
            );
            let _infallible = writeln!(users, "{{ nkey: {}, permissions: {{ {rights} }} }}", pair.public_key());
        }
        let file = self.servers.data().join("nats/users.conf");
        let before = std::fs::read_to_string(&file).expect("rendered at the start");
        let list = format!("  {} {{\n    jetstream: enabled\n    users: [", account.name);
        assert!(before.contains(&list), "the account has users");
        std::fs::write(&file, before.replace(&list, &format!("{list}\n{users}"))).expect("it can be written");
        self.process("nats-server", 1).signal(Signal::HUP).await.expect("it runs");
        for (name, _) in rights {
            wait::until(&format!("the broker knows {name}"), async || {
                let user = self.user(name);
                let round_trip = async { user.connect().await.client.flush().await.ok() };
                tokio::time::timeout(Duration::from_secs(2), round_trip).await.ok()?
            })
            .await;
        }
    }

    /// Makes the durable consumers that contracts declare, again after the streams were lost.
    pub async fn make_consumers(&self, contracts: &[&'static ServiceContract]) {
        let provision = self.user(broker::PROVISION).connect().await.client;
        for (contract, consumer) in contracts.iter().flat_map(|c| c.consumers.iter().map(move |consumer| (c, consumer)))
        {
            let (stream, durable) = (consumer.stream, consumer.durable);
            let config = json!({
                "durable_name": durable, "description": contract.description, "deliver_policy": "all",
                "ack_policy": "explicit", "ack_wait": 5_000_000_000_u64, "max_deliver": -1, "max_ack_pending": 10_000,
                "filter_subjects": consumer.filters, "replay_policy": "instant",
            });
            let request = json!({ "stream_name": stream, "config": config });
            let subject = format!("$JS.API.CONSUMER.CREATE.{stream}.{durable}");
            wait::until(&format!("consumer {durable}"), async || {
                let answer = provision.request(subject.clone(), request.to_string().into()).await.ok()?;
                let answer: Value = serde_json::from_slice(&answer.payload).expect("the server answers JSON");
                answer["error"].is_null().then_some(())
            })
            .await;
        }
    }

    async fn make_schemas(&self, contracts: &[&'static ServiceContract]) {
        let options = self.deployment.options();
        let roles = |contract: &&'static ServiceContract| ServiceRoles {
            service: contract.name.to_owned(),
            owner_password: Secret::new(format!("password of {}_owner", contract.name)),
            password: Secret::new(format!("password of {}", contract.name)),
        };
        let provision = Provision {
            database: options.database.clone(),
            server_is_ours: false,
            connections_max: -1,
            services: contracts.iter().map(roles).collect(),
        };
        prepare(&options.databases.superuser_url("postgres"), &provision).await.expect("schemas can be made");
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernel/migrations");
        let mut files: Vec<_> =
            std::fs::read_dir(folder).expect("the kernel's").map(|file| file.expect("read").path()).collect();
        files.sort();
        for contract in contracts {
            let service = contract.name;
            let mut owner = self.superuser().await;
            let role = format!("SET ROLE {service}_owner; SET search_path = {service}");
            sqlx::raw_sql(AssertSqlSafe(role)).execute(&mut owner).await.expect("prepared before");
            for file in &files {
                let sql = std::fs::read_to_string(file).expect("the kernel's").replace(":\"service\"", service);
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut owner).await.expect("it applies");
            }
            let effects = "CREATE TABLE effects (name text PRIMARY KEY)";
            sqlx::raw_sql(effects).execute(&mut owner).await.expect("it applies");
            owner.close().await.expect("it ends");
        }
    }

    /// Starts a service that was admitted; `consumers` registers its handlers.
    pub async fn start_member<S: Send + Sync + 'static>(
        &self,
        contract: &'static ServiceContract,
        service: S,
        consumers: impl FnOnce(&mut Consumers<S>),
    ) -> Member<S> {
        let (life, infrastructure) = (Lifecycle::new(), Lifecycle::new());
        let database = self.member_database(contract.name).await;
        let client = self.user(contract.name).connect().await.client;
        let relay = relay(&database, &client);
        infrastructure.spawn("relay", relay.run(infrastructure.stop_token()));
        let parts = ConsumerParts {
            database: database.clone(),
            client,
            clock: Clock::system(),
            random: Random::system(),
            settings: IMPATIENT,
            measures: ConsumerMeasures::default(),
        };
        let mut registered = Consumers::new(contract);
        consumers(&mut registered);
        let service = Arc::new(service);
        registered.start(&service, &parts, &life).expect("the contract declares its consumers");
        Member { service, database, name: contract.name, life, infrastructure }
    }

    async fn member_database(&self, service: &'static str) -> Database {
        let options = self.deployment.options();
        let url = options.databases.superuser_url(&options.database).expose().to_owned();
        let (_, host) = url.rsplit_once('@').expect("a URL with a user");
        let url = format!("postgres://{service}:password%20of%20{service}@{host}");
        let settings = settings::Database { acquire_timeout_ms: 10_000, ..settings::Database::default() };
        Database::connect(&Secret::new(url), service, "1", &settings).await.expect("its role signs in")
    }

    /// What a consumer has not acknowledged yet, delivered or not.
    pub async fn outstanding(&self, stream: &str, durable: &str) -> u64 {
        let ops = self.user("ops").connect().await.client;
        wait::until("the consumer's state", async || {
            let answer = ops.request(format!("$JS.API.CONSUMER.INFO.{stream}.{durable}"), "".into()).await.ok()?;
            let info: Value = serde_json::from_slice(&answer.payload).expect("the server answers JSON");
            Some(info["num_pending"].as_u64()? + info["num_ack_pending"].as_u64()?)
        })
        .await
    }
}

impl<S> Member<S> {
    /// For what the service does by itself.
    pub fn context(&self) -> Context {
        Context::for_service(self.name, &Clock::system(), &Random::system(), Duration::from_secs(10))
    }

    /// The names in its table of effects, sorted.
    pub async fn effects(&self) -> Vec<String> {
        let names = sqlx::query_scalar("SELECT name FROM effects ORDER BY name");
        names.fetch_all(self.database.pool()).await.expect("made when it was admitted")
    }

    /// Waits until it has had so many effects, and gives them.
    pub async fn has_effects(&self, count: usize) -> Vec<String> {
        wait::until(&format!("{count} effects in {}", self.name), async || {
            let effects = self.effects().await;
            (effects.len() >= count).then_some(effects)
        })
        .await
    }

    /// Stops it in good order.
    pub async fn stop(self) {
        self.life.stop();
        assert!(self.life.join(STOP_MAX).await, "{} stops in time", self.name);
        assert_eq!(self.life.failure(), None);
        self.infrastructure.stop();
        assert!(self.infrastructure.join(STOP_MAX).await, "its relay stops in time");
        self.database.close().await;
    }
}

fn relay(database: &Database, client: &Client) -> Relay {
    Relay::new(database.clone(), client.clone(), Random::system(), RelayMeasures::default())
}

/// Notes an effect, which must not have been had before.
pub async fn note_effect(connection: &mut PgConnection, name: &str) -> kernel::Result<()> {
    sqlx::query("INSERT INTO effects (name) VALUES ($1)").bind(name).execute(connection).await?;
    Ok(())
}
