//! Real servers for the kernel's tests: PostgreSQL and nats-server, started on ports the system gives, in a folder of
//! their own, and killed with the process that started them.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod nats;
pub mod postgres;

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use trunkline::platform::process::User;
use trunkline::platform::terminal::Terminal;
use trunkline::platform::{binaries, folders, ports};

/// A port that is free and that no other test of this process was given. Not one that the system picks: connections that go
/// out would get it while its server is down.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = ports::any().expect("a port is free");
        if GIVEN.lock().expect("nothing fails while it is held").insert(port) {
            return port;
        }
    }
}

/// A folder of this process, empty at first. Those of processes that have ended are removed.
///
/// Whoever needs servers also gets the log lines of what is tested, shown with a test that fails.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let lines = tracing_subscriber::fmt().with_test_writer().with_env_filter("info,kernel=debug");
        lines.init();
        let parent = std::env::temp_dir();
        let prefix = "trunkline-kernel-";
        for entry in fs::read_dir(&parent).expect("the temporary folder can be read").flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let pid = name.strip_prefix(prefix).and_then(|pid| pid.parse::<u32>().ok());
            if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let folder = parent.join(format!("{prefix}{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder can be made");
        folder
    })
}

/// The servers' programs, found or fetched as `up` does it.
pub struct Programs {
    /// nats-server.
    pub nats_server: PathBuf,
    /// The folder with `initdb` and `postgres`.
    pub postgres: PathBuf,
    /// Who runs PostgreSQL, which refuses to be run by root.
    pub postgres_user: Option<User>,
}

/// Finds them once.
pub fn programs() -> &'static Programs {
    static PROGRAMS: OnceLock<Programs> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        // Asked for in the middle of a runtime, which cannot wait for another of its own.
        #[expect(clippy::disallowed_methods, reason = "has a runtime of its own and is waited for")]
        let finder = std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(find_programs())
        });
        finder.join().expect("the finder ends").expect("the programs are found or fetched")
    })
}

async fn find_programs() -> anyhow::Result<Programs> {
    let cache = std::env::var_os("TRUNKLINE_CACHE").map_or_else(folders::default_cache, |folder| Ok(folder.into()))?;
    let cache = folders::prepare_cache(&cache)?;
    let postgres_user = trunkline::platform::postgres::user()?;
    let nats_server = binaries::nats_server(&cache, Terminal::Stderr).await?.program;
    let postgres = binaries::postgres(&cache, None, postgres_user, Terminal::Stderr).await?.folder;
    Ok(Programs { nats_server, postgres, postgres_user })
}

/// Starts a process that is killed when this one ends, however it ends.
pub fn spawn(program: &Path, arguments: Vec<String>, user: Option<User>) -> Child {
    // The signal comes when the thread that forked ends, so that thread must live as long as the process.
    type Order = (Command, mpsc::Sender<std::io::Result<Child>>);
    static PARENT: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let parent = PARENT.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        #[expect(clippy::disallowed_methods, reason = "outlives every runtime of the tests")]
        std::thread::spawn(move || {
            for (mut command, answer) in orders {
                let _ = answer.send(command.spawn());
            }
        });
        sender
    });
    let mut wrapped = Command::new("setpriv");
    wrapped.args(["--pdeathsig", "KILL"]);
    if let Some(user) = user {
        wrapped.args([format!("--reuid={}", user.uid), format!("--regid={}", user.gid), "--clear-groups".to_owned()]);
    }
    wrapped.arg(program).args(arguments);
    let (answer, child) = mpsc::channel();
    parent.send((wrapped, answer)).expect("the parent thread lives");
    child.recv().expect("the parent thread answers").expect("the command can be started")
}

/// Starts a server and waits until its port takes connections. One that ends before that is started again: what it left when it
/// was killed may take a moment to go, such as the shared memory of PostgreSQL's other processes.
pub fn start_server(port: u16, program: &Path, arguments: &[String], user: Option<User>) -> Child {
    let deadline = Instant::now() + Duration::from_mins(1);
    let mut process = spawn(program, arguments.to_vec(), user);
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        assert!(Instant::now() < deadline, "nothing listens on port {port}");
        #[expect(clippy::disallowed_methods, reason = "a server that starts gives no other sign")]
        std::thread::sleep(Duration::from_millis(10));
        if process.try_wait().expect("it can be looked at").is_some() {
            process = spawn(program, arguments.to_vec(), user);
        }
    }
    process
}
