//! The samples in TypeScript, checked and compiled, and run by Node. Their packages are those of the committed lock and kept in the
//! cache between runs, beside what the compiler made.

use std::path::{Path, PathBuf};

use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::broker::User;
use crate::python::{CLIENT_MAX, ended, fingerprint};

/// The samples.
const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/jobs/typescript");

/// What they are made of.
const FILES: [&str; 5] = ["package.json", "package-lock.json", "tsconfig.json", "producer.ts", "worker.ts"];

static COMPILED: OnceCell<PathBuf> = OnceCell::const_new();

/// Runs a sample, named without its ending, as a user of the broker; gives what it prints. Fails the test when it fails, or
/// when its types are not sound.
pub async fn run(cache: &Path, user: &User, sample: &str, arguments: &[&str]) -> String {
    let folder = COMPILED.get_or_init(|| compile(cache)).await;
    let mut command = Command::new("node");
    command.arg(folder.join("dist").join(format!("{sample}.js"))).args(arguments);
    user.hand_to(&mut command);
    ended(&mut command, sample, CLIENT_MAX).await
}

/// Installs the packages and compiles the samples in a folder of the cache named after what they are for, unless it is there.
async fn compile(cache: &Path) -> PathBuf {
    let source = |file: &str| std::fs::read(Path::new(SAMPLES).join(file)).expect("the samples are in the repository");
    let mut parts: Vec<Vec<u8>> = FILES.map(source).to_vec();
    parts.push(Command::new("node").arg("--version").output().await.expect("node is there").stdout);
    let tag = fingerprint(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let folder = cache.join(format!("typescript-{tag}"));
    if folder.exists() {
        return folder;
    }
    // Made beside and moved into place, so that an interrupted one is not taken for a whole one.
    let unfinished = cache.join(format!("typescript-{tag}.{}", std::process::id()));
    std::fs::create_dir_all(&unfinished).expect("the cache can be written");
    for file in FILES {
        std::fs::copy(Path::new(SAMPLES).join(file), unfinished.join(file)).expect("the cache can be written");
    }
    // No scripts of packages: they would be other people's programs, run as whoever runs the tests.
    for (program, arguments) in [
        ("npm", &["ci", "--ignore-scripts", "--no-audit", "--no-fund"][..]),
        ("node", &["node_modules/typescript/bin/tsc"]),
    ] {
        let done = Command::new(program).args(arguments).current_dir(&unfinished).output().await;
        let done = done.unwrap_or_else(|error| panic!("{program} is there: {error}"));
        let said = [done.stdout, done.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
        assert!(done.status.success(), "{program} {arguments:?} failed:\n{}", said.concat());
    }
    if std::fs::rename(&unfinished, &folder).is_err() {
        assert!(folder.exists(), "the cache at {} can be written", cache.display());
        let _left_for_a_person = std::fs::remove_dir_all(&unfinished); // Another process was faster.
    }
    folder
}
