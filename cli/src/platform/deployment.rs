//! The services and gateways of one platform on running servers: an account, a database, and a process for each instance.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::future::try_join_all;
use rustix::process::Signal;

use super::admin::AdminFile;
use super::database::Databases;
use super::nats::users::Account;
use super::ports::{self, Port};
use super::process::{Readiness, Spec};
use super::programs::Programs;
use super::secrets;
use super::supervisor::{Process, Supervisor};

/// How long a service may take from its start to being ready, on a busy machine.
const READY_WITHIN: Duration = Duration::from_mins(1);
/// The kernel drains for 10 s by default; beyond that it hangs.
const STOP_WITHIN: Duration = Duration::from_secs(15);
/// Starts that may fail before a process that was never ready is given up: its server may be late, a wrong setting stays wrong.
const FIRST_STARTS_MAX: u32 = 3;
/// Services with a key of their own in a file.
const KEY_HOLDERS: [&str; 2] = ["audit", "auth"];
/// Where mail goes unless a server is set.
pub const MAIL: &str = "mail";
/// Instances of one name.
const INSTANCES_MAX: usize = 64;

/// What runs and where.
#[derive(Clone)]
pub struct Options {
    /// Logs, status files, `admin.json` and the key files of this platform lie here.
    pub folder: PathBuf,
    /// The executables.
    pub programs: Programs,
    /// Where NATS is.
    pub nats_url: String,
    /// The platform's account there.
    pub account: Account,
    /// The server with the platform's database.
    pub databases: Databases,
    /// The platform's database, migrated.
    pub database: String,
    /// How many instances of what, in the order in which they are listed; what is not named does not run.
    pub instances: Vec<(String, usize)>,
    /// Environment of every process, on top of what the platform sets itself.
    pub env: BTreeMap<String, String>,
    /// Environment of single services, on top of `env`.
    pub service_env: BTreeMap<String, BTreeMap<String, String>>,
    /// Where the gateways' shared public socket listens, on 127.0.0.1.
    pub gateway_port: Port,
    /// Whether what ends unasked is started again.
    pub restart: bool,
}

/// Running services. Dropping this ends them, within five seconds.
pub struct Deployment {
    options: Options,
    public: Option<Arc<TcpListener>>,
    processes: Vec<Process>,
    supervisor: Supervisor,
    first_start: bool,
}

impl Deployment {
    /// Starts every instance and returns at once; see [`Deployment::ready`].
    ///
    /// # Errors
    /// When a folder cannot be written or the gateway's port cannot be had.
    pub fn start(options: Options) -> Result<Self> {
        for folder in ["logs", "run", "secrets"] {
            secrets::private_folder(&options.folder.join(folder))?;
        }
        let supervisor = Supervisor::start(None)?;
        let (_, first_start) = AdminFile::in_folder(&options.folder).read_or_create()?;
        for service in KEY_HOLDERS {
            secrets::keep(&key_file(&options.folder, service), secrets::key)?;
        }
        let mut deployment = Self { public: None, processes: Vec::new(), supervisor, first_start, options };
        for (name, count) in deployment.options.instances.clone() {
            for _ in 0..count {
                deployment.add(&name)?;
            }
        }
        Ok(deployment)
    }

    /// Starts one more instance of a service or the gateway.
    ///
    /// # Errors
    /// When there are too many or no socket can be had for it.
    pub fn add(&mut self, name: &str) -> Result<Process> {
        let instance = self.processes.iter().filter(|process| process.spec().name == name).count() + 1;
        if instance > INSTANCES_MAX {
            bail!("{name} cannot have more than {INSTANCES_MAX} instances");
        }
        let spec = self.spec(name, instance)?;
        let process = self.supervisor.spawn(spec);
        self.processes.push(process.clone());
        Ok(process)
    }

    /// Waits until every process is ready.
    ///
    /// # Errors
    /// When one ends or does not become ready, with the end of its log.
    pub async fn ready(&self) -> Result<()> {
        try_join_all(self.processes.iter().map(|process| process.ready(READY_WITHIN))).await.map(|_| ())
    }

    /// Stops everything in good order: the gateways first, so that nobody is let in any more, then the services.
    ///
    /// # Errors
    /// When a process can be neither stopped nor killed.
    pub async fn stop(&self) -> Result<()> {
        let (gateways, services): (Vec<_>, Vec<_>) =
            self.processes.iter().partition(|process| is_gateway(&process.spec().name));
        try_join_all(gateways.iter().map(|process| process.stop())).await?;
        try_join_all(services.iter().map(|process| process.stop())).await.map(|_| ())
    }

    /// Every process, stopped ones too, in order of start.
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// One instance, counted from 1.
    ///
    /// # Errors
    /// When there is no such instance.
    pub fn process(&self, name: &str, instance: usize) -> Result<&Process> {
        self.processes
            .iter()
            .find(|process| process.spec().name == name && process.spec().instance == instance)
            .with_context(|| format!("there is no instance {instance} of {name}"))
    }

    /// What it was started with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The gateways' shared public address; `None` without a gateway.
    pub fn gateway_url(&self) -> Option<String> {
        self.public.as_ref().and_then(|socket| socket.local_addr().ok()).map(|address| format!("http://{address}"))
    }

    /// Whether this folder had no platform before.
    pub fn is_first_start(&self) -> bool {
        self.first_start
    }

    /// The supervisor of the processes.
    pub fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    fn spec(&mut self, name: &str, instance: usize) -> Result<Spec> {
        let run = self.options.folder.join("run");
        let status = run.join(format!("{name}-{instance}.json"));
        let mut sockets = vec![("admin".to_owned(), any_socket()?)];
        if is_gateway(name) {
            sockets.push(("own".to_owned(), any_socket()?));
            sockets.push(("public".to_owned(), self.public()?));
        }
        Ok(Spec {
            name: name.to_owned(),
            instance,
            program: self.options.programs.path(name),
            args: Vec::new(),
            env: self.environment(name, instance, &status)?,
            sockets,
            user: None,
            log: self.options.folder.join(format!("logs/{name}-{instance}.log")),
            run_folder: run,
            readiness: Readiness::StatusFile(status),
            stop_signal: Signal::TERM,
            stop_within: STOP_WITHIN,
            first_starts_max: FIRST_STARTS_MAX,
            restart: self.options.restart,
            url: None,
        })
    }

    fn environment(&self, name: &str, instance: usize, status: &Path) -> Result<BTreeMap<String, OsString>> {
        let options = &self.options;
        let mut env: BTreeMap<String, OsString> = BTreeMap::new();
        let mut set = |name: &str, value: OsString| env.insert(name.to_owned(), value);
        set("TRUNKLINE_NATS_URL", options.nats_url.clone().into());
        set("TRUNKLINE_NKEY_FILE", options.account.key_file(name).into());
        set("TRUNKLINE_INSTANCE", instance.to_string().into());
        set("TRUNKLINE_STATUS_FILE", status.into());
        if !is_gateway(name) {
            let url = options.databases.url(name, &options.database)?;
            set("TRUNKLINE_DATABASE_URL", url.expose().into());
        }
        if KEY_HOLDERS.contains(&name) {
            set("TRUNKLINE_KEY_FILE", key_file(&options.folder, name).into());
        }
        if name == "identity" {
            let file = AdminFile::in_folder(&options.folder);
            set("TRUNKLINE_IDENTITY__BOOTSTRAP_ADMIN_FILE", file.path().into());
            let mut mail = OsString::from("file://");
            mail.push(std::path::absolute(options.folder.join(MAIL))?);
            set("TRUNKLINE_IDENTITY__MAIL_URL", mail);
        }
        let own = options.service_env.get(name).into_iter().flatten();
        env.extend(options.env.iter().chain(own).map(|(name, value)| (name.clone(), value.into())));
        Ok(env)
    }

    /// The socket that all gateways share and that stays open while they restart.
    fn public(&mut self) -> Result<Arc<TcpListener>> {
        if let Some(socket) = &self.public {
            return Ok(Arc::clone(socket));
        }
        let reserved = self.options.gateway_port.reserve().context("the port of the gateway")?;
        let socket = Arc::new(reserved.into_socket());
        self.public = Some(Arc::clone(&socket));
        Ok(socket)
    }
}

fn is_gateway(name: &str) -> bool {
    name == subjects::GATEWAY.name
}

/// Encrypts what auth keeps, signs what audit keeps; lies outside the database on purpose.
fn key_file(folder: &Path, service: &str) -> PathBuf {
    folder.join(format!("secrets/{service}.key"))
}

fn any_socket() -> Result<Arc<TcpListener>> {
    Ok(Arc::new(ports::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?))
}
