//! Clients in Python, which know NATS and JSON and nothing of ours. Their packages are pinned by hash and kept in the
//! cache between runs. Deliberately no virtual environment: `--target` needs neither `venv` nor a writable system.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::sync::OnceCell;

use crate::{broker::User, servers::cache};

/// The packages, with versions and hashes.
const REQUIREMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python/requirements.txt");

/// The longest a client may run.
const CLIENT_MAX: Duration = Duration::from_mins(1);

/// The longest a computation may take, on a machine that is busy with others.
const COMPUTATION_MAX: Duration = Duration::from_mins(5);

static PACKAGES: OnceCell<PathBuf> = OnceCell::const_new();

/// Runs `tests/python/<script>` as a user of the broker, with more arguments; gives what it prints. Fails the test when
/// the script fails.
pub async fn run(cache: &Path, user: &User, script: &str, arguments: &[&str]) -> String {
    let env = [
        ("NATS_URL", user.url.clone()),
        ("NATS_SEED", user.seed.trim().to_owned()),
        ("NATS_INBOX_PREFIX", format!("_INBOX.{}", user.name)),
    ];
    execute(cache, script, arguments, env, CLIENT_MAX).await
}

/// Runs `tests/python/<script>`, which needs no platform, with arguments; gives what it prints. Fails the test when the script
/// fails.
pub async fn compute(script: &str, arguments: &[&str]) -> String {
    execute(&cache(), script, arguments, [], COMPUTATION_MAX).await
}

async fn execute<const N: usize>(
    cache: &Path,
    script: &str,
    arguments: &[&str],
    env: [(&'static str, String); N],
    max: Duration,
) -> String {
    let packages = PACKAGES.get_or_init(|| install(cache)).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(script);
    let mut command = tokio::process::Command::new("python3");
    command
        .arg(&script)
        .args(arguments)
        .env("PYTHONPATH", packages)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .envs(env)
        .kill_on_drop(true);
    let output = tokio::time::timeout(max, command.output()).await.expect("the script ends in time");
    let output = output.expect("python3 is there");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{} failed:\n{text}\n{errors}", script.display());
    text.into_owned()
}

/// Installs the packages into a folder of the cache named after what they are for, unless they are there.
async fn install(cache: &Path) -> PathBuf {
    let requirements = std::fs::read(REQUIREMENTS).expect("the requirements are in the repository");
    let version = tokio::process::Command::new("python3").arg("--version").output().await.expect("python3 is there");
    let tag = fingerprint(&[&requirements, &version.stdout]);
    let folder = cache.join(format!("python-{tag}"));
    if folder.exists() {
        return folder;
    }
    // Installed beside and moved into place, so that an interrupted installation is not taken for a whole one.
    let unfinished = cache.join(format!("python-{tag}.{}", std::process::id()));
    let status = tokio::process::Command::new("python3")
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
fn fingerprint(parts: &[&[u8]]) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.iter().flat_map(|part| part.iter()) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{hash:016x}")
}
