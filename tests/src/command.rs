//! The built `trunkline` command, run as a person runs it.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::FutureExt;
use trunkline::platform::{
    Signal,
    admin::{Admin, AdminFile},
    folders, ports,
    process::{Readiness, Spec},
    supervisor::{Process, Supervisor},
};

use crate::{broker::User, build, servers::temporary_folder};

/// The longest a first start may take; servers may have to be fetched on a fresh machine.
const READY_WITHIN: Duration = Duration::from_mins(3);

/// The longest a stop may take before it counts as hanging.
const STOP_WITHIN: Duration = Duration::from_mins(1);

/// The longest any other command may take.
const COMMAND_MAX: Duration = Duration::from_secs(90);

/// A running `trunkline up`. It ends with this value, and with the test process at the latest.
pub struct Up {
    process: Process,
    folder: PathBuf,
    port_base: u16,
    // Ends the process when dropped, after everything above.
    _supervisor: Supervisor,
}

impl Up {
    /// Runs `trunkline up --data <folder>/data --port-base … --ready-file …` with more arguments in a new temporary
    /// folder, and waits until it is ready.
    pub async fn start(arguments: &[&str]) -> Up {
        let up = Up::spawn(arguments).await;
        up.ready().await;
        up
    }

    /// Runs the same again after [`Up::stop`].
    pub async fn start_again(&self) {
        let _absent_is_fine = std::fs::remove_file(self.ready_file());
        self.process.start().await.expect("the supervisor is there");
        self.ready().await;
    }

    async fn ready(&self) {
        if let Err(error) = self.process.ready(READY_WITHIN).await {
            panic!("`up` does not get ready: {error:#}");
        }
    }

    /// Runs `up` with arguments that it must refuse; gives its exit and what it printed.
    pub async fn refused(arguments: &[&str]) -> (String, String) {
        let up = Up::spawn(arguments).await;
        let ended = crate::wait::within(COMMAND_MAX, "`up` ends", async || {
            let state = up.process.state();
            state.ended.then(|| state.last_exit.unwrap_or_default())
        });
        (ended.await, up.output())
    }

    async fn spawn(arguments: &[&str]) -> Up {
        let program = build::command().await;
        let folder = folders::prepare(&temporary_folder("up")).expect("a temporary folder can be made");
        let port_base = port_base();
        let supervisor = Supervisor::start(Some(&folder)).expect("a temporary folder can be written");
        let ready_file = folder.join("ready");
        let mut args: Vec<OsString> = vec!["up".into(), "--data".into(), folder.join("data").into()];
        args.extend(["--port-base".into(), port_base.to_string().into()]);
        args.extend(["--ready-file".into(), ready_file.clone().into()]);
        args.extend(arguments.iter().map(Into::into));
        let spec = Spec {
            name: "up".into(),
            instance: 1,
            program,
            args,
            env: BTreeMap::default(),
            sockets: Vec::new(),
            user: None,
            log: folder.join("up.log"),
            run_folder: folder.join("run"),
            readiness: Readiness::Probe(Arc::new(move || {
                let ready_file = ready_file.clone();
                async move { ready_file.exists() }.boxed()
            })),
            stop_signal: Signal::TERM,
            stop_within: STOP_WITHIN,
            first_starts_max: 1,
            restart: false,
            url: None,
        };
        let process = supervisor.spawn(spec);
        Up { process, folder, port_base, _supervisor: supervisor }
    }

    /// What `--data` said.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn ready_file(&self) -> PathBuf {
        self.folder.join("ready")
    }

    /// What `--port-base` said.
    pub fn port_base(&self) -> u16 {
        self.port_base
    }

    /// What this start has printed so far.
    pub fn output(&self) -> String {
        let bytes = std::fs::read(self.folder.join("up.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Runs another command against the same data folder and gives what it prints; fails the test when it fails.
    pub async fn command(&self, arguments: &[&str]) -> String {
        let (success, text, errors) = self.run(arguments).await;
        assert!(success, "trunkline {arguments:?} failed:\n{text}\n{errors}");
        text
    }

    /// Runs a command that must fail, and gives what it prints and what it complains of.
    pub async fn failing(&self, arguments: &[&str]) -> (String, String) {
        let (success, text, errors) = self.run(arguments).await;
        assert!(!success, "trunkline {arguments:?} did not fail:\n{text}\n{errors}");
        (text, errors)
    }

    /// Runs a command whose reader is gone before the first line (`| true`); gives whether it counts that as a success, and what
    /// it complains of.
    pub async fn without_reader(&self, arguments: &[&str]) -> (bool, String) {
        let mut child = tokio::process::Command::new(build::command().await)
            .args(arguments)
            .arg("--data")
            .arg(self.data())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the command runs");
        drop(child.stdout.take());
        let output =
            tokio::time::timeout(COMMAND_MAX, child.wait_with_output()).await.expect("in time").expect("it ends");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    async fn run(&self, arguments: &[&str]) -> (bool, String, String) {
        let output = tokio::process::Command::new(build::command().await)
            .args(arguments)
            .arg("--data")
            .arg(self.data())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(COMMAND_MAX, output).await.expect("in time").expect("the command runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    }

    /// What `admin.json` says.
    pub fn admin(&self) -> Admin {
        AdminFile::in_folder(&self.data()).read().expect("written at the start")
    }

    /// A broker user of this platform.
    pub fn user(&self, name: &str) -> User {
        let key_file = self.data().join("nkeys").join(format!("{name}.nk"));
        let seed = std::fs::read_to_string(&key_file).expect("rendered");
        let url = self.admin().nats_url.expect("it has a broker");
        User { name: name.to_owned(), seed: seed.trim().to_owned(), key_file, url }
    }

    /// Sends SIGTERM, waits for the end, which must be a success, and gives what it printed.
    pub async fn stop(&self) -> String {
        self.process.stop().await.expect("it ends");
        let exit = self.process.state().last_exit.unwrap_or_default();
        assert_eq!(exit, "exit status: 0", "`up` ends in good order:\n{}", self.output());
        let output = self.output();
        // What it printed on this start is not to be taken for the next one's.
        let _absent_is_fine = std::fs::remove_file(self.folder.join("up.log"));
        output
    }
}

/// Four free ports in a row, from a range where no other test takes any: `up` comes to bind them seconds later.
fn port_base() -> u16 {
    const RANGE: std::ops::Range<u32> = 10_000..12_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Where one process begins matters only when several test at once.
    let begin = std::process::id().wrapping_mul(97);
    std::iter::repeat_with(|| {
        begin.wrapping_add(NEXT.fetch_add(1, Relaxed)) % (RANGE.len() as u32 / 4) * 4 + RANGE.start
    })
    .map(|base| u16::try_from(base).expect("a port"))
    .take(100)
    .find(|base| (*base..*base + 4).all(ports::is_free))
    .expect("four free ports in a row")
}
