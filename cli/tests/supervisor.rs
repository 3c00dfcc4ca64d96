//! What the supervisor promises of every process, shown with shell scripts in the place of services.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use trunkline::platform::Signal;
use trunkline::platform::process::{Readiness, Spec};
use trunkline::platform::supervisor::{Process, State, Supervisor};

const WITHIN: Duration = Duration::from_mins(1);

/// Writes its status file as the kernel does, and waits for SIGTERM, which may come as soon as the file is there.
const SERVES: &str = r#"trap 'exit 0' TERM; echo "{\"pid\":$$,\"adminUrl\":\"http://127.0.0.1:1\"}" > "$STATUS"; while :; do sleep 0.05; done"#;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("trunkline-supervisor-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary folder can be made");
        Self(path)
    }

    fn spec(&self, script: &str) -> Spec {
        let status = self.0.join("status.json");
        Spec {
            name: "script".into(),
            instance: 1,
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: BTreeMap::from([("STATUS".into(), status.clone().into())]),
            sockets: Vec::new(),
            user: None,
            log: self.0.join("script-1.log"),
            run_folder: self.0.clone(),
            readiness: Readiness::StatusFile(status),
            stop_signal: Signal::TERM,
            stop_within: Duration::from_millis(500),
            first_starts_max: 2,
            restart: true,
            url: None,
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn state_where(process: &Process, what: impl Fn(&State) -> bool) -> State {
    let mut changes = process.changes();
    let waiting = changes.wait_for(|state| what(state));
    tokio::time::timeout(WITHIN, waiting).await.expect("in time").expect("its supervisor is there").clone()
}

fn exists(pid: u32) -> bool {
    std::process::Command::new("kill")
        .args(["-0", &pid.to_string()])
        .stderr(std::process::Stdio::null())
        .status()
        .expect("kill is part of every system")
        .success()
}

#[tokio::test]
async fn what_is_killed_starts_again_and_what_is_stopped_stays_down() {
    let folder = Folder::new("restart");
    let supervisor = Supervisor::start(None).unwrap();
    let process = supervisor.spawn(folder.spec(SERVES));
    let first = process.ready(WITHIN).await.unwrap();
    assert_eq!(first.status.admin_url.as_deref(), Some("http://127.0.0.1:1"));

    process.signal(Signal::KILL).await.unwrap();
    let second = state_where(&process, |state| state.ready && state.starts == 2).await;
    assert_ne!(first.pid, second.pid);

    process.stop().await.unwrap();
    let stopped = process.state();
    assert!(stopped.ended && stopped.pid.is_none() && stopped.starts == 2, "{stopped:?}");

    process.start().await.unwrap();
    assert_eq!(process.ready(WITHIN).await.unwrap().starts, 3);
}

#[tokio::test]
async fn what_never_becomes_ready_is_given_up_with_the_end_of_its_log() {
    let folder = Folder::new("failure");
    let supervisor = Supervisor::start(None).unwrap();

    let process = supervisor.spawn(folder.spec("echo 'the port is in use'; exit 3"));
    let error = process.ready(WITHIN).await.unwrap_err().to_string();

    assert!(error.contains("the port is in use") && error.contains('3'), "{error}");
    assert_eq!(process.state().starts, 2);
}

#[tokio::test]
async fn what_has_wrong_settings_is_not_started_again() {
    let folder = Folder::new("settings");
    let supervisor = Supervisor::start(None).unwrap();

    let process = supervisor.spawn(folder.spec("echo 'settings: port is not a number'; exit 78"));
    let error = process.ready(WITHIN).await.unwrap_err().to_string();

    assert!(error.contains("settings: port is not a number") && error.contains("78"), "{error}");
    assert_eq!(process.state().starts, 1);
}

#[tokio::test]
async fn what_does_not_end_in_time_is_killed() {
    let folder = Folder::new("hang");
    let supervisor = Supervisor::start(None).unwrap();
    let hangs = SERVES.replace("exit 0", ":");
    let process = supervisor.spawn(folder.spec(&hangs));
    let pid = process.ready(WITHIN).await.unwrap().pid.unwrap();

    let started = Instant::now();
    process.stop().await.unwrap();

    assert!(started.elapsed() >= Duration::from_millis(500) && started.elapsed() < WITHIN);
    assert!(!exists(pid));
}

#[tokio::test]
async fn a_dropped_supervisor_leaves_nothing_behind() {
    let folder = Folder::new("drop");
    let supervisor = Supervisor::start(None).unwrap();
    let process = supervisor.spawn(folder.spec(SERVES));
    let pid = process.ready(WITHIN).await.unwrap().pid.unwrap();

    drop(supervisor);

    // It has ended; that it was reaped, too, is for this process or its parent to do.
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "{state}");
}

#[tokio::test]
async fn sockets_are_handed_down_under_their_names() {
    let folder = Folder::new("sockets");
    let supervisor = Supervisor::start(None).unwrap();
    let sockets =
        ["admin", "public"].map(|name| (name.to_owned(), Arc::new(TcpListener::bind("127.0.0.1:0").unwrap())));
    // A descriptor of /proc names the socket's inode, which is the same in every process that has it.
    let script = format!(
        "echo \"$LISTEN_FDS $LISTEN_FDNAMES ${{LISTEN_PID-none}}\"; readlink /proc/$$/fd/3 /proc/$$/fd/4; {SERVES}"
    );
    let spec = Spec { sockets: sockets.to_vec(), ..folder.spec(&script) };

    let process = supervisor.spawn(spec);
    process.ready(WITHIN).await.unwrap();

    let log = std::fs::read_to_string(&process.spec().log).unwrap();
    let lines: Vec<&str> = log.lines().collect();
    let [heading, admin, public] = lines[..] else { panic!("{log}") };
    assert_eq!(heading, "2 admin:public none");
    for (line, (_, socket)) in [admin, public].iter().zip(&sockets) {
        use std::os::fd::AsRawFd as _;
        let ours = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        assert_eq!(*line, ours.to_str().unwrap());
    }
}
