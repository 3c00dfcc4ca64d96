//! Where data and fetched programs lie, and who may reach them.

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::process::User;

/// Whether this command runs as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The default data folder: `/var/lib/trunkline` for root, `$XDG_DATA_HOME/trunkline` for a user.
///
/// # Errors
/// When a user has no home folder.
pub fn default_data() -> Result<PathBuf> {
    default("/var/lib/trunkline", "XDG_DATA_HOME", ".local/share")
}

/// The default folder of fetched programs: `/var/cache/trunkline` for root, `$XDG_CACHE_HOME/trunkline` for a user.
///
/// # Errors
/// When a user has no home folder.
pub fn default_cache() -> Result<PathBuf> {
    default("/var/cache/trunkline", "XDG_CACHE_HOME", ".cache")
}

fn default(system: &str, variable: &str, below_home: &str) -> Result<PathBuf> {
    if is_root() {
        return Ok(system.into());
    }
    if let Some(folder) = std::env::var_os(variable).map(PathBuf::from).filter(|folder| folder.is_absolute()) {
        return Ok(folder.join("trunkline"));
    }
    let home = std::env::var_os("HOME")
        .context("neither HOME nor the XDG variables are set; name the folders with --data and --cache")?;
    Ok(Path::new(&home).join(below_home).join("trunkline"))
}

/// Makes a folder that others may pass through but not list when root owns it (PostgreSQL runs as another user), and that is
/// private otherwise. What is secret lies in private folders below it.
///
/// # Errors
/// When it cannot be made or resolved.
pub fn prepare(path: &Path) -> Result<PathBuf> {
    let mode = if is_root() { 0o711 } else { 0o700 };
    // An empty folder was made for us, often by `mktemp --directory`; one with content keeps the rights that its owner gave it.
    let is_new = std::fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none());
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .with_context(|| format!("making the folder {}", path.display()))?;
    if is_new {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    path.canonicalize().with_context(|| format!("resolving {}", path.display()))
}

/// Makes the folder of fetched programs; everybody may read those.
///
/// # Errors
/// When it cannot be made or resolved.
pub fn prepare_cache(path: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(path).with_context(|| format!("making the folder {}", path.display()))?;
    if is_root() {
        open_to_all(path)?;
    }
    path.canonicalize().with_context(|| format!("resolving {}", path.display()))
}

/// Lets everybody read a folder, whatever the umask made of it.
pub(super) fn open_to_all(path: &Path) -> Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        .with_context(|| format!("opening {}", path.display()))
}

/// Refuses a folder that `user` cannot pass through.
///
/// # Errors
/// Says which folder and what to do.
pub fn check_reachable(folder: &Path, user: Option<User>, what: &str) -> Result<()> {
    let Some(user) = user else { return Ok(()) };
    // The system's own judgement, ACLs and mounts included, rather than arithmetic on modes.
    let reachable = |folder: &Path| {
        Command::new("/bin/sh")
            .args(["-c", "cd -- \"$1\"", "sh"])
            .arg(folder)
            .current_dir("/")
            .uid(user.uid)
            .gid(user.gid)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    if reachable(folder) {
        return Ok(());
    }
    let mut blocking = folder;
    for ancestor in folder.ancestors() {
        if reachable(ancestor) {
            break;
        }
        blocking = ancestor;
    }
    bail!(
        "PostgreSQL refuses to run as root and runs as user {} here, which cannot enter {} ({what} {}); choose another folder \
         (by default /var/lib/trunkline and /var/cache/trunkline), or `chmod o+x {}`, or start as an ordinary user",
        user.uid,
        blocking.display(),
        folder.display(),
        blocking.display()
    );
}
