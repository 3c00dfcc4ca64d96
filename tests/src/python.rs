//! Clients in Python, which know NATS and JSON and nothing of ours. Their packages are pinned by hash and kept in the
//! cache between runs. Deliberately no virtual environment: `--target` needs neither `venv` nor a writable system.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::process::{Child, Command};
use tokio::sync::OnceCell;

use crate::{broker::User, servers::cache};

/// The packages, with versions and hashes.
const REQUIREMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python/requirements.txt");

/// The longest a client may run.
pub(crate) const CLIENT_MAX: Duration = Duration::from_mins(4);

/// The longest a computation may take, on a machine that is busy with others.
const COMPUTATION_MAX: Duration = Duration::from_mins(15);

static PACKAGES: OnceCell<PathBuf> = OnceCell::const_new();

/// Runs `tests/python/<script>`, or a script at a path that begins with `/`, as a user of the broker, with more arguments;
/// gives what it prints. Fails the test when the script fails.
pub async fn run(cache: &Path, user: &User, script: &str, arguments: &[&str]) -> String {
    ended(&mut client(cache, user, script, arguments).await, script, CLIENT_MAX).await
}

/// Starts such a script, which runs until it is killed, at the latest when it is dropped.
pub async fn start(cache: &Path, user: &User, script: &str, arguments: &[&str]) -> Child {
    let mut command = client(cache, user, script, arguments).await;
    command.kill_on_drop(true).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("python3 is there")
}

/// Runs `tests/python/<script>`, which needs no platform, with arguments; gives what it prints. Fails the test when the script
/// fails.
pub async fn compute(script: &str, arguments: &[&str]) -> String {
    ended(&mut command(&cache(), script, arguments).await, script, COMPUTATION_MAX).await
}

/// Fails the test where files of Go could not be parsed.
pub async fn parse_go(cache: &Path, files: &[&str]) {
    ended(&mut command(cache, "parse_go.py", files).await, "parse_go.py", CLIENT_MAX).await;
}

async fn client(cache: &Path, user: &User, script: &str, arguments: &[&str]) -> Command {
    let mut command = command(cache, script, arguments).await;
    command.env("NATS_SEED", user.seed.trim()).env("NATS_INBOX_PREFIX", format!("_INBOX.{}", user.name));
    user.hand_to(&mut command);
    command
}

async fn command(cache: &Path, script: &str, arguments: &[&str]) -> Command {
    let packages = PACKAGES.get_or_init(|| install(cache)).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(script);
    let mut command = Command::new("python3");
    command.arg(&script).args(arguments).env("PYTHONPATH", packages).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// What a program printed that ended well and in time.
pub(crate) async fn ended(command: &mut Command, script: &str, max: Duration) -> String {
    let output = tokio::time::timeout(max, command.kill_on_drop(true).output()).await;
    let output = output.unwrap_or_else(|_| panic!("{script} ends in time")).expect("its interpreter is there");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script} failed:\n{text}\n{errors}");
    text.into_owned()
}

/// Installs the packages into a folder of the cache named after what they are for, unless they are there.
async fn install(cache: &Path) -> PathBuf {
    let requirements = std::fs::read(REQUIREMENTS).expect("the requirements are in the repository");
    let version = Command::new("python3").arg("--version").output().await.expect("python3 is there");
    let tag = fingerprint(&[&requirements, &version.stdout]);
    let folder = cache.join(format!("python-{tag}"));
    if folder.exists() {
        return folder;
    }
    // Installed beside and moved into place, so that an interrupted installation is not taken for a whole one.
    let unfinished = cache.join(format!("python-{tag}.{}", std::process::id()));
    let status = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore"])
        .args(["--require-hashes", "--requirement", REQUIREMENTS, "--target"])
        .arg(&unfinished)
        .status()
        .await
        .expect("python3 is there");
    assert!(status.success(), "pip could not install the Python clients' packages");
    if std::fs::rename(&unfinished, &folder).is_err() {
        assert!(folder.exists(), "the cache at {} can be written", cache.display());
        let _left_for_a_person = std::fs::remove_dir_all(&unfinished); // Another process was faster.
    }
    folder
}

/// FNV-1a: tells versions of a file apart, nothing more.
pub(crate) fn fingerprint(parts: &[&[u8]]) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.iter().flat_map(|part| part.iter()) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{hash:016x}")
}
